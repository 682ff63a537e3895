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

/// The state of a process as `proc_pid_stat(5)` has it, such as `T` for stopped; `Z` also when there is none.
pub(crate) fn state(pid: u32) -> char {
    // After the last parenthesis, for the name may have any characters.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('Z')
}

/// Where in the kernel each thread of a process waits, as `proc_pid_wchan(5)` has it.
pub(crate) fn places(pid: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| std::fs::read_to_string(thread.path().join("wchan")).unwrap_or_default()).collect()
}
