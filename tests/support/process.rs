//! What the kernel says of a process.

/// A number from `/proc/PID/status`; sizes are in bytes there where the kernel gives kB.
pub(crate) fn status_field(pid: u32, field: &str) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let mut words = line.unwrap_or_else(|| panic!("{path} has no {field}")).split_whitespace();
    let number: u64 = words.next().and_then(|word| word.parse().ok()).expect("a number");
    number * if words.next() == Some("kB") { 1024 } else { 1 }
}
