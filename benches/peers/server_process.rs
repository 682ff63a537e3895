//! Processor time, threads and memory of the measured server, from /proc.

use std::str::FromStr;

/// The server process at one instant.
pub(crate) struct ServerProcess {
    /// Processor time (user and system) in clock ticks.
    pub(crate) ticks: u64,
    pub(crate) threads: u64,
    /// Bytes of anonymous memory and of page tables, without shared memory.
    pub(crate) anonymous: u64,
}

impl ServerProcess {
    pub(crate) fn look(pid: u32) -> Result<Self, String> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        // The name may contain any characters, so the fields begin after the last parenthesis.
        // proc(5) counts from 1, and the first field here is its third.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let field = |number: usize| number_of(fields.get(number - 3).copied(), "stat");
        let line = |name| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"))
        };
        let kilobytes = |name| number_of(line(name), "status");
        Ok(Self {
            ticks: field(14)? + field(15)?,
            threads: field(20)?,
            anonymous: (kilobytes("RssAnon:")? + kilobytes("VmPTE:")?) * 1024,
        })
    }
}

fn number_of(text: Option<&str>, file: &str) -> Result<u64, String> {
    text.and_then(|text| u64::from_str(text.trim()).ok())
        .ok_or_else(|| format!("/proc/PID/{file} has no such number"))
}
