//! One table of the file, read key by key.

use super::reader::{Reader, quote, shorten};
use super::units::{format_size, parse_duration, parse_size};
use super::{Compression, Level};
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One table of the file, or the lack of it: then every key of it has its default.
pub(super) struct Section<'r, 't> {
    reader: &'r mut Reader<'t>,
    tree: Option<&'r DeTable<'t>>,
    offset: usize,
    /// The table's name in a list of known keys: `server`.
    table: String,
    /// The same with an index, as `config show` has it: `server.0`.
    path: String,
    asked: Vec<&'static str>,
}

/// What holds when the file does not have a key.
enum Otherwise<T> {
    Default(T),
    Unset,
    Missing,
}

impl<'r, 't> Section<'r, 't> {
    /// The top of the file.
    pub(super) fn root(reader: &'r mut Reader<'t>, tree: &'r DeTable<'t>) -> Self {
        Self {
            reader,
            tree: Some(tree),
            offset: 0,
            table: String::new(),
            path: String::new(),
            asked: vec![],
        }
    }
}

impl<'t> Section<'_, 't> {
    /// The table `name`.
    pub(super) fn section(&mut self, name: &'static str) -> Section<'_, 't> {
        self.asked.push(name);
        let found = self.tree.and_then(|tree| tree.get(name));
        let tree = match found.map(Spanned::get_ref) {
            Some(DeValue::Table(tree)) => Some(tree),
            Some(other) => {
                self.mistake_at(
                    found,
                    format!(
                        "{name} is {}: allowed is a table, [{name}]",
                        describe(other)
                    ),
                );
                None
            }
            None => None,
        };
        let offset = offset_of(found);
        Section {
            reader: self.reader,
            tree,
            offset,
            table: name.to_owned(),
            path: name.to_owned(),
            asked: vec![],
        }
    }

    /// Reads each table of the list `name` with `read`; none when the file holds no list of that
    /// name.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(Section<'_, 't>) -> T,
    ) -> Option<Vec<T>> {
        self.asked.push(name);
        let found = self.tree.and_then(|tree| tree.get(name));
        let items = match found.map(Spanned::get_ref) {
            None => return Some(Vec::new()),
            Some(DeValue::Array(items)) => items,
            Some(other) => {
                let other = describe(other);
                self.mistake_at(
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
                values.push(read(Section {
                    reader: self.reader,
                    tree,
                    offset,
                    table,
                    path,
                    asked: vec![],
                }));
            } else {
                let found = describe(item.get_ref());
                self.mistake_at(
                    Some(item),
                    format!("{path} is {found}: allowed is a table, [[{name}]]"),
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
        let read = self.integer_or(name, Otherwise::Default(default), range);
        read.unwrap_or(default)
    }

    /// A whole number that must be given.
    pub(super) fn required_integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Option<usize> {
        self.integer_or(name, Otherwise::Missing, range)
    }

    /// A whole number that may be left out.
    pub(super) fn optional_integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Option<usize> {
        self.integer_or(name, Otherwise::Unset, range)
    }

    fn integer_or(
        &mut self,
        name: &'static str,
        otherwise: Otherwise<usize>,
        range: RangeInclusive<usize>,
    ) -> Option<usize> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.value(name, &allowed, otherwise, usize::to_string, |value| {
            check_number(value, "a number, without quotes", &allowed)?;
            integer(value)
                .and_then(|number| usize::try_from(number).ok())
                .filter(|number| range.contains(number))
                .ok_or(None)
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        let convert = |value: &DeValue<'_>| value.as_bool().ok_or(None);
        let read = self.value(
            name,
            "true or false, without quotes",
            Otherwise::Default(default),
            bool::to_string,
            convert,
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
        let allowed = format!(
            "a size from {} to {}",
            format_size(*range.start()),
            format_size(*range.end())
        );
        let otherwise = Otherwise::Default(default);
        let read = self.value(
            name,
            &allowed,
            otherwise,
            |bytes| format_size(*bytes),
            |value| {
                size(value, &allowed).and_then(|bytes| {
                    if range.contains(&bytes) {
                        Ok(bytes)
                    } else {
                        Err(None)
                    }
                })
            },
        );
        read.unwrap_or(default)
    }

    /// A size in bytes that may be left out.
    pub(super) fn optional_size(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let allowed = format!(
            "a size from {} to {}",
            format_size(*range.start()),
            format_size(*range.end())
        );
        let within = |bytes| {
            if range.contains(&bytes) {
                Ok(bytes)
            } else {
                Err(None)
            }
        };
        let show = |bytes: &u64| format_size(*bytes);
        self.value(name, &allowed, Otherwise::Unset, show, |value| {
            size(value, &allowed).and_then(within)
        })
    }

    /// A level of compression, or "none".
    pub(super) fn compression(&mut self, name: &'static str, default: i32) -> Compression {
        let allowed = format!(
            "a level from {} to {}, or \"none\"",
            Level::LOWEST,
            Level::HIGHEST
        );
        let default = Level::new(default).map_or(Compression::None, Compression::Zstd);
        let show = |compression: &Compression| match compression {
            Compression::None => "none".to_owned(),
            Compression::Zstd(level) => level.number().to_string(),
        };
        let read = self.value(
            name,
            &allowed,
            Otherwise::Default(default),
            show,
            |value| match value.as_str() {
                Some(word) if word.eq_ignore_ascii_case("none") => Ok(Compression::None),
                _ => {
                    check_number(value, "a number without quotes, or \"none\"", &allowed)?;
                    let level =
                        integer(value).and_then(|number| Level::new(i32::try_from(number).ok()?));
                    level.map(Compression::Zstd).ok_or(None)
                }
            },
        );
        read.unwrap_or(default)
    }

    /// A size in bytes that must be given; the caller checks its range.
    pub(super) fn required_size(&mut self, name: &'static str, allowed: &str) -> Option<u64> {
        self.value(
            name,
            allowed,
            Otherwise::Missing,
            |bytes| format_size(*bytes),
            |value| size(value, allowed),
        )
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
        let read = self.value(name, &allowed, Otherwise::Default(default), show, |value| {
            let duration = parse_duration(text(value, &allowed)?);
            duration
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
        let show = |value: &T| {
            choices
                .iter()
                .find(|(_, other)| other == value)
                .map_or(String::new(), |(word, _)| (*word).to_owned())
        };
        let allowed = words.join(", ");
        let read = self.value(name, &allowed, Otherwise::Default(default), show, |value| {
            let word = text(value, &allowed)?;
            choices
                .iter()
                .find(|(other, _)| word.eq_ignore_ascii_case(other))
                .map(|(_, value)| *value)
                .ok_or(None)
        });
        read.unwrap_or(default)
    }

    /// A text that `convert` accepts. Its error says what is wrong, or nothing when `allowed` says
    /// enough.
    pub(super) fn text<T: Clone>(
        &mut self,
        name: &'static str,
        allowed: &str,
        default: T,
        show: impl Fn(&T) -> String,
        convert: impl FnOnce(&str) -> Result<T, Option<String>>,
    ) -> T {
        let otherwise = Otherwise::Default(default.clone());
        self.value(name, allowed, otherwise, show, |value| {
            convert(text(value, allowed)?)
        })
        .unwrap_or(default)
    }

    /// A text that may be left out.
    pub(super) fn optional_text<T: ToString>(
        &mut self,
        name: &'static str,
        allowed: &str,
        convert: impl FnOnce(&str) -> Result<T, Option<String>>,
    ) -> Option<T> {
        self.value(name, allowed, Otherwise::Unset, T::to_string, |value| {
            convert(text(value, allowed)?)
        })
    }

    /// A text that must be given.
    pub(super) fn required_text<T: ToString>(
        &mut self,
        name: &'static str,
        allowed: &str,
        convert: impl FnOnce(&str) -> Result<T, Option<String>>,
    ) -> Option<T> {
        self.value(name, allowed, Otherwise::Missing, T::to_string, |value| {
            convert(text(value, allowed)?)
        })
    }

    fn value<T>(
        &mut self,
        name: &'static str,
        allowed: &str,
        otherwise: Otherwise<T>,
        show: impl Fn(&T) -> String,
        convert: impl FnOnce(&DeValue<'t>) -> Result<T, Option<String>>,
    ) -> Option<T> {
        self.asked.push(name);
        let key = join(&self.path, name);
        let known = join(&self.table, name);
        let default = if let Otherwise::Default(value) = &otherwise {
            Some(show(value))
        } else {
            None
        };
        self.reader.know(known, default, allowed);
        let Some(found) = self.tree.and_then(|tree| tree.get(name)) else {
            return match otherwise {
                Otherwise::Default(value) => {
                    self.reader.default(key, show(&value));
                    Some(value)
                }
                Otherwise::Unset => None,
                Otherwise::Missing => {
                    self.reader.mistake(
                        self.offset,
                        format!("{key} is missing: it must be {allowed}"),
                    );
                    None
                }
            };
        };
        match convert(found.get_ref()) {
            Ok(value) => {
                self.reader.found(key, show(&value), offset_of(Some(found)));
                Some(value)
            }
            Err(reason) => {
                let reason = reason.unwrap_or_else(|| format!("allowed is {allowed}"));
                self.mistake_at(
                    Some(found),
                    format!("{key} is {}: {reason}", describe(found.get_ref())),
                );
                None
            }
        }
    }

    /// Records a mistake at the value of `name`, which was asked for before.
    pub(super) fn mistake_in(&mut self, name: &str, message: String) {
        let found = self.tree.and_then(|tree| tree.get(name));
        self.mistake_at(found, message);
    }

    /// Records a mistake at the value of `key`, which is a full name such as `server.0.address`.
    pub(super) fn mistake_of(&mut self, key: &str, message: String) {
        self.reader.mistake_of(key, message);
    }

    /// Ends the section: what is left in it was not known.
    pub(super) fn finish(self) {
        let Self {
            reader,
            tree,
            table,
            asked,
            ..
        } = self;
        for (key, _) in tree.into_iter().flatten() {
            let name = key.get_ref();
            if !asked.iter().any(|asked| asked == name) {
                reader.stranger(
                    key.span().start,
                    table.clone(),
                    name.to_string(),
                    asked.clone(),
                );
            }
        }
    }

    fn mistake_at(&mut self, found: Option<&Spanned<DeValue<'t>>>, message: String) {
        let offset = found.map_or(self.offset, |found| found.span().start);
        self.reader.mistake(offset, message);
    }
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() {
        name.to_owned()
    } else {
        format!("{table}.{name}")
    }
}

fn offset_of(found: Option<&Spanned<DeValue<'_>>>) -> usize {
    found.map_or(0, |found| found.span().start)
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The text of a value. The error says that it must be one: that a value is of another type is not
/// seen when it is printed.
fn text<'v>(value: &'v DeValue<'_>, allowed: &str) -> Result<&'v str, Option<String>> {
    value
        .as_str()
        .ok_or_else(|| Some(of_type("a text, in quotes", allowed)))
}

/// An error, which says what form the value must have, for what is no number.
fn check_number(value: &DeValue<'_>, form: &str, allowed: &str) -> Result<(), Option<String>> {
    match value {
        DeValue::Integer(_) | DeValue::Float(_) => Ok(()),
        _ => Err(Some(of_type(form, allowed))),
    }
}

fn of_type(form: &str, allowed: &str) -> String {
    format!("write {form}; allowed is {allowed}")
}

fn size(value: &DeValue<'_>, allowed: &str) -> Result<u64, Option<String>> {
    if let Some(text) = value.as_str() {
        return parse_size(text).map_err(|error| Some(error.to_string()));
    }
    check_number(value, "a number, or a text such as \"64MiB\"", allowed)?;
    integer(value).ok_or(None)
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quote(text),
        DeValue::Integer(number) => shorten(&number.to_string()),
        DeValue::Float(number) => shorten(&number.to_string()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
