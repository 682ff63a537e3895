//! `dsmctl config check` and `dsmctl config show`.

use super::arguments::Global;
use super::failure::Failure;
use super::human;
use super::output;
use super::session::load;
use super::table::{self, Align};
use crate::config::Origin;
use serde_json::{Value, json};

pub(super) fn check(global: &Global) -> Result<(), Failure> {
    let config = load(global)?;
    let layout = &config.layout;
    let file = config.path.display().to_string();
    if global.json {
        return output::print_json(&json!({
            "file": file, "name": layout.name(), "k": layout.k(), "n": layout.n(), "size": layout.size(),
            "fingerprint": layout.fingerprint().to_string(),
        }));
    }
    let servers = if layout.n() == 1 { "1 server".to_owned() } else { format!("{} servers", layout.n()) };
    output::print(&format!(
        "{file}: ok ({servers} of {}, a memory of {}, fingerprint {})\n",
        human::bytes(layout.k()),
        human::bytes(layout.size()),
        layout.fingerprint()
    ))
}

pub(super) fn show(global: &Global) -> Result<(), Failure> {
    let settings = load(global)?.settings();
    if global.json {
        let rows: Vec<Value> = settings
            .iter()
            .map(|setting| {
                let line = match setting.origin {
                    Origin::Default => None,
                    Origin::Line(line) => Some(line),
                };
                let origin = if line.is_some() { "file" } else { "default" };
                json!({ "key": setting.key, "value": setting.value, "origin": origin, "line": line })
            })
            .collect();
        return output::print_json(&rows.into());
    }
    let rows: Vec<Vec<String>> = settings
        .into_iter()
        .map(|setting| {
            let origin = match setting.origin {
                Origin::Default => "default".to_owned(),
                Origin::Line(line) => format!("line {line}"),
            };
            vec![setting.key, setting.value, origin]
        })
        .collect();
    output::print(&table::render(&[Align::Left, Align::Left, Align::Left], &rows))
}
