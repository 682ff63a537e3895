//! Carries the bytes of one server's queue: joins the state machine, which decides, with the link,
//! which does the I/O. It waits for nothing but, if asked to, the bytes of a reply.

use super::Error;
use super::call::{Call, CallOutput};
use super::link::{Link, ReceiveMode};
use super::pool::{ClientState, PooledConnection};
use super::server_queue::{Demand, QueueMachine, ServerQueue};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What poll(2) tells of a connection that ended, or of a descriptor that the program has closed.
const ENDED: PollFlags = PollFlags::POLLERR
    .union(PollFlags::POLLHUP)
    .union(PollFlags::POLLNVAL);

/// See the module.
#[derive(Debug)]
pub(super) struct QueueDriver<'a> {
    connection: PooledConnection,
    queue: ServerQueue<'a>,
    /// What the last poll told about the socket.
    ready: Cell<PollFlags>,
}

impl<'a> QueueDriver<'a> {
    /// An empty queue for the server, with a connection of the pool.
    pub(super) fn new(shared: &Arc<ClientState>, server: usize, now: Instant) -> Self {
        Self {
            connection: shared.take_connection(server, now),
            queue: ServerQueue::default(),
            ready: Cell::new(PollFlags::empty()),
        }
    }

    #[inline]
    fn parts(&mut self) -> (QueueMachine<'_, 'a>, &mut Link) {
        let (shared, connection, link) = self.connection.parts();
        let machine = QueueMachine {
            shared,
            connection,
            queue: &mut self.queue,
        };
        (machine, link)
    }

    pub(super) fn server(&self) -> usize {
        self.connection.server
    }

    pub(super) fn queue(&self) -> &ServerQueue<'a> {
        &self.queue
    }

    /// Takes the oldest call, if it is finished.
    pub(super) fn take(&mut self) -> Option<Result<CallOutput, Error>> {
        self.queue.take()
    }

    /// Makes it fail after the first attempt that is answered; for a status or a ping.
    pub(super) fn ask_once(&mut self) {
        self.parts().0.ask_once();
    }

    /// In a child of `fork(2)`, fails what its parent has submitted, and takes another connection:
    /// the parent continues with its own.
    #[inline]
    pub(super) fn leave_parent(&mut self, now: Instant) {
        if !self.connection.is_own() {
            let (mut machine, link) = self.parts();
            machine.fail_inherited(now);
            link.close();
        }
    }

    /// Adds a call, to be sent when the queue is next driven.
    pub(super) fn submit(&mut self, call: Call<'a>) {
        self.queue.push(call);
    }

    /// Sends at once if no reply is awaited, and else when there are enough calls for a batch.
    #[inline]
    pub(super) fn maybe_send(&mut self, now: Instant) {
        if self.parts().0.is_due() {
            self.drive(now);
        }
    }

    /// Replaces the connection by one that is not open and has no session.
    pub(super) fn reset(&mut self, now: Instant) {
        let (mut machine, link) = self.parts();
        machine.reset(now);
        link.close();
    }

    /// The deadline has passed: everything unfinished fails.
    pub(super) fn fail_at_deadline(&mut self, after: Duration, now: Instant) {
        let (mut machine, link) = self.parts();
        machine.fail_at_deadline(after, now);
        link.close();
    }

    /// The instant at which it is to be driven even if its socket is not ready.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.connection.state()?.next_timeout()
    }

    /// Does what the socket allows; opens one when there is none and the pause is over.
    pub(super) fn drive(&mut self, now: Instant) {
        let ready = self.ready.replace(PollFlags::empty());
        let (mut machine, link) = self.parts();
        if machine.is_established() {
            if ready.intersects(PollFlags::POLLIN | ENDED) {
                receive(&mut machine, link, now);
            }
            if !link.is_blocked() || ready.contains(PollFlags::POLLOUT) {
                send(&mut machine, link, now);
            }
        } else {
            open(&mut machine, link, ready, now);
        }
        close_if_down(&machine, link);
    }

    /// Waits for bytes, for [`RECEIVE_WAIT`](super::link::RECEIVE_WAIT) at most, and takes them in; to
    /// be called if [`QueueDriver::awaits_bytes`]. Returns whether there were any, or the connection
    /// ended; and the time.
    pub(super) fn wait_for_reply(&mut self) -> (bool, Instant) {
        let (mut machine, link) = self.parts();
        // With further replies in flight, a receive that also takes the beginning of the next one
        // saves more than one that waits for the rest of this one.
        let mode = if machine.awaits_rest() {
            ReceiveMode::Fill
        } else {
            ReceiveMode::Wait
        };
        let (received, _) = receive_once(&mut machine, link, mode);
        let now = Instant::now();
        // The caller knows the time: signals must not prolong the wait.
        let came = !matches!(received, Err(Errno::EAGAIN | Errno::EINTR));
        if came {
            take_in(&mut machine, received, now);
            close_if_down(&machine, link);
        }
        (came, now)
    }

    /// Whether it has sent what it can, and waits for bytes of an established connection alone.
    pub(super) fn awaits_bytes(&self) -> bool {
        self.connection.link().is_some_and(Link::awaits_bytes)
    }

    /// What to wait for with poll(2).
    pub(super) fn for_poll(&self) -> Option<PollFd<'_>> {
        self.connection.link()?.for_poll()
    }

    /// Notes what poll(2) told.
    pub(super) fn set_ready(&self, ready: PollFlags) {
        self.ready.set(ready);
    }

    /// Ends the connection if the server's machine does not answer any more.
    pub(super) fn break_if_mute(&mut self, now: Instant) {
        let (mut machine, link) = self.parts();
        if link.is_mute() {
            machine.silent(now);
            link.close();
        }
    }
}

/// Closes the link if the state machine has no use for it any more.
fn close_if_down(machine: &QueueMachine<'_, '_>, link: &mut Link) {
    if machine.is_down() {
        link.close();
    }
}

#[cold]
fn open(machine: &mut QueueMachine<'_, '_>, link: &mut Link, ready: PollFlags, now: Instant) {
    if link.is_connecting() && ready.intersects(PollFlags::POLLOUT | ENDED) {
        return match link.finish_connecting() {
            Ok(()) => {
                machine.connected(now);
                send(machine, link, now);
            }
            Err(error) => {
                machine.address_failed(error.to_string());
                try_next(machine, link, now);
            }
        };
    }
    if let Some(outcome) = link.look_up_outcome() {
        return looked_up(machine, link, outcome, now);
    }
    match machine.demand(now) {
        Demand::Nothing => {}
        Demand::NextAddress => try_next(machine, link, now),
        Demand::Connection => {
            if let Some(outcome) = link.look_up(machine.address()) {
                looked_up(machine, link, outcome, now);
            }
        }
    }
}

fn looked_up(
    machine: &mut QueueMachine<'_, '_>,
    link: &mut Link,
    outcome: Result<(), String>,
    now: Instant,
) {
    match outcome {
        Ok(()) => try_next(machine, link, now),
        Err(reason) => machine.disconnected(reason, now),
    }
}

fn try_next(machine: &mut QueueMachine<'_, '_>, link: &mut Link, now: Instant) {
    while let Some(begun) = link.connect_next() {
        match begun {
            Ok(()) => return machine.connecting(now),
            Err(error) if is_of_this_process(&error) => {
                machine.address_unanswered(&error.to_string());
            }
            Err(error) => machine.address_failed(error.to_string()),
        }
    }
    machine.no_address_left(now);
}

/// Sends until everything is sent, the window is full, or the kernel takes no more.
fn send(machine: &mut QueueMachine<'_, '_>, link: &mut Link, now: Instant) {
    while let Some((head, tail)) = machine.transmit(now) {
        match link.send(head, tail) {
            Ok(count) => machine.sent(count),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return,
            Err(error) => return send_failed(machine, link, error, now),
        }
    }
}

/// A server may refuse and close while requests are still being sent: its refusal may be there
/// to read, and says more than the broken pipe.
#[cold]
fn send_failed(machine: &mut QueueMachine<'_, '_>, link: &mut Link, error: Errno, now: Instant) {
    receive(machine, link, now);
    if !machine.is_down() {
        machine.disconnected(text(error), now);
    }
}

/// Receives what the socket has, and takes it in.
fn receive(machine: &mut QueueMachine<'_, '_>, link: &mut Link, now: Instant) {
    loop {
        let (received, room) = receive_once(machine, link, ReceiveMode::AtOnce);
        match received {
            Err(Errno::EAGAIN) => return,
            Err(Errno::EINTR) => continue,
            received => take_in(machine, received, now),
        }
        if received != Ok(room) || machine.is_down() {
            return;
        }
    }
}

/// One receive. Returns also for how many bytes it had room.
fn receive_once(
    machine: &mut QueueMachine<'_, '_>,
    link: &Link,
    mode: ReceiveMode,
) -> (nix::Result<usize>, usize) {
    let (target, space) = machine.receive_space();
    // A receive that fills its target must not wait for what follows it.
    let space = match mode {
        ReceiveMode::Fill => &mut [],
        _ => space,
    };
    let room = target.len() + space.len();
    (link.receive(target, space, mode), room)
}

fn take_in(machine: &mut QueueMachine<'_, '_>, received: nix::Result<usize>, now: Instant) {
    match received {
        Ok(0) => machine.disconnected("it closed the connection".into(), now),
        Ok(count) => machine.received(count, now),
        Err(error) => machine.disconnected(text(error), now),
    }
}

/// Whether an attempt to connect failed for want of a descriptor or of memory, so that it says
/// nothing about the server.
fn is_of_this_process(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

/// The system's text for an error.
fn text(error: Errno) -> String {
    io::Error::from(error).to_string()
}
