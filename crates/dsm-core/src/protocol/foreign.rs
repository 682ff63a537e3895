//! Recognises other protocols by their first bytes, so that an error can name a wrong port or a
//! wrong program.

use std::fmt;

/// Bytes at the start of a stream by which a protocol is recognised.
pub const PROTOCOL_PREFIX: usize = 4;

/// A peer that speaks another protocol than expected.
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
    /// A TLS server or client.
    Tls,
    /// An SSH server or client.
    Ssh,
}

/// The first bytes of HTTP requests and replies; `PRI ` is HTTP/2.
const HTTP: [&[u8; PROTOCOL_PREFIX]; 11] = [
    b"HTTP", b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"PATC", b"OPTI", b"CONN", b"TRAC",
    b"PRI ",
];

impl Foreign {
    /// The protocol of a stream that begins with these bytes, of which the first [`PROTOCOL_PREFIX`] count;
    /// `None` if it is unknown.
    #[must_use]
    pub fn recognise(first: &[u8]) -> Option<Self> {
        let first: &[u8; PROTOCOL_PREFIX] = first.first_chunk()?;
        match first {
            [b'D', b'Q', ..] => Some(Self::Client),
            [b'D', b'R', ..] => Some(Self::Server),
            [b'D', b'A', ..] => Some(Self::Agent),
            // The record type of a handshake, or of the alert by which a TLS server answers what it
            // does not understand; then the major version.
            [0x15 | 0x16, 3, ..] => Some(Self::Tls),
            b"SSH-" => Some(Self::Ssh),
            _ => HTTP.contains(&first).then_some(Self::Http),
        }
    }
}

/// Explains the two ports that users confuse.
const PORTS_HINT: &str = "In the [[server]] table of mcomp.cfg, `address` is the port of dsmd and `snapshot` that of its agent \
                     (without it, the port after that of dsmd)";

impl fmt::Display for Foreign {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => write!(to, "this is a client of dsmd. {PORTS_HINT}"),
            Self::Server => write!(to, "this is dsmd, not a snapshot agent. {PORTS_HINT}"),
            Self::Agent => write!(to, "this is a snapshot agent or its client. {PORTS_HINT}"),
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
    fn known_protocols_are_recognised_by_their_first_bytes() {
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
