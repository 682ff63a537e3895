//! One connection, which keeps `depth` requests in flight.

use crate::plan::RequestPlan;
use crate::protocol::{OVERHEAD, PeerTarget, Protocol, connect};
use crate::receive_buffer::ReceiveBuffer;
use crate::send_buffer::SendBuffer;
use nix::sys::socket::MsgFlags;
use std::collections::VecDeque;
use std::net::TcpStream;

/// Observes the replies.
pub(crate) trait ReplyObserver {
    /// The time in nanoseconds since an instant that the observer chooses.
    fn now(&self) -> u64;

    /// Called at `now` for the reply to a request that was sent at `sent`.
    fn done(&mut self, sent: u64, now: u64);

    /// Whether the data of replies is compared with the expected data.
    const COMPARES: bool;
}

/// A request in flight.
#[derive(Clone, Copy, Default)]
struct Ticket {
    sent: u64,
    offset: u64,
    /// The expected number of bytes of data in the reply.
    data: usize,
}

/// A connection to the server, with its requests in flight.
pub(crate) struct PeerConnection<'p, P> {
    pub(crate) stream: TcpStream,
    protocol: P,
    input: ReceiveBuffer,
    output: SendBuffer<'p>,
    tickets: Vec<Ticket>,
    /// The free tickets, in the order in which they became free. Replies without a ticket come in
    /// the order of requests, and so in the order of tickets.
    free: VecDeque<u32>,
    oldest: u32,
}

impl<'p, P: Protocol> PeerConnection<'p, P> {
    pub(crate) fn connect(target: &PeerTarget, depth: u32, size: usize) -> Result<Self, String> {
        let (stream, protocol) = connect(target)?;
        // From here on, the main thread detects a server that hangs. A timer for each receive would
        // add the same cost to every measurement.
        stream
            .set_read_timeout(None)
            .map_err(|error| error.to_string())?;
        let under_way = depth as usize * (size + OVERHEAD);
        Ok(Self {
            stream,
            protocol,
            input: ReceiveBuffer::new(under_way, under_way),
            output: SendBuffer::default(),
            tickets: vec![Ticket::default(); depth as usize],
            free: (0..depth).collect(),
            oldest: 0,
        })
    }

    /// Whether there are requests without a reply.
    pub(crate) fn is_busy(&self) -> bool {
        self.free.len() < self.tickets.len()
    }

    /// Whether the send buffer has bytes that the kernel has not accepted.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends requests until `depth` are in flight.
    pub(crate) fn send_requests(
        &mut self,
        plan: &mut RequestPlan<'p>,
        now: u64,
    ) -> Result<(), String> {
        while let Some(&ticket) = self.free.front() {
            let Some(task) = plan.next() else { break };
            self.free.pop_front();
            let size = plan.shape.size;
            let data = if task.writes { 0 } else { size };
            self.tickets[ticket as usize] = Ticket {
                sent: now,
                offset: task.offset,
                data,
            };
            if task.writes {
                let bytes = plan.shape.pattern.at(task.offset, size);
                self.protocol
                    .write(&mut self.output, ticket, task.offset, bytes);
            } else {
                self.protocol
                    .read(&mut self.output, ticket, task.offset, size);
            }
        }
        self.flush()
    }

    /// Sends as many bytes of the send buffer as the kernel accepts.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        self.output
            .flush(&self.stream)
            .map_err(|error| format!("sending: {error}"))
    }

    /// Handles the available replies and sends as many requests: one receive and at most one send,
    /// for all replies that have arrived together.
    pub(crate) fn exchange(
        &mut self,
        plan: &mut RequestPlan<'p>,
        observer: &mut impl ReplyObserver,
        flags: MsgFlags,
    ) -> Result<(), String> {
        let received = self
            .input
            .receive(&self.stream, flags)
            .map_err(|error| format!("receiving: {error}"))?;
        if received == 0 {
            return Ok(());
        }
        let now = observer.now();
        if self.take_replies(plan, observer, now)? {
            self.send_requests(plan, now)
        } else {
            Ok(())
        }
    }

    /// Handles the available replies. Returns whether there was one.
    fn take_replies<O: ReplyObserver>(
        &mut self,
        plan: &RequestPlan<'p>,
        observer: &mut O,
        now: u64,
    ) -> Result<bool, String> {
        let mut any = false;
        while let Some(reply) = self.protocol.reply(self.input.bytes())? {
            let number = reply.ticket.unwrap_or(self.oldest);
            self.oldest = if self.oldest as usize + 1 == self.tickets.len() {
                0
            } else {
                self.oldest + 1
            };
            let ticket = *self
                .tickets
                .get(number as usize)
                .ok_or("the server has sent a reply to no request")?;
            if reply.data.len() != ticket.data || !self.is_busy() {
                let (found, expected) = (reply.data.len(), ticket.data);
                return Err(format!(
                    "the server has sent a reply with {found} bytes of data, expected {expected}"
                ));
            }
            if O::COMPARES
                && self.input.bytes()[reply.data.clone()]
                    != *plan.shape.pattern.at(ticket.offset, ticket.data)
            {
                return Err(format!(
                    "the bytes at offset {} are not those that were written there",
                    ticket.offset
                ));
            }
            self.input.consume(reply.length);
            self.free.push_back(number);
            observer.done(ticket.sent, now);
            any = true;
        }
        Ok(any)
    }
}
