//! Finds which server of the network map runs on this machine.

use super::{Config, Endpoint, Host};
use dsm_core::net::LOOK_UP_TIMEOUT;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

/// The most items that an error lists.
const MAX_LISTED: usize = 16;

/// Why dsmd cannot determine which server of the map runs on this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// `--index` is past the end of the map.
    #[error("--index is {index}, but {} has {}", .path.display(), indexes(*.n))]
    Range {
        /// The value of `--index`.
        index: usize,
        /// The number of servers.
        n: usize,
        /// The file with the map.
        path: PathBuf,
    },
    /// No server of the map has an address of this machine.
    #[error(
        "no server in {} has an address of this machine, which has {own}{unresolved}: correct the map, or say with --index \
         which server this is", .path.display()
    )]
    None {
        /// The file with the map.
        path: PathBuf,
        /// This machine's addresses.
        own: String,
        /// The host names that could not be resolved, and why; empty when there are none.
        unresolved: String,
    },
    /// Several servers of the map have an address of this machine.
    #[error("this machine has the addresses of {matches} in {}: say with --index which of them this is", .path.display())]
    Several {
        /// The file with the map.
        path: PathBuf,
        /// Those servers.
        matches: String,
    },
    /// The operating system did not list the addresses of this machine.
    #[error("cannot list this machine's addresses: {0}: say with --index which server this is")]
    Interfaces(io::Error),
}

fn indexes(n: usize) -> String {
    if n == 1 {
        "1 server: it must be 0".to_owned()
    } else {
        format!("{n} servers: it must be 0 to {}", n - 1)
    }
}

/// A server of the map, with its IP addresses or the reason why they are unknown.
struct Candidate {
    address: Endpoint,
    found: Result<Vec<IpAddr>, String>,
}

/// The index of the server that runs on this machine: `flag` when given, else that of the one
/// server with an address of this machine. Resolves all host names at the same time, and blocks for
/// five seconds at most.
///
/// # Errors
/// When `flag` is past the end of the map; without a `flag`, when no server or more than one has an
/// address of this machine, and when the operating system does not list its addresses.
pub fn own_index(config: &Config, flag: Option<usize>) -> Result<usize, IdentityError> {
    let (path, n) = (config.path.clone(), config.layout.server_count());
    if let Some(index) = flag {
        return if index < n {
            Ok(index)
        } else {
            Err(IdentityError::Range { index, n, path })
        };
    }
    let own = interface_addresses().map_err(IdentityError::Interfaces)?;
    let looked_up: Vec<_> = config
        .servers
        .iter()
        .map(|server| (&server.address, server.address.look_up()))
        .collect();
    let deadline = Instant::now() + LOOK_UP_TIMEOUT;
    let candidates: Vec<Candidate> = looked_up
        .into_iter()
        .map(|(address, look_up)| Candidate::new(address, look_up.wait(deadline)))
        .collect();
    choose(&candidates, &own, path)
}

impl Candidate {
    fn new(address: &Endpoint, found: io::Result<Vec<SocketAddr>>) -> Self {
        let found = found.map_err(|error| error.to_string()).map(|sockets| {
            let ips = sockets.into_iter();
            ips.map(|socket| socket.ip().to_canonical()).collect()
        });
        Self {
            address: address.clone(),
            found,
        }
    }
}

fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut own = Vec::new();
    for address in nix::ifaddrs::getifaddrs()?.filter_map(|interface| interface.address) {
        if let Some(address) = address.as_sockaddr_in() {
            own.push(IpAddr::V4(address.ip()));
        } else if let Some(address) = address.as_sockaddr_in6() {
            own.push(IpAddr::V6(address.ip()));
        }
    }
    Ok(own)
}

/// The index of the one candidate with an address in `own` or a loopback address. Every loopback
/// address is this machine's, though the interface lists only one of 127.0.0.0/8: Debian gives a
/// machine's own name the address 127.0.1.1.
fn choose(candidates: &[Candidate], own: &[IpAddr], path: PathBuf) -> Result<usize, IdentityError> {
    let is_own = |ip: &IpAddr| ip.is_loopback() || own.contains(ip);
    let matching = |candidate: &Candidate| {
        candidate
            .found
            .as_ref()
            .is_ok_and(|found| found.iter().any(is_own))
    };
    let matches: Vec<usize> = (0..candidates.len())
        .filter(|index| matching(&candidates[*index]))
        .collect();
    match matches[..] {
        [index] => Ok(index),
        [] => {
            let unresolved = list(candidates.iter().filter_map(|candidate| {
                let Host::Name(name) = candidate.address.host() else {
                    return None;
                };
                Some(format!("{name}: {}", candidate.found.as_ref().err()?))
            }));
            let unresolved = if unresolved.is_empty() {
                unresolved
            } else {
                format!("; could not be resolved: {unresolved}")
            };
            Err(IdentityError::None {
                path,
                own: list(own.iter().map(IpAddr::to_string)),
                unresolved,
            })
        }
        _ => {
            let name = |index: &usize| format!("server {index} ({})", candidates[*index].address);
            Err(IdentityError::Several {
                path,
                matches: list(matches.iter().map(name)),
            })
        }
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.take(MAX_LISTED + 1).collect();
    if items.len() > MAX_LISTED {
        items.truncate(MAX_LISTED);
        items.push("...".to_owned());
    }
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn candidate(address: &str, found: &[&str]) -> Candidate {
        let found = found.iter().map(|ip| ip.parse().unwrap()).collect();
        Candidate {
            address: address.parse().unwrap(),
            found: Ok(found),
        }
    }

    fn chosen(candidates: &[Candidate], own: &[&str]) -> Result<usize, String> {
        let own: Vec<IpAddr> = own.iter().map(|ip| ip.parse().unwrap()).collect();
        choose(candidates, &own, PathBuf::from("mcomp.cfg")).map_err(|error| error.to_string())
    }

    fn three() -> [Candidate; 3] {
        let unresolved = Candidate {
            address: "c:1".parse().unwrap(),
            found: Err("not known".to_owned()),
        };
        [
            candidate("10.0.0.1:1", &["10.0.0.1"]),
            candidate("b:1", &["10.0.0.2", "fd00::2"]),
            unresolved,
        ]
    }

    #[test]
    fn the_only_server_with_an_address_of_this_machine_is_this_one() {
        assert_eq!(chosen(&three(), &["127.0.0.1", "10.0.0.1"]), Ok(0));
        assert_eq!(
            chosen(&three(), &["127.0.0.1", "fd00::2", "10.0.0.2"]),
            Ok(1)
        );
        assert_eq!(
            chosen(&[candidate("a:1", &["127.0.1.1"])], &["127.0.0.1"]),
            Ok(0)
        );
    }

    #[test]
    fn no_match_lists_the_addresses_of_this_machine_and_the_unresolved_names() {
        assert_eq!(
            chosen(&three(), &["127.0.0.1", "10.0.0.9"]).unwrap_err(),
            "no server in mcomp.cfg has an address of this machine, which has 127.0.0.1, 10.0.0.9; could not be resolved: \
             c: not known: correct the map, or say with --index which server this is"
        );
        assert!(
            !chosen(&three()[..2], &["10.0.0.9"])
                .unwrap_err()
                .contains("resolved")
        );
    }

    #[test]
    fn several_matches_ask_for_the_index() {
        let servers = [
            candidate("127.0.0.1:1", &["127.0.0.1"]),
            candidate("[::1]:2", &["::1"]),
        ];
        assert_eq!(
            chosen(&servers, &["127.0.0.1", "::1"]).unwrap_err(),
            "this machine has the addresses of server 0 (127.0.0.1:1), server 1 ([::1]:2) in mcomp.cfg: say with --index \
             which of them this is"
        );
        let many: Vec<Candidate> = (1..40)
            .map(|port| candidate(&format!("[::1]:{port}"), &["::1"]))
            .collect();
        assert!(
            chosen(&many, &[])
                .unwrap_err()
                .contains("server 15 ([::1]:16), ... in")
        );
    }

    #[test]
    fn the_flag_decides_if_it_is_in_range() {
        let text =
            "k = 4096\nn = 2\nserver = [{ address = \"[::1]:1\" }, { address = \"[::1]:2\" }]\n";
        let config = Config::parse(text, Path::new("mcomp.cfg")).unwrap();
        assert_eq!(own_index(&config, Some(1)).unwrap(), 1);
        assert!(matches!(
            own_index(&config, None),
            Err(IdentityError::Several { .. })
        ));
        assert_eq!(
            own_index(&config, Some(2)).unwrap_err().to_string(),
            "--index is 2, but mcomp.cfg has 2 servers: it must be 0 to 1"
        );
    }

    #[test]
    fn localhost_is_this_machine() {
        let text = "k = 4096\nn = 2\nserver = [{ address = \"192.0.2.1:1\" }, { address = \"localhost:1\" }]\n";
        assert_eq!(
            own_index(&Config::parse(text, Path::new("mcomp.cfg")).unwrap(), None).unwrap(),
            1
        );
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        assert!(
            interface_addresses()
                .unwrap()
                .iter()
                .any(IpAddr::is_loopback)
        );
    }
}
