//! `dsmctl cas`, `add` and `swap`: atomic operations on one word of 64 bits. They print its old
//! value.

use super::arguments::{AddArgs, CasArgs, SwapArgs};
use super::context::CommandContext;
use super::failure::CliFailure;
use super::output;
use dsm_client::CompareAndSwap;
use serde_json::{Value, json};

/// Returns whether the word had the expected value and was replaced.
pub(super) fn cas(cas: &CasArgs, context: &CommandContext) -> Result<bool, CliFailure> {
    let old = context.client.compare_and_swap(
        cas.address,
        CompareAndSwap {
            expected: cas.expected,
            new: cas.new,
        },
    )?;
    let swapped = old == cas.expected;
    show(
        context,
        old,
        || json!({ "address": cas.address, "old": old, "expected": cas.expected, "new": cas.new, "swapped": swapped }),
    )?;
    Ok(swapped)
}

pub(super) fn add(add: &AddArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let old = context.client.fetch_add(add.address, add.number)?;
    show(
        context,
        old,
        || json!({ "address": add.address, "old": old, "new": old.wrapping_add(add.number) }),
    )
}

pub(super) fn swap(swap: &SwapArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let old = context.client.swap(swap.address, swap.number)?;
    show(
        context,
        old,
        || json!({ "address": swap.address, "old": old, "new": swap.number }),
    )
}

fn show(
    context: &CommandContext,
    old: u64,
    json: impl FnOnce() -> Value,
) -> Result<(), CliFailure> {
    if context.json {
        output::print_json(&json())
    } else {
        output::print(&format!("{old}\n"))
    }
}
