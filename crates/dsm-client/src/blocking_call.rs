//! Blocking calls of one request to a server: a queue each, without the lists of a pipeline.

use super::call::{Call, CallKind, CallOutput};
use super::driver::QueueDriver;
use super::error::Error;
use super::pool::ClientState;
use super::pump::{CallTime, pump};
use std::ops::Range;
use std::sync::Arc;

/// Carries the call out over TCP.
pub(super) fn carry_out(
    shared: &Arc<ClientState>,
    server: usize,
    call: Call<'_>,
    time: CallTime,
) -> Result<CallOutput, Error> {
    let mut driver = QueueDriver::new(shared, server, time.now);
    driver.submit(call);
    finish(std::slice::from_mut(&mut driver), time);
    outcome(driver)
}

/// Asks servers for a status or a ping, all at the same time; returns the answers in their order.
/// That of a server fails at once when its machine says that no server is there.
pub(super) fn ask(
    shared: &Arc<ClientState>,
    servers: Range<usize>,
    kind: impl Fn() -> CallKind<'static>,
    time: CallTime,
) -> impl Iterator<Item = Result<CallOutput, Error>> {
    let begin = |server| {
        let mut driver = QueueDriver::new(shared, server, time.now);
        driver.ask_once();
        driver.submit(Call::new(kind(), 0, 0));
        driver
    };
    let mut drivers: Vec<_> = servers.map(begin).collect();
    finish(&mut drivers, time);
    drivers.into_iter().map(outcome)
}

/// Waits until queues of one call each have their outcome.
fn finish(drivers: &mut [QueueDriver<'_>], time: CallTime) {
    // After the deadline, the outcome is the error that says so.
    let _ = pump(drivers, time, |driver| !driver.queue().front_is_finished());
}

fn outcome(mut driver: QueueDriver<'_>) -> Result<CallOutput, Error> {
    driver.take().unwrap_or(Ok(CallOutput::Done))
}
