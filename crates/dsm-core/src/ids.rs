//! Identifiers, each a separate type, so that the compiler refuses a server's index where an
//! address is expected.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::fmt;

/// An address in the memory: the number of bytes before it, 0 to N·k - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(u64);

impl Address {
    /// The address with this number of bytes before it.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes before it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for Address {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<Address> for u64 {
    fn from(address: Address) -> Self {
        address.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A server's place in the network map, 0 to N-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServerIndex(usize);

impl ServerIndex {
    /// The server with this index.
    #[must_use]
    pub const fn new(index: usize) -> Self {
        Self(index)
    }

    /// The index.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

impl From<usize> for ServerIndex {
    fn from(index: usize) -> Self {
        Self(index)
    }
}

impl From<ServerIndex> for usize {
    fn from(index: ServerIndex) -> Self {
        index.0
    }
}

impl fmt::Display for ServerIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The random id of a segment's contents. It is new whenever the memory starts from zero or from a
/// restore. Shown as 16 hexadecimal digits. The default, zero, names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The incarnation with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl Serialize for Incarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // from_str_radix would also accept a sign.
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(D::Error::custom("an incarnation has 16 hexadecimal digits"));
        }
        u64::from_str_radix(&text, 16)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    #[test]
    fn an_incarnation_is_parsed_as_it_is_shown() {
        let read = |text: &str| {
            let text: StrDeserializer<'_, Error> = text.into_deserializer();
            Incarnation::deserialize(text).ok()
        };
        assert_eq!(Incarnation::new(0xab).to_string(), "00000000000000ab");
        assert_eq!(read("00000000000000ab"), Some(Incarnation::new(0xab)));
        for wrong in [
            "",
            "ab",
            "0x000000000000ab",
            "00000000000000ab0",
            "+0000000000000ab",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
