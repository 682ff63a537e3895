//! Records what the parser asks a file for, what the file has, and what is wrong with it.
//!
//! The keys that the parser asks for *are* the list of the known keys, with their ranges and
//! defaults: the parser, the error for an unknown key, `config show` and the check of the manual
//! page all take it from here. (Serde's derived readers stop at the first error, have no place for
//! a missing key, and cannot suggest a known key.)

use super::diagnostic::{ConfigError, Diagnostic, Lines, MAX_DIAGNOSTICS, Place};
use super::suggestion::suggest;
use super::{Key, Origin, Setting};
use std::collections::HashMap;
use std::path::Path;

/// The longest value, in characters, that an error repeats.
const MAX_QUOTED: usize = 80;

/// What was read so far.
pub(super) struct Recorder<'t> {
    lines: Lines<'t>,
    keys: Vec<Key>,
    settings: Vec<Setting>,
    /// Byte offset of each good value.
    offsets: HashMap<String, usize>,
    /// Byte offset and message of each error.
    errors: Vec<(usize, String)>,
    unknown_keys: Vec<UnknownKey>,
}

/// A key of the file that the parser did not ask for.
struct UnknownKey {
    offset: usize,
    table: String,
    name: String,
    known: Vec<&'static str>,
}

/// Every effective value of a file without errors, and where the file has it.
pub(super) struct Record {
    pub(super) settings: Vec<Setting>,
    pub(super) places: HashMap<String, Place>,
}

impl<'t> Recorder<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            lines: Lines::new(text),
            keys: Vec::new(),
            settings: Vec::new(),
            offsets: HashMap::new(),
            errors: Vec::new(),
            unknown_keys: Vec::new(),
        }
    }

    /// Every key that the parser asked for, in that order, once.
    pub(super) fn into_keys(self) -> Vec<Key> {
        self.keys
    }

    /// The record of a file without errors, or every error of the file.
    pub(super) fn finish(mut self, path: &Path) -> Result<Record, ConfigError> {
        for key in std::mem::take(&mut self.unknown_keys) {
            let message = self.explain(&key);
            self.errors.push((key.offset, message));
        }
        let lines = self.lines;
        if self.errors.is_empty() {
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
        self.errors.sort();
        self.errors.truncate(MAX_DIAGNOSTICS);
        let diagnostics = self
            .errors
            .into_iter()
            .map(|(offset, message)| Diagnostic {
                place: lines.place(offset),
                message,
            })
            .collect();
        Err(ConfigError::Invalid {
            path: path.to_owned(),
            diagnostics,
        })
    }

    /// The parser asks for a key: it is known from here on.
    pub(super) fn add_known(&mut self, name: String, default: Option<String>, allowed: &str) {
        // The parser asks every table of a list for the same keys.
        if !self.keys.iter().any(|key| key.name == name) {
            self.keys.push(Key {
                name,
                default,
                allowed: allowed.to_owned(),
            });
        }
    }

    /// The file lacks `key`: its default is effective.
    pub(super) fn add_default(&mut self, key: String, value: String) {
        self.settings.push(Setting {
            key,
            value,
            origin: Origin::Default,
        });
    }

    /// The file has `key`, with a good value, at the byte `offset`.
    pub(super) fn add_found(&mut self, key: String, value: String, offset: usize) {
        let place = self.lines.place(offset);
        self.settings.push(Setting {
            key: key.clone(),
            value,
            origin: Origin::Line(place.line),
        });
        self.offsets.insert(key, offset);
    }

    /// Adds an error at the value of `key`, which is good by itself and conflicts with others.
    pub(super) fn add_conflict(&mut self, key: &str, message: String) {
        let offset = self.offsets.get(key).copied().unwrap_or_default();
        self.add_error(offset, message);
    }

    /// Adds an error at the byte `offset`.
    pub(super) fn add_error(&mut self, offset: usize, message: String) {
        self.errors.push((offset, message));
    }

    /// Adds the unknown key `name` at the byte `offset`. Its table may have the keys `known`.
    pub(super) fn add_unknown_key(
        &mut self,
        offset: usize,
        table: String,
        name: String,
        known: Vec<&'static str>,
    ) {
        self.unknown_keys.push(UnknownKey {
            offset,
            table,
            name,
            known,
        });
    }

    fn explain(
        &self,
        UnknownKey {
            table, name, known, ..
        }: &UnknownKey,
    ) -> String {
        let place = |table: &str| match table {
            "" => "at the top of the file, before the first [table]".to_owned(),
            "server" => "in a [[server]]".to_owned(),
            table => format!("in [{table}]"),
        };
        let other_table = self
            .keys
            .iter()
            .map(Key::split)
            .find_map(|(table, key)| (key == name).then_some(table));
        let hint = match (suggest(name, known), other_table) {
            (Some(meant), _) => format!("did you mean {meant}? The"),
            (None, Some(table)) => format!("it belongs {}; the", place(table)),
            (None, None) => "the".to_owned(),
        };
        format!(
            "unknown key {} {}: {hint} keys known here are {}",
            quote(name),
            place(table),
            known.join(", ")
        )
    }
}

/// `text` in quotes, for an error.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

/// The first [`MAX_QUOTED`] characters of `text`, for an error.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
