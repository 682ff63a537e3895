//! Sending the bytes: every address of the plan gets the byte that the snapshot has, or zero.

use super::{Interruption, RestorePlan};
use crate::agent_protocol::{AgentConnection, RECEIVE_TASK};
use crate::agent_protocol::{AgentRequest, AgentResponse};
use crate::{SnapshotFile, for_each_part};
use dsm_core::layout::PAGE;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The most servers that the master sends to at the same time.
const MAX_CONCURRENT_SERVERS: usize = 4;

/// Sends the first page of every part. An agent opens the memory again when its master does not
/// begin to change it in time, and the master sends the rest to only a few agents at a time.
pub(super) fn fill_first_pages(
    k: u64,
    file: &SnapshotFile,
    plan: &RestorePlan,
    parts: &[(usize, Range<u64>)],
    connections: &mut [AgentConnection],
) -> Result<(), Interruption> {
    for (connection, (server, addresses)) in connections.iter().zip(parts) {
        let end = addresses.end.min(addresses.start + PAGE);
        let in_snapshot =
            addresses.start.max(plan.from_snapshot.start)..end.min(plan.from_snapshot.end);
        // At most a page.
        #[allow(clippy::cast_possible_truncation)]
        let mut bytes = vec![0; (end - addresses.start) as usize];
        for_each_part::<_, Interruption>(file, &in_snapshot, |address, data| {
            #[allow(clippy::cast_possible_truncation)]
            let place = (address - addresses.start) as usize;
            bytes[place..place + data.len()].copy_from_slice(data);
            Ok(())
        })?;
        connection.send_data(addresses.start - *server as u64 * k, &bytes)?;
        connection.send_request(&AgentRequest::Written, RECEIVE_TASK)?;
    }
    for connection in connections {
        match connection.receive_response(RECEIVE_TASK, connection.timeout())? {
            AgentResponse::Written => {}
            other => return Err(connection.unexpected(&other).into()),
        }
    }
    Ok(())
}

/// Sends every byte of every part, to a few servers at a time. Returns the bytes that came from the
/// snapshot.
pub(super) fn fill(
    k: u64,
    file: &SnapshotFile,
    plan: &RestorePlan,
    parts: &[(usize, Range<u64>)],
    connections: &mut [AgentConnection],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<u64, Interruption> {
    let total = plan.addresses.end - plan.addresses.start;
    let done = Mutex::new((0, progress));
    let advance = |bytes: u64| {
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.0 += bytes;
        let so_far = done.0;
        (done.1)(so_far, total);
    };
    let waiting = Mutex::new(connections.iter_mut().zip(parts));
    let outcome = Mutex::new(Ok(0));
    std::thread::scope(|scope| {
        for _ in 0..MAX_CONCURRENT_SERVERS.min(parts.len()) {
            scope.spawn(|| {
                loop {
                    let next = waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .next();
                    let Some((connection, (server, addresses))) = next else {
                        return;
                    };
                    let filled = fill_server(
                        file,
                        plan,
                        addresses,
                        *server as u64 * k,
                        connection,
                        &advance,
                    );
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    match (&mut *outcome, filled) {
                        (Ok(bytes), Ok(more)) => *bytes += more,
                        (Ok(_), Err(error)) => *outcome = Err(error),
                        (Err(_), _) => {}
                    }
                    if outcome.is_err() {
                        return;
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Sends every byte of one server's part, and waits until all are in its memory. Returns the bytes
/// that came from the snapshot.
pub(super) fn fill_server(
    file: &SnapshotFile,
    plan: &RestorePlan,
    addresses: &Range<u64>,
    base: u64,
    connection: &mut AgentConnection,
    advance: &dyn Fn(u64),
) -> Result<u64, Interruption> {
    let (mut next, mut bytes) = (addresses.start, 0);
    let zeros = |connection: &AgentConnection, from: u64, to: u64| -> Result<(), Interruption> {
        if from < to {
            connection.send_request(
                &AgentRequest::Zeros {
                    offset: from - base,
                    length: to - from,
                },
                RECEIVE_TASK,
            )?;
            advance(to - from);
        }
        Ok(())
    };
    let from_snapshot =
        addresses.start.max(plan.from_snapshot.start)..addresses.end.min(plan.from_snapshot.end);
    for_each_part::<_, Interruption>(file, &from_snapshot, |address, data| {
        zeros(connection, next, address)?;
        connection.send_data(address - base, data)?;
        next = address + data.len() as u64;
        bytes += data.len() as u64;
        advance(data.len() as u64);
        Ok(())
    })?;
    zeros(connection, next, addresses.end)?;
    match connection.request(&AgentRequest::Written, RECEIVE_TASK)? {
        AgentResponse::Written => Ok(bytes),
        other => Err(connection.unexpected(&other).into()),
    }
}
