//! `dsmctl locate`: shows which servers hold a range, from the configuration alone.

use super::arguments::LocateArgs;
use super::context::CommandContext;
use super::failure::CliFailure;
use super::output;
use super::table::{self, Align};
use serde_json::{Value, json};

pub(super) fn run(locate: &LocateArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let addresses = context.layout().addresses();
    let pieces = context.layout().pieces(locate.address, locate.length)?;
    if context.json {
        let pieces: Vec<Value> = pieces
            .map(|piece| {
                json!({
                    "address": piece.address,
                    "length": piece.length,
                    "server": piece.server,
                    "server_address": addresses[piece.server],
                    "offset": piece.offset,
                })
            })
            .collect();
        return output::print_json(&pieces.into());
    }
    let rows: Vec<Vec<String>> = pieces
        .map(|piece| {
            vec![
                format!("address {}", piece.address),
                format!("length {}", piece.length),
                format!("server {} ({})", piece.server, addresses[piece.server]),
                format!("offset {}", piece.offset),
            ]
        })
        .collect();
    output::print(&table::render(&[Align::Left; 4], &rows))
}
