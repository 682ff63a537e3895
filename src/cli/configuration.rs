//! `dsmctl config check`: validates mcomp.cfg and warns of what would stop dsmd or clients.
//! `dsmctl config show`: prints the values in effect.

use super::arguments::GlobalOptions;
use super::context::load;
use super::failure::CliFailure;
use super::human;
use super::output;
use super::servers::ask_each;
use super::table::{self, Align};
use dsm_config::{Config, Endpoint, IdentityError, OperationLogMode, check_capacity, own_index};
use dsm_core::segment;
use dsm_core::sys::memory_limit;
use nix::unistd::Group;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

/// The bits of a file's mode that chmod(1) sets, and those that allow reading.
const MODE: u32 = 0o7777;
const READABLE_BY_GROUP: u32 = 0o040;
const READABLE_BY_OTHERS: u32 = 0o004;

/// The group of the packaged units.
const GROUP_OF_SERVICES: &str = "dsm";

/// Checks the file, and the memory of this machine if the network map contains it. What only dsmd
/// would refuse is a warning here, as the file may be meant for other machines.
pub(super) fn check(global: &GlobalOptions) -> Result<(), CliFailure> {
    let config = load(global)?;
    let layout = &config.layout;
    // `Several` means that several servers of the map run on this machine, on loopback addresses.
    if matches!(
        own_index(&config, None),
        Ok(_) | Err(IdentityError::Several { .. })
    ) {
        check_capacity(&config, segment::overhead(layout.share_size()))?;
    }
    let warnings = warnings(&config);
    for warning in &warnings {
        output::print_error(format_args!("warning: {warning}"));
    }
    let file = config.path.display().to_string();
    if global.json {
        return output::print_json(&json!({
            "file": file, "name": layout.name(), "k": layout.share_size(), "n": layout.server_count(), "size": layout.size(),
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

/// Problems that do not make the file invalid, but that stop dsmd or clients from working.
fn warnings(config: &Config) -> Vec<String> {
    untrusted_addresses(config)
        .into_iter()
        .chain(host_names(config))
        .chain(missing_log_directory(config))
        .chain(unreadable_file(config))
        .chain(insufficient_memory(config))
        .collect()
}

/// The first address that dsmd will refuse, and how many more there are: all have the same remedy.
fn untrusted_addresses(config: &Config) -> Option<String> {
    let mut untrusted =
        (0..config.layout.server_count()).filter_map(|index| config.untrusted_address(index));
    let first = untrusted.next()?;
    let others = match untrusted.count() {
        0 => String::new(),
        1 => " (and 1 more server)".to_owned(),
        others => format!(" (and {others} more servers)"),
    };
    Some(format!("{first}{others}"))
}

/// The addresses whose host name this machine cannot resolve, or resolves to loopback addresses
/// that no other machine can reach.
fn host_names(config: &Config) -> Vec<String> {
    let mut addresses = Vec::new();
    for (index, server) in config.servers.iter().enumerate() {
        addresses.push((
            format!("server.{index}.address"),
            format!("server {index}"),
            &server.address,
        ));
        // A host name that server and agent share gets one warning.
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
        (String, String, &Endpoint),
        io::Result<Vec<SocketAddr>>,
    )| {
        let place = place(config, &key);
        match found {
            Ok(found) => Some(format!("{place}: {}", address.loopback_warning(&found)?)),
            Err(error) => Some(format!(
                "{place}: this machine cannot resolve the host name of {who} ({address}): {error}"
            )),
        }
    };
    addresses
        .into_iter()
        .zip(found)
        .filter_map(warning)
        .collect()
}

/// The directory of the operation log, if it does not exist.
fn missing_log_directory(config: &Config) -> Option<String> {
    let directory = &config.log.directory;
    if config.log.operations == OperationLogMode::Off || directory.is_dir() {
        return None;
    }
    let place = place(config, "log.operations");
    let directory = directory.display();
    Some(format!(
        "{place}: the directory of the operation log, {directory}, does not exist on this machine: \
         create it on each machine that runs dsmd"
    ))
}

/// The file, if the services of the package cannot read it. A check by root would not notice.
fn unreadable_file(config: &Config) -> Option<String> {
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
        "{path}: the mode of this file is {mode:04o}, so that dsmd, dsm-snapshot and programs of \
         other users cannot read it: run chmod 644 {path} (it contains no secrets)"
    ))
}

/// The value of k, if it exceeds the memory limit of this process. This is only a warning: dsmd may
/// have another limit, and its segment may exist already.
fn insufficient_memory(config: &Config) -> Option<String> {
    let k = config.layout.share_size();
    let needed = k
        .saturating_add(segment::overhead(k))
        .saturating_add(segment::SERVER_MEMORY);
    let is_here = matches!(
        own_index(config, None),
        Ok(_) | Err(IdentityError::Several { .. })
    );
    let limit = memory_limit::of_this_process().filter(|limit| is_here && limit.bytes < needed)?;
    Some(format!(
        "{}: a segment of this k needs {needed} bytes of memory, with its tables and dsmd, but \
         {} allows {} bytes: make k smaller, or raise the limit (MemoryMax= of the unit, or the \
         memory of the container), if dsmd has the same one",
        place(config, "k"),
        limit.source,
        limit.bytes
    ))
}

fn place(config: &Config, key: &str) -> String {
    let place = config.place(key);
    format!("{}:{}:{}", config.path.display(), place.line, place.column)
}

pub(super) fn show(global: &GlobalOptions) -> Result<(), CliFailure> {
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
