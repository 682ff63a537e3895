//! A line of the operation log. Pure.

use dsm_core::protocol::{Code, Opcode};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// The last second that RFC 3339 can show, in seconds since 1970: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// One operation, as a connection's thread knows it when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When it was done.
    pub time: SystemTime,
    /// Who asked for it.
    pub client: SocketAddr,
    /// What was asked.
    pub opcode: Opcode,
    /// The first byte, as an address in the memory; of a copy, where the bytes go.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// 0 for success, else the number of the refusal's [`Code`].
    pub outcome: u16,
    /// How long it took the server, in microseconds.
    pub microseconds: u32,
}

impl Entry {
    /// Appends the line:
    ///
    /// ```text
    /// 2026-11-23T04:00:00.123456Z 10.0.0.5:51234 write 0x0000000000001000 512 ok 13
    /// ```
    ///
    /// Seven fields, a single space between them: the time in UTC (RFC 3339, always six digits of a
    /// second), the client, the operation, the address in hexadecimal with sixteen digits, the
    /// length in bytes, `ok` or the name of the refusal, the microseconds. dsmd(8) promises this
    /// format.
    pub(super) fn append_to(&self, text: &mut String) {
        let time = printable(self.time);
        let client = canonical(self.client);
        let (name, address, length) = (self.opcode.name(), self.address, self.length);
        let start = text.len();
        let microseconds = self.microseconds;
        let written = match (self.outcome, Code::from_number(self.outcome)) {
            (0, _) => write!(
                text,
                "{time} {client} {name} {address:#018x} {length} ok {microseconds}"
            ),
            (_, Some(code)) => {
                write!(
                    text,
                    "{time} {client} {name} {address:#018x} {length} {} {microseconds}",
                    code.name()
                )
            }
            (number, None) => write!(
                text,
                "{time} {client} {name} {address:#018x} {length} {number} {microseconds}"
            ),
        };
        // A string takes everything, and the time was made printable: half a line cannot happen.
        if written.is_err() {
            text.truncate(start);
        }
        text.push('\n');
    }
}

/// The time, moved into the years that have a printed form: a wrong clock must not cost the line,
/// and humantime panics before 1970.
fn printable(time: SystemTime) -> humantime::Rfc3339Timestamp {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    humantime::format_rfc3339_micros(time.clamp(SystemTime::UNIX_EPOCH, last))
}

/// An IPv4 client of a socket that listens on IPv6 and IPv4 is shown as the IPv4 client that it is.
fn canonical(client: SocketAddr) -> SocketAddr {
    match client.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), client.port()),
        // As it was, with its scope: fe80::1%2.
        IpAddr::V6(_) => client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            time: humantime::parse_rfc3339("2026-11-23T04:00:00.123456Z").unwrap(),
            client: "10.0.0.5:51234".parse().unwrap(),
            opcode: Opcode::Write,
            address: 0x1000,
            length: 512,
            outcome: 0,
            microseconds: 13,
        }
    }

    fn line(entry: &Entry) -> String {
        let mut text = String::new();
        entry.append_to(&mut text);
        text
    }

    #[test]
    fn a_line_has_seven_fields_in_the_documented_form() {
        assert_eq!(
            line(&entry()),
            "2026-11-23T04:00:00.123456Z 10.0.0.5:51234 write 0x0000000000001000 512 ok 13\n"
        );
        let whole_second = humantime::parse_rfc3339("2026-11-23T04:00:00Z").unwrap();
        let text = line(&Entry {
            time: whole_second,
            address: u64::MAX,
            opcode: Opcode::FetchAdd,
            ..entry()
        });
        assert_eq!(
            text,
            "2026-11-23T04:00:00.000000Z 10.0.0.5:51234 fetch-add 0xffffffffffffffff 512 ok 13\n"
        );
    }

    #[test]
    fn a_refusal_is_named() {
        for &code in Code::ALL {
            let text = line(&Entry {
                outcome: code as u16,
                ..entry()
            });
            assert_eq!(
                text.split_ascii_whitespace().nth(5),
                Some(code.name()),
                "{text}"
            );
        }
        let text = line(&Entry {
            outcome: 999,
            ..entry()
        });
        assert_eq!(text.split_ascii_whitespace().nth(5), Some("999"), "{text}");
    }

    #[test]
    fn a_wrong_clock_costs_no_line() {
        for time in [
            SystemTime::UNIX_EPOCH - Duration::from_secs(1),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60),
            SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 1),
        ] {
            let text = line(&Entry { time, ..entry() });
            assert_eq!(text.split_ascii_whitespace().count(), 7, "{text}");
        }
    }

    #[test]
    fn clients_are_shown_as_what_they_are() {
        for (client, shown) in [
            ("[::ffff:10.0.0.5]:9", "10.0.0.5:9"),
            ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ] {
            let text = line(&Entry {
                client: client.parse().unwrap(),
                ..entry()
            });
            assert_eq!(text.split_ascii_whitespace().nth(1), Some(shown), "{text}");
        }
    }
}
