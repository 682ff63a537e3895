//! `dsmctl snapshot create`: takes a snapshot now.

use super::arguments::Create;
use crate::cli::arguments::Global;
use crate::cli::failure::Failure;
use crate::cli::progress::Progress;
use crate::cli::{human, output, session};
use dsm_snapshot::{CreateOptions, Created, ServerPart};
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn run(create: &Create, global: &Global) -> Result<(), Failure> {
    let config = session::load(global)?;
    let options = CreateOptions {
        own: None,
        allow_partial: create.allow_partial,
        output: create.output.clone(),
    };
    let mut progress = Progress::new(Some(config.layout.size()));
    let created = dsm_snapshot::create(&config, &options, &mut |done, _| progress.reach(done))?;
    drop(progress);
    // Without an own server, whoever asks is the master.
    let Created::Written {
        id,
        cut_time,
        file,
        servers,
        duration,
        deleted,
    } = created
    else {
        return Ok(());
    };
    let cut = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(cut_time));
    if global.json {
        let part = |part: &ServerPart| json!({ "index": part.server, "pause_us": part.pause_us, "pages_copied": part.pages_copied });
        return output::print_json(&json!({
            "id": id,
            "time": cut.to_string(),
            "file": file.path.to_string_lossy(),
            "raw_bytes": file.raw_bytes,
            "bytes": file.file_bytes,
            "frames": file.frames,
            "duration_ms": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            "servers": servers.iter().map(part).collect::<Vec<_>>(),
            "deleted": deleted,
        }));
    }
    let has = |server| servers.iter().any(|part| part.server == server);
    let missing: Vec<String> = (0..config.layout.n())
        .filter(|server| !has(*server))
        .map(|server| server.to_string())
        .collect();
    if !missing.is_empty() {
        output::complain(format_args!(
            "the snapshot is partial, without server{} {}: without --allow-partial this command says why",
            if missing.len() == 1 { "" } else { "s" },
            missing.join(", ")
        ));
    }
    let longest = servers.iter().map(|part| part.pause_us).max().unwrap_or(0);
    let copied: u64 = servers.iter().map(|part| part.pages_copied).sum();
    output::print(&format!(
        "{}: {} of {} servers at {cut}, {} of memory in a file of {}\n\
         writers stood still for at most {longest} \u{b5}s; {} overwritten in the {} that it took\n",
        file.path.display(),
        servers.len(),
        config.layout.n(),
        human::bytes(file.raw_bytes),
        human::bytes(file.file_bytes),
        human::count(copied, "page"),
        humantime::format_duration(Duration::from_millis(
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
        )),
    ))
}
