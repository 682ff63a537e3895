//! `dsmctl fill` and `dsmctl copy`: changes that carry no data of the caller's, in steps that fit
//! one deadline.

use super::arguments::{Copy, Fill};
use super::failure::Failure;
use super::output;
use super::progress::Progress;
use super::session::{CHUNK, Session};
use serde_json::json;

/// Bytes that one step fills: nothing but a few requests crosses the network.
const FILL_STEP: u64 = 64 << 20;

pub(super) fn fill(fill: &Fill, session: &Session) -> Result<(), Failure> {
    session.check(fill.address, fill.length)?;
    let mut progress = Progress::new(Some(fill.length));
    while progress.done() < fill.length {
        let done = progress.done();
        let step = FILL_STEP.min(fill.length - done);
        let filled = session.client.fill(fill.address + done, step, fill.byte);
        filled.map_err(|error| Failure::from(error).after("filled", done, Some(fill.length)))?;
        progress.advance(step);
    }
    if session.json {
        output::print_json(
            &json!({ "address": fill.address, "length": fill.length, "byte": fill.byte }),
        )?;
    }
    Ok(())
}

pub(super) fn copy(copy: &Copy, session: &Session) -> Result<(), Failure> {
    for (what, start) in [("the source", copy.from), ("the destination", copy.to)] {
        let pieces = session.layout().pieces(start, copy.length);
        pieces.map(drop).map_err(|error| Failure::Outside {
            what: what.to_owned(),
            error,
        })?;
    }
    let mut progress = Progress::new(Some(copy.length));
    for (start, step) in steps(copy) {
        let copied = session
            .client
            .copy(copy.from + start..copy.from + start + step, copy.to + start);
        copied.map_err(|error| {
            Failure::from(error).after("copied", progress.done(), Some(copy.length))
        })?;
        progress.advance(step);
    }
    if session.json {
        output::print_json(&json!({ "from": copy.from, "to": copy.to, "length": copy.length }))?;
    }
    Ok(())
}

/// The steps of a copy, as start and length within the range. The last comes first when the range
/// moves up: where the two overlap, no byte may be overwritten before it has been copied.
fn steps(copy: &Copy) -> impl Iterator<Item = (u64, u64)> {
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
    fn a_copy_that_overlaps_itself_loses_no_byte() {
        let length = 2 * CHUNK + 5;
        let up: Vec<_> = steps(&Copy {
            from: 0,
            to: 1,
            length,
        })
        .collect();
        assert_eq!(up, [(2 * CHUNK, 5), (CHUNK, CHUNK), (0, CHUNK)]);
        let down: Vec<_> = steps(&Copy {
            from: 1,
            to: 0,
            length,
        })
        .collect();
        assert_eq!(down, [(0, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, 5)]);
        assert_eq!(
            steps(&Copy {
                from: 1,
                to: 0,
                length: 0
            })
            .count(),
            0
        );
    }
}
