//! `dsmctl snapshot create`: takes a snapshot now, with this process as the master.

use super::arguments::CreateArgs;
use crate::cli::arguments::GlobalOptions;
use crate::cli::failure::CliFailure;
use crate::cli::progress::Progress;
use crate::cli::{context, human, output};
use dsm_snapshot::{CreateOptions, Created, ServerPart};
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn run(create: &CreateArgs, global: &GlobalOptions) -> Result<(), CliFailure> {
    let config = context::load(global)?;
    let options = CreateOptions {
        own: None,
        allow_partial: create.allow_partial,
        output: create.output.clone(),
    };
    let mut progress = Progress::new(Some(config.layout.size()));
    let created = dsm_snapshot::create(&config, &options, &mut |done, _| progress.reach(done))?;
    drop(progress);
    // Without an own server, this process is the master and always writes the file.
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
    let missing: Vec<String> = (0..config.layout.server_count())
        .filter(|server| !has(*server))
        .map(|server| server.to_string())
        .collect();
    if !missing.is_empty() {
        output::print_error(format_args!(
            "the snapshot is partial, without server{} {}: run this command without \
             --allow-partial to see why",
            if missing.len() == 1 { "" } else { "s" },
            missing.join(", ")
        ));
    }
    let longest = servers.iter().map(|part| part.pause_us).max().unwrap_or(0);
    let copied: u64 = servers.iter().map(|part| part.pages_copied).sum();
    output::print(&format!(
        "{}: {} of {} servers at {cut}, {} of memory in a file of {}\n\
         writers paused for at most {longest} \u{b5}s; {} copied on write; it took {}\n",
        file.path.display(),
        servers.len(),
        config.layout.server_count(),
        human::bytes(file.raw_bytes),
        human::bytes(file.file_bytes),
        human::count(copied, "page"),
        humantime::format_duration(Duration::from_millis(
            u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
        )),
    ))
}
