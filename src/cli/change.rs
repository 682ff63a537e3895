//! `dsmctl fill` and `dsmctl copy`: changes for which dsmctl sends no data, made in steps that each
//! fit one deadline.

use super::arguments::{CopyArgs, FillArgs};
use super::context::{CHUNK, CommandContext};
use super::failure::CliFailure;
use super::output;
use super::progress::Progress;
use serde_json::json;

/// Bytes that one step fills. It may be large, as only a few requests cross the network.
const FILL_STEP: u64 = 64 << 20;

pub(super) fn fill(fill: &FillArgs, context: &CommandContext) -> Result<(), CliFailure> {
    context.check(fill.address, fill.length)?;
    let mut progress = Progress::new(Some(fill.length));
    while progress.done() < fill.length {
        let done = progress.done();
        let step = FILL_STEP.min(fill.length - done);
        let filled = context.client.fill(fill.address + done, step, fill.byte);
        filled.map_err(|error| CliFailure::from(error).after("filled", done, Some(fill.length)))?;
        progress.advance(step);
    }
    if context.json {
        output::print_json(
            &json!({ "address": fill.address, "length": fill.length, "byte": fill.byte }),
        )?;
    }
    Ok(())
}

pub(super) fn copy(copy: &CopyArgs, context: &CommandContext) -> Result<(), CliFailure> {
    for (what, start) in [("the source", copy.from), ("the destination", copy.to)] {
        let pieces = context.layout().pieces(start, copy.length);
        pieces.map(drop).map_err(|error| CliFailure::Outside {
            what: what.to_owned(),
            error,
        })?;
    }
    let mut progress = Progress::new(Some(copy.length));
    for (start, step) in steps(copy) {
        let copied = context
            .client
            .copy(copy.from + start..copy.from + start + step, copy.to + start);
        copied.map_err(|error| {
            CliFailure::from(error).after("copied", progress.done(), Some(copy.length))
        })?;
        progress.advance(step);
    }
    if context.json {
        output::print_json(&json!({ "from": copy.from, "to": copy.to, "length": copy.length }))?;
    }
    Ok(())
}

/// The steps of a copy, as start and length within the range. When the destination is above the
/// source, the last step comes first: otherwise a step would overwrite overlapping bytes of the
/// source before a later step had copied them.
fn steps(copy: &CopyArgs) -> impl Iterator<Item = (u64, u64)> {
    let (length, up) = (copy.length, copy.to > copy.from);
    let count = length.div_ceil(CHUNK);
    (0..count).map(move |step| {
        let start = CHUNK * if up { count - 1 - step } else { step };
        (start, CHUNK.min(length - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_between_overlapping_ranges_loses_no_byte() {
        let length = 2 * CHUNK + 5;
        let up: Vec<_> = steps(&CopyArgs {
            from: 0,
            to: 1,
            length,
        })
        .collect();
        assert_eq!(up, [(2 * CHUNK, 5), (CHUNK, CHUNK), (0, CHUNK)]);
        let down: Vec<_> = steps(&CopyArgs {
            from: 1,
            to: 0,
            length,
        })
        .collect();
        assert_eq!(down, [(0, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, 5)]);
        assert_eq!(
            steps(&CopyArgs {
                from: 1,
                to: 0,
                length: 0
            })
            .count(),
            0
        );
    }
}
