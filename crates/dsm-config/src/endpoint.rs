//! An endpoint of the network map, `host:port`: checked, not resolved.

use dsm_core::net::{self, LOOK_UP_TIMEOUT, Resolution};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Instant;

/// The longest host name, in bytes (RFC 1035).
const MAX_HOST: usize = 253;

/// The longest label of a host name, the part between two dots, in bytes (RFC 1035).
const MAX_LABEL: usize = 63;

/// The host of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A host name, in lower case.
    Name(String),
}

/// A host and a port. Each endpoint has exactly one text, so that equal endpoints have equal texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: Host,
    port: u16,
}

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The text is empty.
    #[error("it is empty: write \"host:port\"")]
    Empty,
    /// The text is a URL.
    #[error("an address has no \"://\": write {0:?}")]
    Scheme(String),
    /// An IPv6 address with a scope, which means a different machine on each machine.
    #[error(
        "an address with a scope, after \"%\", is not the same on every machine: give one without, as in \"[fd00::1]:7411\""
    )]
    Scope,
    /// A link-local IPv6 address: it needs a scope, which differs from machine to machine.
    #[error(
        "{0} is a link-local address, which means a different machine on each link: give one that is the same on every \
         machine, as in \"[fd00::1]:7411\" (ip -6 address show scope global), or a host name"
    )]
    LinkLocal(Ipv6Addr),
    /// There is no port.
    #[error("the port is missing: write {0:?}")]
    PortMissing(String),
    /// The port is not a number that a client can connect to.
    #[error("the port is {0:?}: it must be 1 to 65535")]
    Port(String),
    /// An IPv6 address without brackets: its last group cannot be told from the port.
    #[error("write an IPv6 address in brackets, as in \"[fd00::1]:7411\"")]
    Brackets,
    /// The host is neither a host name nor an IP address.
    #[error("{0:?} is not a host name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
    /// An unspecified, multicast or broadcast address, which stands for no single machine.
    #[error("{0} does not name one machine: give the address that the others connect to")]
    NotOneMachine(IpAddr),
    /// The endpoint has a shorter or usual text. A second one would hide a duplicate in the map.
    #[error("write it as {0:?}")]
    Form(String),
}

impl Endpoint {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The TCP port, 1 to 65535.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with the next port; `None` after the last one.
    #[must_use]
    pub fn next_port(&self) -> Option<Self> {
        Some(Self {
            host: self.host.clone(),
            port: self.port.checked_add(1)?,
        })
    }

    /// Whether only this machine can reach it. `localhost` is the only host name that counts: the
    /// addresses of any other may change.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name == "localhost",
        }
    }

    /// The socket addresses that it stands for now. Asks the resolver for a host name, and blocks
    /// for five seconds at most.
    ///
    /// # Errors
    /// When the name is not resolved.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        self.look_up().wait(Instant::now() + LOOK_UP_TIMEOUT)
    }

    /// Begins to resolve it.
    pub(super) fn look_up(&self) -> Resolution {
        net::resolve(&self.to_string())
    }
}

impl Endpoint {
    /// A warning about a host name that resolves to `found`, if these are loopback addresses only.
    /// Debian's /etc/hosts does that to a machine's own name, and no other machine can reach it.
    #[must_use]
    pub fn loopback_warning(&self, found: &[SocketAddr]) -> Option<String> {
        let Host::Name(name) = &self.host else {
            return None;
        };
        let ips: Vec<IpAddr> = found
            .iter()
            .map(|address| address.ip().to_canonical())
            .collect();
        if self.is_loopback() || ips.is_empty() || !ips.iter().all(IpAddr::is_loopback) {
            return None;
        }
        let ips = ips
            .iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .join(" and ");
        Some(format!(
            "the host name {name} is {ips} on this machine, which no other machine can reach: correct its line in /etc/hosts, \
             where Debian writes 127.0.1.1 for a machine's own name, or give an IP address in the map"
        ))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => write!(formatter, "{}", SocketAddr::new(*ip, self.port)),
            Host::Name(name) => write!(formatter, "{name}:{}", self.port),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if let Some((_, rest)) = text.split_once("://") {
            return Err(EndpointError::Scheme(rest.trim_end_matches('/').to_owned()));
        }
        let missing = || EndpointError::PortMissing(format!("{}:7411", text.trim_end_matches(':')));
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (inside, rest) = rest.split_once(']').ok_or(EndpointError::Brackets)?;
            if inside.contains('%') {
                return Err(EndpointError::Scope);
            }
            let ip: Ipv6Addr = inside
                .parse()
                .map_err(|_| EndpointError::Host(inside.to_owned()))?;
            (
                Host::Ip(ip.to_canonical()),
                rest.strip_prefix(':').ok_or_else(missing)?,
            )
        } else {
            let (host, port) = text.rsplit_once(':').ok_or_else(missing)?;
            if host.contains(':') {
                return Err(EndpointError::Brackets);
            }
            (parse_host(host)?, port)
        };
        if port.is_empty() {
            return Err(missing());
        }
        let port = match port.parse() {
            Ok(number) if number != 0 => number,
            _ => return Err(EndpointError::Port(port.to_owned())),
        };
        if let Host::Ip(ip) = host
            && (ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST))
        {
            return Err(EndpointError::NotOneMachine(ip));
        }
        if let Host::Ip(IpAddr::V6(ip)) = host
            && ip.is_unicast_link_local()
        {
            return Err(EndpointError::LinkLocal(ip));
        }
        let address = Self { host, port };
        let form = address.to_string();
        if form == text {
            Ok(address)
        } else {
            Err(EndpointError::Form(form))
        }
    }
}

fn parse_host(host: &str) -> Result<Host, EndpointError> {
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label.chars().all(letter)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // The resolver reads "10.1" and "0x7f.1" as IPv4 addresses, so a name whose last label is a
    // number is a typing error.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if host.len() > MAX_HOST || numeric || !host.split('.').all(label) {
        return Err(EndpointError::Host(host.to_owned()));
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        text.parse::<Endpoint>().map_or_else(
            |error| error.to_string(),
            |address| panic!("{text} gave {address}"),
        )
    }

    #[test]
    fn host_names_ipv4_and_ipv6_addresses_are_accepted() {
        for text in [
            "10.0.0.1:7411",
            "[fd00::1]:7411",
            "[::1]:1",
            "localhost:65535",
            "node-1.example.org:7411",
            "3f_2:80",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_other_text_is_refused_with_a_hint() {
        let missing = ["10.0.0.1", "10.0.0.1:", "node1", "[::1]", "[::1]:"];
        for text in missing {
            assert!(
                error(text).starts_with("the port is missing: write "),
                "{text}: {}",
                error(text)
            );
        }
        assert_eq!(error("[::1]"), "the port is missing: write \"[::1]:7411\"");
        assert_eq!(error("node1:"), "the port is missing: write \"node1:7411\"");
        for port in ["0", "65536", "-1", "http", " 7411", "7411 "] {
            assert_eq!(
                error(&format!("node1:{port}")),
                format!("the port is {port:?}: it must be 1 to 65535")
            );
        }
        for text in ["fd00::1:7411", "::1", "[::1:7411"] {
            assert_eq!(error(text), EndpointError::Brackets.to_string(), "{text}");
        }
        let long = "a".repeat(64);
        for host in [
            "",
            "10.0.0.256",
            "10.1",
            "127.0x1",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a.",
            "ä",
            "http//a",
            &long,
        ] {
            assert_eq!(
                error(&format!("{host}:1")),
                EndpointError::Host(host.to_owned()).to_string()
            );
        }
        assert_eq!(error("[fe80::1%eth0]:1"), EndpointError::Scope.to_string());
        for host in ["fe80::1", "fe80::f:1", "febf::1"] {
            assert!(
                error(&format!("[{host}]:1"))
                    .starts_with(&format!("{host} is a link-local address")),
                "{host}"
            );
        }
        assert_eq!(
            error("tcp://node1:7411/"),
            "an address has no \"://\": write \"node1:7411\""
        );
        assert_eq!(error(""), EndpointError::Empty.to_string());
        for host in [
            "0.0.0.0",
            "[::]",
            "224.0.0.1",
            "255.255.255.255",
            "[ff02::1]",
        ] {
            assert!(
                error(&format!("{host}:1")).contains("does not name one machine"),
                "{host}"
            );
        }
    }

    #[test]
    fn an_endpoint_has_exactly_one_text() {
        for (text, form) in [
            ("Node1:7411", "node1:7411"),
            ("node1:07411", "node1:7411"),
            ("node1:+7411", "node1:7411"),
            ("[0:0::1]:7411", "[::1]:7411"),
            ("[FD00::1]:7411", "[fd00::1]:7411"),
            ("[::ffff:10.0.0.1]:7411", "10.0.0.1:7411"),
        ] {
            assert_eq!(error(text), format!("write it as {form:?}"));
        }
    }

    #[test]
    fn only_localhost_and_loopback_addresses_are_loopback() {
        for (text, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("node1:1", false),
        ] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap().is_loopback(),
                loopback,
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_with_loopback_addresses_only_is_reported() {
        let of = |address: &str, ips: &[&str]| {
            let found: Vec<SocketAddr> = ips
                .iter()
                .map(|ip| SocketAddr::new(ip.parse().unwrap(), 1))
                .collect();
            address
                .parse::<Endpoint>()
                .unwrap()
                .loopback_warning(&found)
        };
        let warning = of("node1:1", &["127.0.1.1", "::1"]).unwrap();
        assert!(
            warning.starts_with("the host name node1 is 127.0.1.1 and ::1 on this machine"),
            "{warning}"
        );
        for (address, ips) in [
            ("node1:1", &["127.0.1.1", "10.0.0.1"][..]),
            ("node1:1", &[]),
            ("localhost:1", &["127.0.0.1"]),
            ("[::1]:1", &["::1"]),
        ] {
            assert_eq!(of(address, ips), None, "{address}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_text_is_short_enough_for_a_layout(text in "[a-zA-Z0-9.:\\[\\]-]{0,300}") {
            if let Ok(address) = text.parse::<Endpoint>() {
                prop_assert!(text.len() <= dsm_core::layout::MAX_ADDRESS_TEXT);
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}
