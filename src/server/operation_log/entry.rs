//! A line of the operation log. No I/O.

use dsm_core::protocol::{Code, Opcode};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// The last second that RFC 3339 can show, in seconds since 1970: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// One executed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationLogEntry {
    /// When it was executed.
    pub time: SystemTime,
    /// The client that requested it.
    pub client: SocketAddr,
    /// The operation.
    pub opcode: Opcode,
    /// The address of the first byte; of a copy, that of its destination.
    pub address: u64,
    /// The length in bytes.
    pub length: u64,
    /// 0 for success, else the number of the refusal's [`Code`].
    pub outcome: u16,
    /// The time that the server took, in microseconds.
    pub microseconds: u32,
}

impl OperationLogEntry {
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
        // Formatting into a string cannot fail, and the time is printable: no half line is left.
        if written.is_err() {
            text.truncate(start);
        }
        text.push('\n');
    }
}

/// Clamps the time to the years that RFC 3339 can show: a wrong clock must not cost the line, and
/// humantime panics before 1970.
fn printable(time: SystemTime) -> humantime::Rfc3339Timestamp {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    humantime::format_rfc3339_micros(time.clamp(SystemTime::UNIX_EPOCH, last))
}

/// Shows an IPv4 client of a dual-stack socket as an IPv4 address.
fn canonical(client: SocketAddr) -> SocketAddr {
    match client.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), client.port()),
        // Unchanged, since `to_canonical` drops the scope: fe80::1%2.
        IpAddr::V6(_) => client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> OperationLogEntry {
        OperationLogEntry {
            time: humantime::parse_rfc3339("2026-11-23T04:00:00.123456Z").unwrap(),
            client: "10.0.0.5:51234".parse().unwrap(),
            opcode: Opcode::Write,
            address: 0x1000,
            length: 512,
            outcome: 0,
            microseconds: 13,
        }
    }

    fn line(entry: &OperationLogEntry) -> String {
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
        let text = line(&OperationLogEntry {
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
            let text = line(&OperationLogEntry {
                outcome: code as u16,
                ..entry()
            });
            assert_eq!(
                text.split_ascii_whitespace().nth(5),
                Some(code.name()),
                "{text}"
            );
        }
        let text = line(&OperationLogEntry {
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
            let text = line(&OperationLogEntry { time, ..entry() });
            assert_eq!(text.split_ascii_whitespace().count(), 7, "{text}");
        }
    }

    #[test]
    fn clients_on_a_dual_stack_socket_are_shown_with_their_own_addresses() {
        for (client, shown) in [
            ("[::ffff:10.0.0.5]:9", "10.0.0.5:9"),
            ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ] {
            let text = line(&OperationLogEntry {
                client: client.parse().unwrap(),
                ..entry()
            });
            assert_eq!(text.split_ascii_whitespace().nth(1), Some(shown), "{text}");
        }
    }
}
