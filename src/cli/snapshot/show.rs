//! `dsmctl snapshot show`: prints the header of a snapshot and the sizes of its frames.

use super::arguments::ShowArgs;
use super::file;
use crate::cli::arguments::GlobalOptions;
use crate::cli::failure::CliFailure;
use crate::cli::human;
use crate::cli::output::{self, Colours};
use crate::cli::table::{self, Align};
use dsm_snapshot::{Header, SnapshotFile};
use serde_json::{Value, json};
use std::path::Path;

/// The totals of all frames, from header and index.
struct FrameTotals {
    frames: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    file_bytes: u64,
}

pub(super) fn run(show: &ShowArgs, global: &GlobalOptions) -> Result<(), CliFailure> {
    let path = file::find(&show.file, global)?;
    let (header, totals, problem) = match SnapshotFile::open(&path) {
        Ok(snapshot) => (snapshot.header().clone(), Some(totals(&snapshot)?), None),
        // If only the rest of the file is damaged, the header is still shown.
        Err(problem) => match SnapshotFile::read_header(&path) {
            Ok(header) => (header, None, Some(problem)),
            Err(_) => return Err(problem.into()),
        },
    };
    if global.json {
        output::print_json(&to_json(&path, &header, totals.as_ref()))?;
    } else {
        output::print(&to_text(&path, &header, totals.as_ref()))?;
    }
    problem.map_or(Ok(()), |problem| Err(problem.into()))
}

fn totals(snapshot: &SnapshotFile) -> Result<FrameTotals, CliFailure> {
    let (frames, file_bytes) = (snapshot.frames(), snapshot.file_bytes());
    let mut totals = FrameTotals {
        frames,
        raw_bytes: 0,
        stored_bytes: 0,
        file_bytes,
    };
    for extent in snapshot.extents(0..u64::MAX)? {
        let extent = extent?;
        totals.raw_bytes += extent.addresses().end - extent.addresses().start;
        totals.stored_bytes += extent.stored_length();
    }
    Ok(totals)
}

fn to_text(path: &Path, header: &Header, totals: Option<&FrameTotals>) -> String {
    let layout = header.layout();
    let mut rows = vec![
        ("file", path.display().to_string()),
        ("id", file::id(header)),
        (
            "cut time",
            humantime::format_rfc3339_nanos(file::cut_time(header)).to_string(),
        ),
        ("tool", header.tool().to_owned()),
        ("name", layout.name().to_owned()),
        ("k", human::exact_bytes(layout.share_size())),
        ("n", layout.server_count().to_string()),
        ("memory", human::exact_bytes(layout.size())),
        (
            "servers",
            format!("{} of {}", file::present(header), layout.server_count()),
        ),
        ("master", master(header)),
    ];
    if let Some(totals) = totals {
        let frame_size = human::bytes(header.frame_size().into());
        rows.extend([
            (
                "frames",
                format!("{}, each of up to {frame_size}", totals.frames),
            ),
            ("raw", human::exact_bytes(totals.raw_bytes)),
            ("stored", human::exact_bytes(totals.stored_bytes)),
            ("ratio", totals.ratio().unwrap_or_else(|| "-".to_owned())),
            ("file size", human::exact_bytes(totals.file_bytes)),
        ]);
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(key, value)| vec![key.to_owned(), value])
        .collect();
    let mut text = table::render(&[Align::Left; 2], &rows);
    text.push('\n');
    text + &servers_to_text(header)
}

fn servers_to_text(header: &Header) -> String {
    let colours = Colours::stdout();
    let headings = ["SERVER", "ADDRESS", "HOSTNAME", "INCARNATION", "ADDRESSES"];
    let mut rows: Vec<Vec<String>> =
        vec![headings.map(|heading| colours.heading(heading)).to_vec()];
    rows.extend(header.servers().iter().enumerate().map(|(index, server)| {
        let addresses = header.addresses_of(index);
        vec![
            index.to_string(),
            header.layout().addresses()[index].clone(),
            if server.hostname.is_empty() {
                "-".to_owned()
            } else {
                server.hostname.clone()
            },
            file::incarnation(server).unwrap_or_else(|| colours.bad("missing")),
            format!("{} to {}", addresses.start, addresses.end - 1),
        ]
    }));
    table::render(
        &[
            Align::Right,
            Align::Left,
            Align::Left,
            Align::Left,
            Align::Left,
        ],
        &rows,
    )
}

impl FrameTotals {
    /// The bytes of memory per byte of frames, with two decimals; `None` without frames.
    fn ratio(&self) -> Option<String> {
        let hundredths =
            (u128::from(self.raw_bytes) * 100).checked_div(self.stored_bytes.into())?;
        Some(format!("{}.{:02}", hundredths / 100, hundredths % 100))
    }
}

fn to_json(path: &Path, header: &Header, totals: Option<&FrameTotals>) -> Value {
    let servers = header.servers().iter().enumerate().map(|(index, server)| {
        json!({
            "index": index,
            "address": header.layout().addresses()[index],
            "hostname": server.hostname,
            "incarnation": file::incarnation(server),
        })
    });
    let mut shown = json!({
        "file": path.to_string_lossy(),
        "id": file::id(header),
        "time": humantime::format_rfc3339_nanos(file::cut_time(header)).to_string(),
        "tool": header.tool(),
        "system": header.layout().name(),
        "k": header.layout().share_size(),
        "n": header.layout().server_count(),
        "master": header.master(),
        "frame_size": header.frame_size(),
        "servers": servers.collect::<Vec<Value>>(),
    });
    if let Some(totals) = totals {
        shown["frames"] = totals.frames.into();
        shown["raw_bytes"] = totals.raw_bytes.into();
        shown["stored_bytes"] = totals.stored_bytes.into();
        shown["bytes"] = totals.file_bytes.into();
    }
    shown
}

/// The server whose machine wrote the file.
fn master(header: &Header) -> String {
    let address = |server: usize| &header.layout().addresses()[server];
    header
        .master()
        .map_or("none (written by dsmctl)".to_owned(), |server| {
            format!("server {server} ({})", address(server))
        })
}
