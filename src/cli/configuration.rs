//! `dsmctl config check` and `dsmctl config show`.

use super::arguments::Global;
use super::failure::Failure;
use super::human;
use super::output;
use super::servers::ask_each;
use super::session::load;
use super::table::{self, Align};
use dsm_config::{Address, Config, IdentityError, OperationLogMode, check_capacity, own_index};
use dsm_core::segment;
use dsm_core::sys::memory_limit;
use nix::unistd::Group;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

/// The bits of a file's mode: those that chmod(1) sets, and those that let others read.
const MODE: u32 = 0o7777;
const READABLE_BY_GROUP: u32 = 0o040;
const READABLE_BY_OTHERS: u32 = 0o004;

/// The group of the packaged units.
const GROUP_OF_SERVICES: &str = "dsm";

/// Checks the file, and this machine if it is in the map. What only dsmd refuses is a warning here:
/// the file may be on its way to other machines.
pub(super) fn check(global: &Global) -> Result<(), Failure> {
    let config = load(global)?;
    let layout = &config.layout;
    // Several servers of one map run here when all have loopback addresses.
    if matches!(
        own_index(&config, None),
        Ok(_) | Err(IdentityError::Several { .. })
    ) {
        check_capacity(&config, segment::overhead(layout.k()))?;
    }
    let warnings = warnings(&config);
    for warning in &warnings {
        output::complain(format_args!("warning: {warning}"));
    }
    let file = config.path.display().to_string();
    if global.json {
        return output::print_json(&json!({
            "file": file, "name": layout.name(), "k": layout.k(), "n": layout.n(), "size": layout.size(),
            "fingerprint": layout.fingerprint().to_string(), "warnings": warnings,
        }));
    }
    output::print(&format!(
        "{file}: ok ({}, a memory of {}, fingerprint {})\n",
        human::servers(layout),
        human::bytes(layout.size()),
        layout.fingerprint()
    ))
}

/// What is no mistake in the file, and yet stands in the way of dsmd or of clients.
fn warnings(config: &Config) -> Vec<String> {
    untrusted(config)
        .into_iter()
        .chain(names(config))
        .chain(log_directory(config))
        .chain(unreadable(config))
        .chain(memory(config))
        .collect()
}

/// The first address that dsmd will refuse, and how many more there are: all have one cause.
fn untrusted(config: &Config) -> Option<String> {
    let mut untrusted = (0..config.layout.n()).filter_map(|index| config.untrusted_address(index));
    let first = untrusted.next()?;
    let others = match untrusted.count() {
        0 => String::new(),
        others => format!(" (likewise {others} more)"),
    };
    Some(format!("{first}{others}"))
}

/// The addresses whose host name this machine cannot resolve, or knows as one that no other machine
/// can reach.
fn names(config: &Config) -> Vec<String> {
    let mut addresses = Vec::new();
    for (index, server) in config.servers.iter().enumerate() {
        addresses.push((
            format!("server.{index}.address"),
            format!("server {index}"),
            &server.address,
        ));
        // What is the matter with a name is said once.
        if let Some(agent) = server
            .snapshot
            .as_ref()
            .filter(|agent| agent.host() != server.address.host())
        {
            addresses.push((
                format!("server.{index}.snapshot"),
                format!("the snapshot agent of server {index}"),
                agent,
            ));
        }
    }
    let all: Vec<usize> = (0..addresses.len()).collect();
    let found = ask_each(&all, |position| addresses[position].2.resolve());
    let warning = |((key, who, address), found): (
        (String, String, &Address),
        io::Result<Vec<SocketAddr>>,
    )| {
        let place = place(config, &key);
        match found {
            Ok(found) => Some(format!("{place}: {}", address.only_loopback(&found)?)),
            Err(error) => Some(format!(
                "{place}: the host name of {who} ({address}) cannot be resolved on this machine: {error}"
            )),
        }
    };
    addresses
        .into_iter()
        .zip(found)
        .filter_map(warning)
        .collect()
}

/// A folder for the operation log that is not there.
fn log_directory(config: &Config) -> Option<String> {
    let directory = &config.log.directory;
    if config.log.operations == OperationLogMode::Off || directory.is_dir() {
        return None;
    }
    let place = place(config, "log.operations");
    let directory = directory.display();
    Some(format!(
        "{place}: the operation log is to be in {directory}, which is no folder on this machine: create it where dsmd runs"
    ))
}

/// A file that the services of the package cannot read. Root can, and would find it good.
fn unreadable(config: &Config) -> Option<String> {
    let status = std::fs::metadata(&config.path).ok()?;
    let group = || Group::from_gid(status.gid().into()).ok().flatten();
    let is_services = || group().is_some_and(|group| group.name == GROUP_OF_SERVICES);
    if status.mode() & READABLE_BY_OTHERS != 0
        || status.mode() & READABLE_BY_GROUP != 0 && is_services()
    {
        return None;
    }
    let (path, mode) = (config.path.display(), status.mode() & MODE);
    Some(format!(
        "{path}: the mode of this file is {mode:04o}, with which dsmd, dsm-snapshot and programs of other users may not read \
         it: chmod 644 {path}. It holds no secrets"
    ))
}

/// A k that is more than the memory that a process here may use. A server of this machine may have
/// another limit, and its segment may be there already.
fn memory(config: &Config) -> Option<String> {
    let k = config.layout.k();
    let needed = k
        .saturating_add(segment::overhead(k))
        .saturating_add(segment::OWN_MEMORY);
    let is_here = matches!(
        own_index(config, None),
        Ok(_) | Err(IdentityError::Several { .. })
    );
    let limit = memory_limit::of_this_process().filter(|limit| is_here && limit.bytes < needed)?;
    Some(format!(
        "{}: a segment of this k needs {needed} bytes of memory with its tables and dsmd, but {} allows {} bytes: a dsmd with \
         this limit cannot make one. Make k smaller, or allow more (MemoryMax= of the unit, the memory of the container)",
        place(config, "k"),
        limit.source,
        limit.bytes
    ))
}

fn place(config: &Config, key: &str) -> String {
    let place = config.place(key);
    format!("{}:{}:{}", config.path.display(), place.line, place.column)
}

pub(super) fn show(global: &Global) -> Result<(), Failure> {
    let config = load(global)?;
    let (file, settings) = (config.path.display().to_string(), config.settings());
    if global.json {
        let rows: Vec<Value> = settings
            .iter()
            .map(|setting| {
                let line = setting.origin.line();
                let origin = if line.is_some() { "file" } else { "default" };
                json!({ "key": setting.key, "value": setting.value, "origin": origin, "line": line })
            })
            .collect();
        return output::print_json(&json!({ "file": file, "settings": rows }));
    }
    let rows: Vec<Vec<String>> = settings
        .into_iter()
        .map(|setting| {
            let origin = match setting.origin.line() {
                None => "default".to_owned(),
                Some(line) => format!("line {line}"),
            };
            vec![setting.key, setting.value, origin]
        })
        .collect();
    output::print(&format!(
        "# {file}\n{}",
        table::render(&[Align::Left, Align::Left, Align::Left], &rows)
    ))
}
