//! What else may speak on a connection: told by its first bytes, so that a wrong port or a wrong
//! program is named.

use std::fmt;

/// Bytes at the start of a stream that tell its protocol.
pub const TELLING: usize = 4;

/// A speaker that is not the peer that belongs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// A client of dsmd.
    Client,
    /// dsmd.
    Server,
    /// dsm-snapshot: an agent, or a program that asks one.
    Agent,
    /// A web server, or a browser.
    Http,
    /// A program that encrypts.
    Tls,
    /// An SSH server or client.
    Ssh,
}

/// What the first bytes of HTTP are, of a request or a reply; `PRI ` is HTTP/2.
const HTTP: [&[u8; TELLING]; 11] = [
    b"HTTP", b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"PATC", b"OPTI", b"CONN", b"TRAC",
    b"PRI ",
];

impl Foreign {
    /// Who begins a stream with these bytes, of which the first [`TELLING`] count; `None` for what
    /// is not known.
    #[must_use]
    pub fn recognise(first: &[u8]) -> Option<Self> {
        let first: &[u8; TELLING] = first.first_chunk()?;
        match first {
            [b'D', b'Q', ..] => Some(Self::Client),
            [b'D', b'R', ..] => Some(Self::Server),
            [b'D', b'A', ..] => Some(Self::Agent),
            // A handshake, or the alert with which a TLS server answers what it does not
            // understand; the major version.
            [0x15 | 0x16, 3, ..] => Some(Self::Tls),
            b"SSH-" => Some(Self::Ssh),
            _ => HTTP.contains(&first).then_some(Self::Http),
        }
    }
}

/// Which two ports are mixed up, and where they stand.
const PORTS: &str = "In the [[server]] table of mcomp.cfg, `address` is the port of dsmd and `snapshot` that of its agent \
                     (without it, the port after that of dsmd)";

impl fmt::Display for Foreign {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => write!(to, "this is a client of dsmd. {PORTS}"),
            Self::Server => write!(to, "this is dsmd, not a snapshot agent. {PORTS}"),
            Self::Agent => write!(to, "this is a snapshot agent or its client. {PORTS}"),
            Self::Http => write!(
                to,
                "this is HTTP, from another service or a browser: check the address and the port"
            ),
            Self::Tls => write!(
                to,
                "this is TLS, which dsm does not speak: check the address and the port"
            ),
            Self::Ssh => write!(to, "this is SSH: check the address and the port"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_protocols_are_told_by_their_first_bytes() {
        for (first, expected) in [
            (&b"DQ\x01\x00"[..], Some(Foreign::Client)),
            (b"DR\x01\x00", Some(Foreign::Server)),
            (b"DA\x01\x01", Some(Foreign::Agent)),
            (b"GET / HTTP/1.1\r\n", Some(Foreign::Http)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(Foreign::Http)),
            (b"PRI * HTTP/2.0\r\n", Some(Foreign::Http)),
            (b"\x16\x03\x01\x02\x00", Some(Foreign::Tls)),
            (b"\x15\x03\x03\x00\x02\x02\x32", Some(Foreign::Tls)),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", Some(Foreign::Ssh)),
            (b"GETS", None),
            (b"\x16\x04\x01\x02", None),
            (b"DA", None),
            (b"", None),
        ] {
            assert_eq!(Foreign::recognise(first), expected, "{first:02x?}");
        }
    }
}
