//! Reads one table of the file, key by key: each value has the right type and is in its range, or
//! the recorder has an error for it.

use super::recorder::Recorder;
use super::toml_value::{
    Rejection, check_number, describe, integer, must_be, offset_of, size, text,
};
use super::units::{format_size, parse_duration};
use super::{Compression, CompressionLevel};
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One table of the file. Where the file lacks the table, each of its keys has its default.
pub(super) struct TableReader<'r, 't> {
    recorder: &'r mut Recorder<'t>,
    tree: Option<&'r DeTable<'t>>,
    offset: usize,
    /// The table's name in the list of known keys: `server`.
    table: String,
    /// The same with an index, as `config show` has it: `server.0`.
    path: String,
    /// The keys that the parser asked for.
    asked: Vec<&'static str>,
}

/// What is effective when the file lacks a key.
enum IfAbsent<T> {
    Default(T),
    Unset,
    Error,
}

impl<'r, 't> TableReader<'r, 't> {
    /// The top of the file.
    pub(super) fn root(recorder: &'r mut Recorder<'t>, tree: &'r DeTable<'t>) -> Self {
        Self {
            recorder,
            tree: Some(tree),
            offset: 0,
            table: String::new(),
            path: String::new(),
            asked: vec![],
        }
    }
}

impl<'t> TableReader<'_, 't> {
    /// The table `name`.
    pub(super) fn table(&mut self, name: &'static str) -> TableReader<'_, 't> {
        self.asked.push(name);
        let found = self.tree.and_then(|tree| tree.get(name));
        let tree = match found.map(Spanned::get_ref) {
            Some(DeValue::Table(tree)) => Some(tree),
            Some(other) => {
                let other = describe(other);
                self.add_error_at(
                    found,
                    format!("{name} is {other}: it must be a table, [{name}]"),
                );
                None
            }
            None => None,
        };
        let offset = offset_of(found);
        TableReader {
            recorder: self.recorder,
            tree,
            offset,
            table: name.to_owned(),
            path: name.to_owned(),
            asked: vec![],
        }
    }

    /// Reads each table of the list `name` with `read`. `None` when `name` is something else.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(TableReader<'_, 't>) -> T,
    ) -> Option<Vec<T>> {
        self.asked.push(name);
        let found = self.tree.and_then(|tree| tree.get(name));
        let items = match found.map(Spanned::get_ref) {
            None => return Some(Vec::new()),
            Some(DeValue::Array(items)) => items,
            Some(other) => {
                let other = describe(other);
                self.add_error_at(
                    found,
                    format!("{name} is {other}: write [[{name}]], with two brackets, before each"),
                );
                return None;
            }
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let (path, offset) = (format!("{name}.{index}"), offset_of(Some(item)));
            if let DeValue::Table(tree) = item.get_ref() {
                let (tree, table) = (Some(tree), name.to_owned());
                values.push(read(TableReader {
                    recorder: self.recorder,
                    tree,
                    offset,
                    table,
                    path,
                    asked: vec![],
                }));
            } else {
                let found = describe(item.get_ref());
                self.add_error_at(
                    Some(item),
                    format!("{path} is {found}: it must be a table, [[{name}]]"),
                );
            }
        }
        (values.len() == items.len()).then_some(values)
    }

    /// A whole number.
    pub(super) fn integer(
        &mut self,
        name: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let read = self.integer_or(name, IfAbsent::Default(default), range);
        read.unwrap_or(default)
    }

    /// A whole number that the file must have.
    pub(super) fn required_integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Option<usize> {
        self.integer_or(name, IfAbsent::Error, range)
    }

    /// A whole number that may be left out.
    pub(super) fn optional_integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Option<usize> {
        self.integer_or(name, IfAbsent::Unset, range)
    }

    fn integer_or(
        &mut self,
        name: &'static str,
        if_absent: IfAbsent<usize>,
        range: RangeInclusive<usize>,
    ) -> Option<usize> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.value(name, &allowed, if_absent, usize::to_string, |value| {
            check_number(value, "a number without quotes", &allowed)?;
            integer(value)
                .and_then(|number| usize::try_from(number).ok())
                .filter(|number| range.contains(number))
                .ok_or(None)
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        let read = self.value(
            name,
            "true or false, without quotes",
            IfAbsent::Default(default),
            bool::to_string,
            |value| value.as_bool().ok_or(None),
        );
        read.unwrap_or(default)
    }

    /// A size in bytes.
    pub(super) fn size(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let read = self.size_or(name, IfAbsent::Default(default), range);
        read.unwrap_or(default)
    }

    /// A size in bytes that may be left out.
    pub(super) fn optional_size(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        self.size_or(name, IfAbsent::Unset, range)
    }

    fn size_or(
        &mut self,
        name: &'static str,
        if_absent: IfAbsent<u64>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let (lowest, highest) = (format_size(*range.start()), format_size(*range.end()));
        let allowed = format!("a size from {lowest} to {highest}");
        let show = |bytes: &u64| format_size(*bytes);
        self.value(name, &allowed, if_absent, show, |value| {
            let bytes = size(value, &allowed)?;
            if range.contains(&bytes) {
                Ok(bytes)
            } else {
                Err(None)
            }
        })
    }

    /// A size in bytes that the file must have; the caller checks its range.
    pub(super) fn required_size(&mut self, name: &'static str, allowed: &str) -> Option<u64> {
        let show = |bytes: &u64| format_size(*bytes);
        self.value(name, allowed, IfAbsent::Error, show, |value| {
            size(value, allowed)
        })
    }

    /// A level of compression, or "none".
    pub(super) fn compression(&mut self, name: &'static str, default: i32) -> Compression {
        let allowed = format!(
            "a level from {} to {}, or \"none\"",
            CompressionLevel::LOWEST,
            CompressionLevel::HIGHEST
        );
        let default = CompressionLevel::new(default).map_or(Compression::None, Compression::Zstd);
        let show = |compression: &Compression| match compression {
            Compression::None => "none".to_owned(),
            Compression::Zstd(level) => level.number().to_string(),
        };
        let if_absent = IfAbsent::Default(default);
        let read = self.value(name, &allowed, if_absent, show, |value| {
            if value
                .as_str()
                .is_some_and(|word| word.eq_ignore_ascii_case("none"))
            {
                return Ok(Compression::None);
            }
            check_number(value, "a number without quotes, or \"none\"", &allowed)?;
            integer(value)
                .and_then(|number| CompressionLevel::new(i32::try_from(number).ok()?))
                .map(Compression::Zstd)
                .ok_or(None)
        });
        read.unwrap_or(default)
    }

    /// A length of time.
    pub(super) fn duration(
        &mut self,
        name: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
        let allowed = format!(
            "a duration from {} to {}, such as \"5s\"",
            show(range.start()),
            show(range.end())
        );
        let if_absent = IfAbsent::Default(default);
        let read = self.value(name, &allowed, if_absent, show, |value| {
            parse_duration(text(value, &allowed)?)
                .filter(|duration| range.contains(duration))
                .ok_or(None)
        });
        read.unwrap_or(default)
    }

    /// One of a few words, in upper or lower case.
    pub(super) fn choice<T: Copy + PartialEq>(
        &mut self,
        name: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect();
        let allowed = words.join(", ");
        let one_of = format!("one of {allowed}");
        let show = |value: &T| {
            choices
                .iter()
                .find(|(_, other)| other == value)
                .map_or(String::new(), |(word, _)| (*word).to_owned())
        };
        let if_absent = IfAbsent::Default(default);
        let read = self.value(name, &allowed, if_absent, show, |value| {
            let word = text(value, &one_of)?;
            choices
                .iter()
                .find(|(other, _)| word.eq_ignore_ascii_case(other))
                .map(|(_, value)| *value)
                .ok_or_else(|| Some(must_be(&one_of)))
        });
        read.unwrap_or(default)
    }

    /// A text that `convert` accepts. Its rejection is `None` when `allowed` says enough.
    pub(super) fn text<T: Clone>(
        &mut self,
        name: &'static str,
        allowed: &str,
        default: T,
        show: impl Fn(&T) -> String,
        convert: impl FnOnce(&str) -> Result<T, Rejection>,
    ) -> T {
        let if_absent = IfAbsent::Default(default.clone());
        self.value(name, allowed, if_absent, show, |value| {
            convert(text(value, allowed)?)
        })
        .unwrap_or(default)
    }

    /// A text that may be left out.
    pub(super) fn optional_text<T: ToString>(
        &mut self,
        name: &'static str,
        allowed: &str,
        convert: impl FnOnce(&str) -> Result<T, Rejection>,
    ) -> Option<T> {
        self.value(name, allowed, IfAbsent::Unset, T::to_string, |value| {
            convert(text(value, allowed)?)
        })
    }

    /// A text that the file must have.
    pub(super) fn required_text<T: ToString>(
        &mut self,
        name: &'static str,
        allowed: &str,
        convert: impl FnOnce(&str) -> Result<T, Rejection>,
    ) -> Option<T> {
        self.value(name, allowed, IfAbsent::Error, T::to_string, |value| {
            convert(text(value, allowed)?)
        })
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        allowed: &str,
        if_absent: IfAbsent<T>,
        show: impl Fn(&T) -> String,
        convert: impl FnOnce(&DeValue<'t>) -> Result<T, Rejection>,
    ) -> Option<T> {
        self.asked.push(name);
        let key = join(&self.path, name);
        let known = join(&self.table, name);
        let default = if let IfAbsent::Default(value) = &if_absent {
            Some(show(value))
        } else {
            None
        };
        self.recorder.add_known(known, default, allowed);
        let Some(found) = self.tree.and_then(|tree| tree.get(name)) else {
            return match if_absent {
                IfAbsent::Default(value) => {
                    self.recorder.add_default(key, show(&value));
                    Some(value)
                }
                IfAbsent::Unset => None,
                IfAbsent::Error => {
                    let message = format!("{key} is missing: {}", must_be(allowed));
                    self.recorder.add_error(self.offset, message);
                    None
                }
            };
        };
        match convert(found.get_ref()) {
            Ok(value) => {
                let offset = offset_of(Some(found));
                self.recorder.add_found(key, show(&value), offset);
                Some(value)
            }
            Err(reason) => {
                let reason = reason.unwrap_or_else(|| must_be(allowed));
                let found_value = describe(found.get_ref());
                self.add_error_at(Some(found), format!("{key} is {found_value}: {reason}"));
                None
            }
        }
    }

    /// Adds an error at the value of `name`, or at the table where the file lacks it.
    pub(super) fn add_error(&mut self, name: &str, message: String) {
        let found = self.tree.and_then(|tree| tree.get(name));
        self.add_error_at(found, message);
    }

    /// Adds an error at the value of `key`, a full name such as `server.0.address`, which is good
    /// by itself and conflicts with others.
    pub(super) fn add_conflict(&mut self, key: &str, message: String) {
        self.recorder.add_conflict(key, message);
    }

    /// Ends the table: every key in it that the parser did not ask for is unknown.
    pub(super) fn finish(self) {
        let Self {
            recorder,
            tree,
            table,
            asked,
            ..
        } = self;
        for (key, _) in tree.into_iter().flatten() {
            let name = key.get_ref();
            if !asked.iter().any(|asked| asked == name) {
                recorder.add_unknown_key(
                    key.span().start,
                    table.clone(),
                    name.to_string(),
                    asked.clone(),
                );
            }
        }
    }

    fn add_error_at(&mut self, found: Option<&Spanned<DeValue<'t>>>, message: String) {
        let offset = found.map_or(self.offset, |found| found.span().start);
        self.recorder.add_error(offset, message);
    }
}

/// The full name of a key.
fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}
