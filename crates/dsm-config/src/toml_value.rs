//! Converts one value of the TOML tree to a number, a text or a size, or says why it cannot.

use super::recorder::{quote, shorten};
use super::units::parse_size;
use toml::Spanned;
use toml::de::DeValue;

/// Why a value is rejected: the text that follows the value in the error. `None` stands for "it
/// must be ..." with the allowed values.
pub(super) type Rejection = Option<String>;

/// The end of an error: which values are allowed.
pub(super) fn must_be(allowed: &str) -> String {
    format!("it must be {allowed}")
}

/// A whole number that is not negative.
pub(super) fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The text of a value. A rejection asks for quotes: an error prints `5` and `"5"` much alike.
pub(super) fn text<'v>(value: &'v DeValue<'_>, allowed: &str) -> Result<&'v str, Rejection> {
    value
        .as_str()
        .ok_or_else(|| Some(wrong_type("a text in quotes", allowed)))
}

/// Rejects a value that is not a number, and says what to write instead: `form`.
pub(super) fn check_number(
    value: &DeValue<'_>,
    form: &str,
    allowed: &str,
) -> Result<(), Rejection> {
    match value {
        DeValue::Integer(_) | DeValue::Float(_) => Ok(()),
        _ => Err(Some(wrong_type(form, allowed))),
    }
}

fn wrong_type(form: &str, allowed: &str) -> String {
    format!("write {form}; {}", must_be(allowed))
}

/// A size in bytes: a number, or a text with a unit.
pub(super) fn size(value: &DeValue<'_>, allowed: &str) -> Result<u64, Rejection> {
    if let Some(text) = value.as_str() {
        return parse_size(text).map_err(|error| Some(error.to_string()));
    }
    check_number(value, "a number, or a text such as \"64MiB\"", allowed)?;
    integer(value).ok_or(None)
}

/// The byte offset of a value, 0 when there is none.
pub(super) fn offset_of(found: Option<&Spanned<DeValue<'_>>>) -> usize {
    found.map_or(0, |found| found.span().start)
}

/// How an error shows a value.
pub(super) fn describe(value: &DeValue<'_>) -> String {
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
