//! Words of a status, as enums. A word that only a later release knows is kept as text.

use crate::printable::printable;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most bytes that are kept of an unknown word.
const MAX_WORD: usize = 64;

/// Declares an enum whose variants are shown, and written in JSON, as these words.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$of_variant])* $variant,)+
            /// A word that this release does not know.
            Other(String),
        }

        impl $name {
            /// The word.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Other(word) => word,
                }
            }
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $($word => Self::$variant,)+
                    other => Self::Other(printable(other, MAX_WORD).into_owned()),
                }
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.as_str())
            }
        }
    };
}

words! {
    /// Whether the memory of a server can be used.
    MemoryState {
        /// It can be read and changed.
        #[default]
        InUse = "in use",
        /// It can be read and changed, but has lost its name in /dev/shm: it ends with dsmd.
        InUseRemoved = "in use, removed",
        /// It can be read and changed, but its copy area or a semaphore in /dev/shm was removed: no
        /// other process can open it.
        InUsePartsRemoved = "in use, parts removed",
        /// It was lost. It waits until an administrator restores a snapshot or accepts zeros.
        WaitingForRestore = "waiting for restore",
        /// A snapshot is being restored into it.
        BeingRestored = "being restored",
    }
}

words! {
    /// Which operations the operation log of a server records.
    LoggedOperations {
        /// None: there is no operation log.
        #[default]
        Off = "off",
        /// Those that change the memory.
        Writes = "writes",
        /// All.
        All = "all",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_later_release_is_kept_and_safe_to_show() {
        for word in ["in use", "in use, removed", "waiting for restore"] {
            assert_eq!(MemoryState::from(word.to_owned()).to_string(), word);
        }
        assert_eq!(MemoryState::from("in use".to_owned()), MemoryState::InUse);
        let later = MemoryState::from(format!("\u{1b}[2J{}", "x".repeat(1000)));
        assert!(matches!(later, MemoryState::Other(_)));
        assert!(
            later.as_str().len() <= 2 * MAX_WORD && !later.as_str().contains('\u{1b}'),
            "{later}"
        );
    }
}
