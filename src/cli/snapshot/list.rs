//! `dsmctl snapshot list`: lists the snapshots of a directory and whether each is usable.

use super::arguments::ListArgs;
use super::file;
use crate::cli::arguments::GlobalOptions;
use crate::cli::context;
use crate::cli::failure::CliFailure;
use crate::cli::human;
use crate::cli::output::{self, Colours};
use crate::cli::table::{self, Align};
use dsm_snapshot::retention::Standing;
use dsm_snapshot::{Header, ListedSnapshot, ReadError, list, list_all};
use serde_json::{Value, json};

const COLUMNS: [(&str, Align); 6] = [
    ("TIME", Align::Left),
    ("NAME", Align::Left),
    ("SIZE", Align::Right),
    ("SERVERS", Align::Right),
    ("INCARNATION", Align::Left),
    ("STANDING", Align::Left),
];

pub(super) fn run(arguments: &ListArgs, global: &GlobalOptions) -> Result<(), CliFailure> {
    let (directory, listed) = if let Some(directory) = &arguments.directory {
        (directory.clone(), list_all(directory)?)
    } else {
        let config = context::load(global)?;
        let listed = list(&config.snapshot.directory, config.layout.name())?;
        (config.snapshot.directory, listed)
    };
    if global.json {
        return output::print_json(&listed.iter().map(json_row).collect::<Vec<Value>>().into());
    }
    if listed.is_empty() {
        output::print_error(format_args!(
            "there are no snapshots in {}",
            directory.display()
        ));
        return Ok(());
    }
    let colours = Colours::stdout();
    let mut rows = vec![
        COLUMNS
            .iter()
            .map(|(name, _)| colours.heading(name))
            .collect(),
    ];
    rows.extend(listed.iter().map(|listed| row(listed, colours)));
    output::print(&table::render(&COLUMNS.map(|(_, align)| align), &rows))
}

fn row(listed: &ListedSnapshot, colours: Colours) -> Vec<String> {
    let of_header =
        |text: fn(&Header) -> String| listed.header.as_ref().map_or("-".to_owned(), text);
    let reason = reason(listed);
    let standing = match (listed.standing, reason) {
        (Standing::Good, _) => colours.good("good"),
        (Standing::Partial, _) => "partial".to_owned(),
        (Standing::Bad, reason) => {
            format!("{}: {}", colours.bad("damaged"), reason.unwrap_or_default())
        }
        (Standing::Foreign, reason) => reason.unwrap_or_default(),
    };
    vec![
        of_header(|header| humantime::format_rfc3339_seconds(file::cut_time(header)).to_string()),
        listed.name.clone(),
        human::bytes(listed.bytes),
        of_header(|header| {
            format!(
                "{} of {}",
                file::present(header),
                header.layout().server_count()
            )
        }),
        of_header(file::incarnations),
        standing,
    ]
}

/// The reason why a file is neither good nor partial.
fn reason(listed: &ListedSnapshot) -> Option<String> {
    let foreign = listed.standing == Standing::Foreign;
    match (&listed.problem, &listed.header) {
        (Some(ReadError::System { action, source, .. }), _) => Some(format!("{action}: {source}")),
        (Some(problem), _) => {
            // The row already shows the name.
            let text = problem
                .to_string()
                .replacen(&listed.path.display().to_string(), "", 1);
            Some(
                text.trim_start()
                    .trim_start_matches("is damaged: ")
                    .to_owned(),
            )
        }
        (None, _) if foreign && listed.path.is_symlink() => Some("a symbolic link".to_owned()),
        (None, Some(header)) if foreign => {
            Some(format!("of another system, {}", header.layout().name()))
        }
        (None, _) => None,
    }
}

fn json_row(listed: &ListedSnapshot) -> Value {
    let standing = match listed.standing {
        Standing::Good => "good",
        Standing::Partial => "partial",
        Standing::Bad => "damaged",
        Standing::Foreign => "foreign",
    };
    let mut row = json!({
        "name": listed.name,
        "file": listed.path.to_string_lossy(),
        "bytes": listed.bytes,
        "standing": standing,
        "reason": reason(listed),
    });
    if let Some(header) = &listed.header {
        row["time"] = humantime::format_rfc3339_nanos(file::cut_time(header))
            .to_string()
            .into();
        row["id"] = file::id(header).into();
        row["system"] = header.layout().name().into();
        row["k"] = header.layout().share_size().into();
        row["n"] = header.layout().server_count().into();
        row["servers"] = file::present(header).into();
        row["incarnations"] = header
            .servers()
            .iter()
            .map(file::incarnation)
            .collect::<Vec<_>>()
            .into();
    }
    row
}
