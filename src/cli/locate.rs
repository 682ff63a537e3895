//! `dsmctl locate`: which servers hold a range. Asks none of them.

use super::arguments::Locate;
use super::failure::Failure;
use super::output;
use super::session::Session;
use super::table::{self, Align};
use serde_json::{Value, json};

pub(super) fn run(locate: &Locate, session: &Session) -> Result<(), Failure> {
    let addresses = session.layout().addresses();
    let pieces = session.layout().pieces(locate.address, locate.length)?;
    if session.json {
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
