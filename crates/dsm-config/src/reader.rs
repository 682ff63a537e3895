//! What a TOML tree was asked for, and what it answered.
//!
//! What is asked for *is* the list of the known keys, with their ranges and defaults: the parser,
//! the error for an unknown key, `config show` and the check of the manual page all take it from
//! here. (Serde's derived readers stop at the first mistake, have no place for a missing key, and
//! cannot say which key was meant.)

use super::mistake::{ConfigError, Lines, MAX_MISTAKES, Mistake, Place};
use super::nearest::nearest;
use super::{Key, Origin, Setting};
use std::collections::HashMap;
use std::path::Path;

/// The longest value, in characters, that an error repeats.
const MAX_FOUND: usize = 80;

/// What was read so far.
pub(super) struct Reader<'t> {
    lines: Lines<'t>,
    keys: Vec<Key>,
    settings: Vec<Setting>,
    /// Byte offset of each good value.
    offsets: HashMap<String, usize>,
    /// Byte offset and message of each mistake.
    mistakes: Vec<(usize, String)>,
    strangers: Vec<Stranger>,
}

/// A key that nothing asked for.
struct Stranger {
    offset: usize,
    table: String,
    name: String,
    known: Vec<&'static str>,
}

/// What a good file leaves behind besides its values.
pub(super) struct Record {
    pub(super) settings: Vec<Setting>,
    pub(super) places: HashMap<String, Place>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            lines: Lines::new(text),
            keys: Vec::new(),
            settings: Vec::new(),
            offsets: HashMap::new(),
            mistakes: Vec::new(),
            strangers: Vec::new(),
        }
    }

    /// Every key that was asked for, in that order, once.
    pub(super) fn into_keys(self) -> Vec<Key> {
        self.keys
    }

    /// The record of a file without mistakes.
    pub(super) fn finish(mut self, path: &Path) -> Result<Record, ConfigError> {
        for stranger in std::mem::take(&mut self.strangers) {
            self.mistakes
                .push((stranger.offset, self.explain(&stranger)));
        }
        if self.mistakes.is_empty() {
            let lines = &self.lines;
            let places = self
                .offsets
                .into_iter()
                .map(|(key, offset)| (key, lines.place(offset)))
                .collect();
            return Ok(Record {
                settings: self.settings,
                places,
            });
        }
        self.mistakes.sort();
        self.mistakes.truncate(MAX_MISTAKES);
        let lines = self.lines;
        let mistake = |(offset, message)| Mistake {
            place: lines.place(offset),
            message,
        };
        let mistakes = self.mistakes.into_iter().map(mistake).collect();
        Err(ConfigError::Invalid {
            path: path.to_owned(),
            mistakes,
        })
    }

    /// A key is asked for: it is known from here on.
    pub(super) fn know(&mut self, name: String, default: Option<String>, allowed: &str) {
        // The tables of a list are asked for the same keys again.
        if !self.keys.iter().any(|key| key.name == name) {
            self.keys.push(Key {
                name,
                default,
                allowed: allowed.to_owned(),
            });
        }
    }

    /// The file has no `key`: its default holds.
    pub(super) fn default(&mut self, key: String, value: String) {
        self.settings.push(Setting {
            key,
            value,
            origin: Origin::Default,
        });
    }

    /// The file has `key`, with a good value, at the byte `offset`.
    pub(super) fn found(&mut self, key: String, value: String, offset: usize) {
        let place = self.lines.place(offset);
        self.settings.push(Setting {
            key: key.clone(),
            value,
            origin: Origin::Line(place.line),
        });
        self.offsets.insert(key, offset);
    }

    /// The value of `key`, which was found and good by itself, is a mistake together with others.
    pub(super) fn mistake_of(&mut self, key: &str, message: String) {
        let offset = self.offsets.get(key).copied().unwrap_or_default();
        self.mistake(offset, message);
    }

    /// Something is wrong at the byte `offset`.
    pub(super) fn mistake(&mut self, offset: usize, message: String) {
        self.mistakes.push((offset, message));
    }

    /// Nothing asked for `name`, whose place is the byte `offset`; its table was asked for `known`.
    pub(super) fn stranger(
        &mut self,
        offset: usize,
        table: String,
        name: String,
        known: Vec<&'static str>,
    ) {
        self.strangers.push(Stranger {
            offset,
            table,
            name,
            known,
        });
    }

    fn explain(
        &self,
        Stranger {
            table, name, known, ..
        }: &Stranger,
    ) -> String {
        let place = |table: &str| match table {
            "" => "at the top of the file, before the first [table]".to_owned(),
            "server" => "in a [[server]]".to_owned(),
            table => format!("in [{table}]"),
        };
        let elsewhere = || {
            self.keys
                .iter()
                .find_map(|key| key.split().1.eq(name).then(|| place(key.split().0)))
        };
        let hint = match nearest(name, known) {
            Some(meant) => format!("did you mean {meant}? "),
            None => elsewhere().map_or(String::new(), |place| format!("it belongs {place}; ")),
        };
        format!(
            "unknown key {} {}: {hint}known there: {}",
            quote(name),
            place(table),
            known.join(", ")
        )
    }
}

pub(super) fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_FOUND) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
