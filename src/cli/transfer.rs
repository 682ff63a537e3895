//! Long transfers between the memory and a local file or stream, on several threads. Each thread
//! has its own buffer, and outside this host its own connection to a server.
//!
//! The thread that runs the command moves every transfer alone until that turns out to be long;
//! the others only help. A helper ends if a server does not take another connection, so that a
//! transfer never needs more than one connection to each server.

use super::context::{CHUNK, CommandContext};
use dsm_client::{Client, DataPath, Layout};
use dsm_config::LocalAccess;
use std::ops::Range;
use std::thread::Builder;

/// Bytes of a step of a long transfer, and so of the buffer of each thread. A multiple of eight,
/// so that no number is cut in two. With twice as many, the buffers of a few threads do not fit
/// into the processor's cache.
const STEP: u64 = 512 << 10;

/// The most threads of a transfer. All their steps together must not have more bytes than the one
/// step of a transfer on a single thread: they share the network, and have the same time for it.
const THREADS: usize = 8;

/// Bytes of the stack of a helper. This is enough, as its buffer is on the heap.
const STACK: usize = 512 << 10;

/// A part of a transfer that one thread moves with one call of the client.
#[derive(Debug, Clone, Copy)]
pub(super) struct TransferStep {
    /// Bytes of the transfer before this step.
    pub(super) position: u64,
    pub(super) length: usize,
}

/// What a thread is to do next.
#[derive(Debug)]
pub(super) enum TransferTask {
    /// Move these bytes.
    Move(TransferStep),
    /// Get a client for these servers, and ask again.
    Connect(Range<usize>),
    /// There is nothing left.
    End,
}

/// A transfer in one direction.
pub(super) trait Transfer: Sync {
    /// Takes the next step, of at most `buffer.len()` bytes, unless it is on other servers than
    /// `connected`. A transfer to the memory puts the bytes into the buffer.
    fn take(&self, connected: &Range<usize>, buffer: &mut [u8]) -> TransferTask;

    /// Moves the bytes of the step, whose length `data` has.
    fn carry(&self, step: TransferStep, data: &mut [u8], client: &Client);
}

/// How a transfer of a known or unknown length is cut into steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    /// Bytes of the first step at most.
    pub(super) first: u64,
    /// Bytes of every other step at most.
    next: u64,
    /// Whether helpers start with the first step, and not only with the second.
    is_long: bool,
    helpers: usize,
}

impl Steps {
    /// The steps of a transfer of `total` bytes, if that is known. One of up to [`CHUNK`] has a
    /// single step.
    pub(super) fn new(layout: &Layout, total: Option<u64>) -> Self {
        let is_long = total.is_some_and(|total| total > CHUNK);
        // If servers are smaller than a step, one call of this thread uses many of them.
        let (next, helpers) = if layout.share_size() < STEP {
            (CHUNK, 0)
        } else {
            (STEP, THREADS - 1)
        };
        Self {
            first: if is_long { next } else { CHUNK },
            next,
            is_long,
            helpers,
        }
    }
}

/// Moves all steps. `buffer` has the length of the first of them; it is never empty.
pub(super) fn run(
    transfer: &impl Transfer,
    steps: Steps,
    mut buffer: Vec<u8>,
    context: &CommandContext,
) {
    let all = 0..context.layout().server_count();
    std::thread::scope(|scope| {
        let mut helpers = steps.helpers;
        while let TransferTask::Move(step) = transfer.take(&all, &mut buffer) {
            if steps.is_long || step.position > 0 {
                for _ in 0..std::mem::take(&mut helpers) {
                    // Without this thread the transfer only takes longer.
                    let _ = Builder::new()
                        .stack_size(STACK)
                        .spawn_scoped(scope, || help(transfer, context));
                }
            }
            transfer.carry(step, &mut buffer[..step.length], &context.client);
            if step.length == buffer.len() {
                // At most `CHUNK`, which fits a usize.
                #[allow(clippy::cast_possible_truncation)]
                buffer.truncate(steps.next as usize);
                buffer.shrink_to_fit();
            }
        }
    });
}

/// Moves steps as long as there are any, and servers take another connection.
fn help(transfer: &impl Transfer, context: &CommandContext) {
    #[allow(clippy::cast_possible_truncation)] // it fits a usize
    let mut buffer = vec![0; STEP as usize];
    let (mut client, mut connected) = (context.client.clone(), 0..0);
    loop {
        match transfer.take(&connected, &mut buffer) {
            TransferTask::Move(step) => transfer.carry(step, &mut buffer[..step.length], &client),
            TransferTask::Connect(servers) => {
                let Some(other) = connect(servers.clone(), context) else {
                    return;
                };
                (client, connected) = (other, servers);
            }
            TransferTask::End => return,
        }
    }
}

/// A client with a separate connection to each of the servers; `None` if one of them takes none.
/// The connections to other servers are closed, so that their number does not grow.
fn connect(mut servers: Range<usize>, context: &CommandContext) -> Option<Client> {
    let is_local = |server| matches!(context.client.data_path(server), Ok(DataPath::Local));
    if servers.clone().all(is_local) {
        return Some(context.client.clone());
    }
    // It must not work on other memory than the rest of the transfer.
    let client = context.client.clone().with_own_connections();
    let client = client.with_local(LocalAccess::Never);
    servers
        .all(|server| client.ping(server).is_ok())
        .then_some(client)
}

/// The servers of a range inside the memory.
pub(super) fn servers(layout: &Layout, address: u64, length: u64) -> Range<usize> {
    let server = |address| layout.locate(address).map(|(server, _)| server);
    match (server(address), server(address + length.saturating_sub(1))) {
        (Ok(first), Ok(last)) if length > 0 => first..last + 1,
        _ => 0..0,
    }
}

/// Whether all of `servers` are among `connected`.
pub(super) fn is_connected(connected: &Range<usize>, servers: &Range<usize>) -> bool {
    servers.is_empty() || connected.start <= servers.start && servers.end <= connected.end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(k: u64) -> Layout {
        let servers = ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
        Layout::new("dsm", k, servers).unwrap()
    }

    #[test]
    fn only_a_long_transfer_has_helpers_from_its_start() {
        let layout = layout(1 << 30);
        for (total, first, is_long) in [
            (Some(1), CHUNK, false),
            (Some(CHUNK), CHUNK, false),
            (None, CHUNK, false),
            (Some(CHUNK + 1), STEP, true),
        ] {
            let steps = Steps::new(&layout, total);
            assert_eq!((steps.first, steps.is_long), (first, is_long), "{total:?}");
            assert_eq!((steps.next, steps.helpers), (STEP, THREADS - 1));
        }
    }

    #[test]
    fn the_steps_under_way_have_no_more_bytes_than_a_single_one() {
        assert!(THREADS as u64 * STEP <= CHUNK && STEP.is_multiple_of(8));
        // One call uses many small servers.
        let steps = Steps::new(&layout(STEP / 2), Some(1 << 30));
        assert_eq!((steps.first, steps.next, steps.helpers), (CHUNK, CHUNK, 0));
    }

    #[test]
    fn a_thread_needs_connections_to_all_servers_of_a_step() {
        let layout = layout(1 << 20);
        assert_eq!(servers(&layout, 5, 0), 0..0);
        assert_eq!(servers(&layout, 0, 1 << 20), 0..1);
        assert_eq!(servers(&layout, (2 << 20) - 1, 2), 1..3);
        assert!(is_connected(&(1..3), &(2..3)) && is_connected(&(0..0), &(0..0)));
        assert!(!is_connected(&(1..2), &(1..3)) && !is_connected(&(1..2), &(0..1)));
    }
}
