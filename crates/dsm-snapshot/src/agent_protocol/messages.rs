//! The requests of a master and the responses of an agent, as `docs/agent-protocol.md` specifies
//! them. Each is the JSON of a control message.
//!
//! Parsing checks what the peer wrote: ids and file names have a syntax, and text for people is
//! made printable and bounded, so that nothing a peer sends can reach a terminal or a path as it
//! is.

use crate::FileName;
use dsm_core::layout::MAX_LAYOUT_TEXT;
use dsm_core::printable::{self, printable};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

/// The longest response, in bytes. The longest that an agent sends, a list of snapshots, needs far
/// less.
pub(super) const MAX_RESPONSE: usize = 1 << 20;

/// The longest request, in bytes: `hello` with the longest layout text, in which JSON escapes a
/// line break, a quote or a backslash as two bytes, and 1 KiB for the rest of the message.
pub const MAX_REQUEST: usize = 2 * MAX_LAYOUT_TEXT + 1024;

/// The longest id of a snapshot lock, in bytes. dsm-snapshot and dsmctl send 32 hexadecimal
/// digits.
const MAX_LOCK_ID: usize = 64;

/// What a master takes the snapshot lock for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockPurpose {
    /// To read the memory of one instant.
    Snapshot,
    /// To replace bytes of the memory.
    Restore,
}

/// The name of a snapshot or restore in logs: 1 to 64 characters of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct LockId(String);

impl LockId {
    /// The id of a snapshot, given as hexadecimal digits.
    #[must_use]
    pub fn of_hex(id: &str) -> Self {
        Self(id.to_owned())
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LockId {
    type Error = String;

    fn try_from(id: String) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || id.len() > MAX_LOCK_ID || !id.bytes().all(allowed) {
            let found = printable(&id, MAX_LOCK_ID);
            return Err(format!(
                "the id {found:?}, where 1 to {MAX_LOCK_ID} of a-z, 0-9 and - are allowed"
            ));
        }
        Ok(Self(id))
    }
}

/// Text for people that the peer wrote, made printable and cut to a bound.
fn foreign_text<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    Ok(printable(&text, printable::MAX_LOG_TEXT).into_owned())
}

/// The name of a snapshot file of the peer; an error when it does not have the form of one.
fn file_name<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let name = String::deserialize(source)?;
    if FileName::parse(&name).is_none() {
        let found = printable(&name, MAX_SHOWN_NAME);
        return Err(D::Error::custom(format_args!(
            "{found:?} is not the name of a snapshot"
        )));
    }
    Ok(name)
}

/// How much of a name is shown that does not have the form of a snapshot's, in bytes. Names of
/// snapshots are shorter.
pub const MAX_SHOWN_NAME: usize = 64;

/// The requests of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
// `docs/agent-protocol.md` says what every field means.
#[allow(missing_docs)]
pub enum AgentRequest {
    /// The first request: which server is meant, and the canonical text of the layout in the
    /// master's mcomp.cfg.
    Hello { layout: String, index: u32 },
    /// Opens the segment and takes its snapshot lock. The id is for logs.
    Claim { purpose: LockPurpose, id: LockId },
    /// Keeps writers out until the lease ends.
    Freeze { lease_us: u64 },
    /// Begins a cut whose copy area has at most `copy_area` bytes, and admits the writers again.
    Cut { copy_area: u64 },
    /// Asks for the pages of the cut as frames. Level 0 stores them without compression.
    Send { level: i32, frame_size: u32 },
    /// Closes the frozen memory, so that its bytes can be replaced.
    Shut,
    /// Sets a range of the segment to zeros. It has no response.
    Zeros { offset: u64, length: u64 },
    /// Asks for a response after all bytes that were sent before are in the memory.
    Written,
    /// Opens the memory with a new incarnation.
    Commit,
    /// Opens the memory as it was, if no byte was changed.
    Cancel,
    /// Asks for a number that changes when a program changes the memory.
    Activity,
    /// Opens a memory that waits for a restore, as zeros.
    Accept,
    /// Asks for a list of the whole snapshots.
    Snapshots,
    /// Asks for a range of the memory in the snapshot of that name, as data. Offsets count from the
    /// beginning of the range.
    Fetch {
        name: String,
        address: u64,
        length: u64,
    },
    /// Restores the part of the agent's server in the newest snapshot into a memory that waits for
    /// a restore.
    Recover,
}

/// The responses of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
// `docs/agent-protocol.md` says what every field means.
#[allow(missing_docs)]
pub enum AgentResponse {
    Welcome {
        hostname: String,
    },
    Claimed {
        incarnation: u64,
    },
    /// `shut`: the memory waits for a restore, and was not frozen.
    Frozen {
        shut: bool,
    },
    /// How long the writers were kept out, in µs.
    Cut {
        pause_us: u64,
    },
    /// All frames were sent. `pages_copied` is the number of pages that writers saved.
    Sent {
        pages_copied: u64,
    },
    Shut,
    Written,
    Committed {
        incarnation: u64,
    },
    Cancelled {
        open: bool,
    },
    Activity {
        number: u64,
    },
    Snapshots {
        files: Vec<StoredSnapshot>,
    },
    Fetched,
    Recovered {
        #[serde(deserialize_with = "file_name")]
        name: String,
        cut_time: u64,
        incarnation: u64,
    },
    Refused {
        reason: RefusalReason,
        #[serde(deserialize_with = "foreign_text")]
        message: String,
    },
}

/// A whole snapshot in the directory of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSnapshot {
    /// The name of its file.
    #[serde(deserialize_with = "file_name")]
    pub name: String,
    /// The time of its cut, in ns since 1970.
    pub cut_time: u64,
    /// Bytes of the memory in the snapshot.
    pub size: u64,
}

/// Why an agent refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusalReason {
    /// The two mcomp.cfg differ, or the master means another server.
    Layout,
    /// Another master has the snapshot lock.
    UnderWay,
    /// There is no segment, or it cannot be opened.
    NoSegment,
    /// The next request did not come within the lease of the freeze, or within the time for the
    /// first byte.
    Late,
    /// The cut was abandoned, or the segment was thrown away.
    Abandoned,
    /// The memory waits for a restore.
    Shut,
    /// The memory does not wait for a restore.
    InUse,
    /// There is no such snapshot, or it is not sound.
    NoSnapshot,
    /// The request came out of turn, or was not understood.
    Protocol,
    /// The agent met an error of the operating system.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_of_a_peer_have_a_syntax_and_its_texts_are_made_printable() {
        let claim = |id: &str| {
            serde_json::from_value::<AgentRequest>(
                serde_json::json!({"claim": {"purpose": "restore", "id": id}}),
            )
        };
        for good in ["0123456789abcdef", "a-b", &"a".repeat(64)] {
            claim(good).unwrap();
        }
        for bad in ["", "A", "a b", "a\x1b[2J", "ä", &"a".repeat(65)] {
            let error = claim(bad).unwrap_err().to_string();
            assert!(error.len() < 200 && !error.contains('\x1b'), "{error}");
        }
        let listed = |name: &str| {
            let file = serde_json::json!({"name": name, "cut_time": 0, "size": 0});
            serde_json::from_value::<AgentResponse>(
                serde_json::json!({"snapshots": {"files": [file]}}),
            )
        };
        listed("dsm-20261123T040000Z.dsnap").unwrap();
        listed("../\x1b]0;").unwrap_err();
        let refused = serde_json::json!({"refused": {"reason": "failed", "message": "\x1b[31m".repeat(1000)}});
        let Ok(AgentResponse::Refused { message, .. }) = serde_json::from_value(refused) else {
            panic!()
        };
        assert!(
            message.len() <= printable::MAX_LOG_TEXT && !message.contains('\x1b'),
            "{message}"
        );
    }
}
