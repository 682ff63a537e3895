//! The status of a server: the payload of a status reply, a JSON object.

use super::LoggedOperations;
use super::MemoryState;
use crate::Incarnation;
use crate::layout::MAX_ADDRESS_TEXT;
use crate::printable::printable;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The longest text in a status, in bytes: no text needs to be longer than an address.
const MAX_TEXT: usize = MAX_ADDRESS_TEXT;

fn format_before_it_was_told() -> u64 {
    3
}

/// Reads a text of the server, sanitised.
fn text<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    Ok(printable(&text, MAX_TEXT).into_owned())
}

/// Reads counters whose names are texts of the server, sanitised.
fn counters<'de, D: Deserializer<'de>>(source: D) -> Result<BTreeMap<String, u64>, D::Error> {
    let counters = BTreeMap::<String, u64>::deserialize(source)?;
    Ok(counters
        .into_iter()
        .map(|(name, count)| (printable(&name, MAX_TEXT).into_owned(), count))
        .collect())
}

/// The state and counters of one server. Counters start at zero when the process starts.
///
/// A server begins with the default, which has nothing in it, and fills in every field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Version of dsmd.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// The system's name.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// The server's index.
    pub index: u32,
    /// Its address in the network map.
    #[serde(deserialize_with = "text")]
    pub address: String,
    /// Process id of dsmd.
    pub pid: u32,
    /// Seconds since dsmd became ready.
    pub uptime_seconds: u64,
    /// Incarnation of the segment.
    pub incarnation: Incarnation,
    /// Fingerprint of the layout, 32 hexadecimal digits.
    #[serde(deserialize_with = "text")]
    pub fingerprint: String,
    /// Whether the memory can be used.
    pub memory: MemoryState,
    /// Bytes that the server shares.
    pub k: u64,
    /// Bytes of shared memory beyond k: tables and write-ahead slots.
    pub overhead_bytes: u64,
    /// The format of the segment in shared memory. The releases that do not tell it have format 3.
    #[serde(default = "format_before_it_was_told")]
    pub format: u64,
    /// Connections now and since the start.
    pub connections: Connections,
    /// Sessions that can be resumed.
    pub sessions: Sessions,
    /// Requests carried out, by operation.
    #[serde(deserialize_with = "counters")]
    pub operations: BTreeMap<String, u64>,
    /// Bytes and outcomes.
    pub traffic: Traffic,
    /// Operations of local clients in the segment.
    #[serde(default)]
    pub local: LocalTraffic,
    /// Repairs of dead participants.
    pub recovery: Recovery,
    /// Service times of requests, from read to answered, not counting the network.
    pub latency: Vec<LatencyBucket>,
    /// The operation log.
    pub operation_log: OperationLogStatus,
}

/// Connections of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// The most that may be open, `limits.connections`.
    pub limit: u64,
    /// Accepted since the start.
    pub accepted: u64,
    /// Refused since the start because the limit was reached.
    pub refused: u64,
    /// Threads that serve them now.
    pub threads: u64,
}

/// The table of sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sessions {
    /// Entries in use.
    pub used: u64,
    /// Entries that the segment has.
    pub limit: u64,
    /// Sessions evicted since the start to make room.
    pub evicted: u64,
}

/// Bytes and outcomes of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes of data read by clients.
    pub bytes_read: u64,
    /// Bytes of data written by clients.
    pub bytes_written: u64,
    /// Requests refused, of every code.
    pub errors: u64,
    /// Requests that were sent again after a lost connection and had already been executed.
    pub replayed: u64,
}

/// Operations of local clients, which use the segment without the network, since the segment was
/// made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LocalTraffic {
    /// Reads carried out.
    pub reads: u64,
    /// Writes carried out.
    pub writes: u64,
    /// Fills carried out.
    pub fills: u64,
    /// Copies carried out.
    pub copies: u64,
    /// Atomics carried out, including compare-and-swaps that found another value.
    pub atomics: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes changed.
    pub bytes_written: u64,
}

/// Deaths of participants, and their repairs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recovery {
    /// Participants that have the segment mapped now, including this server.
    pub participants: u64,
    /// Dead participants that were repaired since the segment was made.
    pub repaired: u64,
    /// Committed writes of dead participants that repairs carried out.
    pub redone_writes: u64,
}

/// One bucket of the histogram of service times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LatencyBucket {
    /// Upper bound of the bucket, in nanoseconds, exclusive. The lower bound is the upper bound of
    /// the previous bucket, or zero.
    pub below_ns: u64,
    /// Requests in it.
    pub count: u64,
}

impl LatencyBucket {
    /// A bucket of `count` requests that took less than `below_ns` nanoseconds.
    #[must_use]
    pub fn new(below_ns: u64, count: u64) -> Self {
        Self { below_ns, count }
    }
}

/// The operation log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OperationLogStatus {
    /// Which operations it records.
    pub mode: LoggedOperations,
    /// Lines written since the start.
    pub written: u64,
    /// Lines lost since the start because the disk did not keep up or failed.
    pub lost: u64,
}
