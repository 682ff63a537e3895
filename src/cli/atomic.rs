//! `dsmctl cas`, `add` and `swap`: one word of 64 bits, whose old value they print.

use super::arguments::{Add, Cas, Swap};
use super::failure::Failure;
use super::output;
use super::session::Session;
use dsm_client::CompareAndSwap;
use serde_json::{Value, json};

/// Returns whether the word had the expected value, and so was replaced.
pub(super) fn cas(cas: &Cas, session: &Session) -> Result<bool, Failure> {
    let old = session.client.compare_and_swap(
        cas.address,
        CompareAndSwap {
            expected: cas.expected,
            new: cas.new,
        },
    )?;
    let swapped = old == cas.expected;
    show(
        session,
        old,
        || json!({ "address": cas.address, "old": old, "expected": cas.expected, "new": cas.new, "swapped": swapped }),
    )?;
    Ok(swapped)
}

pub(super) fn add(add: &Add, session: &Session) -> Result<(), Failure> {
    let old = session.client.fetch_add(add.address, add.number)?;
    show(
        session,
        old,
        || json!({ "address": add.address, "old": old, "new": old.wrapping_add(add.number) }),
    )
}

pub(super) fn swap(swap: &Swap, session: &Session) -> Result<(), Failure> {
    let old = session.client.swap(swap.address, swap.number)?;
    show(
        session,
        old,
        || json!({ "address": swap.address, "old": old, "new": swap.number }),
    )
}

fn show(session: &Session, old: u64, json: impl FnOnce() -> Value) -> Result<(), Failure> {
    if session.json {
        output::print_json(&json())
    } else {
        output::print(&format!("{old}\n"))
    }
}
