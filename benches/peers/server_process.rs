//! What the kernel says of the server that is measured.

use std::str::FromStr;

/// At one instant.
pub(crate) struct ServerProcess {
    /// Processor time, of user and system, in ticks of the kernel's clock.
    pub(crate) ticks: u64,
    pub(crate) threads: u64,
    /// Bytes of memory of its own and of page tables, without what is shared.
    pub(crate) anonymous: u64,
}

impl ServerProcess {
    pub(crate) fn look(pid: u32) -> Result<Self, String> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        // After the name, which may hold anything: proc(5) counts from 1, and the first of these is
        // the third.
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
        .ok_or_else(|| format!("/proc/PID/{file} lacks a number"))
}
