//! One connection, with as many requests under way as the depth says.

use crate::input::Input;
use crate::output::Output;
use crate::plan::Plan;
use crate::protocol::{OVERHEAD, Protocol, Target, connect};
use nix::sys::socket::MsgFlags;
use std::collections::VecDeque;
use std::net::TcpStream;

/// What replies are told to.
pub(crate) trait Watch {
    /// The time, in nanoseconds from an instant of its choice.
    fn now(&self) -> u64;

    /// A reply is there now, to a request that was sent then.
    fn done(&mut self, sent: u64, now: u64);

    /// Whether the data of replies is compared with what it must be.
    const COMPARES: bool;
}

/// A request under way.
#[derive(Clone, Copy, Default)]
struct Ticket {
    sent: u64,
    offset: u64,
    /// Bytes that come back.
    data: usize,
}

/// See the module.
pub(crate) struct Lane<'p, P> {
    pub(crate) stream: TcpStream,
    protocol: P,
    input: Input,
    output: Output<'p>,
    tickets: Vec<Ticket>,
    /// In the order in which they became free, so that replies in order come in the order of
    /// tickets.
    free: VecDeque<u32>,
    oldest: u32,
}

impl<'p, P: Protocol> Lane<'p, P> {
    pub(crate) fn connect(target: &Target, depth: u32, size: usize) -> Result<Self, String> {
        let (stream, protocol) = connect(target)?;
        // From here on somebody else watches the time: a timer for each wait would cost both sides
        // alike.
        stream
            .set_read_timeout(None)
            .map_err(|error| error.to_string())?;
        let under_way = depth as usize * (size + OVERHEAD);
        Ok(Self {
            stream,
            protocol,
            input: Input::new(under_way, under_way),
            output: Output::default(),
            tickets: vec![Ticket::default(); depth as usize],
            free: (0..depth).collect(),
            oldest: 0,
        })
    }

    /// Whether there are requests without a reply.
    pub(crate) fn is_busy(&self) -> bool {
        self.free.len() < self.tickets.len()
    }

    /// Whether the kernel did not take all that was to be sent.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends as many requests as may be under way.
    pub(crate) fn ask(&mut self, plan: &mut Plan<'p>, now: u64) -> Result<(), String> {
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

    /// Sends what waits to be sent, as much as the kernel takes.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        self.output
            .flush(&self.stream)
            .map_err(|error| format!("sending: {error}"))
    }

    /// Takes the replies that are there, and asks for as much again. One receive, at most one send:
    /// what has come together is answered together.
    pub(crate) fn turn(
        &mut self,
        plan: &mut Plan<'p>,
        watch: &mut impl Watch,
        flags: MsgFlags,
    ) -> Result<(), String> {
        let received = self
            .input
            .receive(&self.stream, flags)
            .map_err(|error| format!("receiving: {error}"))?;
        if received == 0 {
            return Ok(());
        }
        let now = watch.now();
        if self.take(plan, watch, now)? {
            self.ask(plan, now)
        } else {
            Ok(())
        }
    }

    /// Whether there was a reply.
    fn take<W: Watch>(&mut self, plan: &Plan<'p>, watch: &mut W, now: u64) -> Result<bool, String> {
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
                .ok_or("a reply to no request")?;
            if reply.data.len() != ticket.data || !self.is_busy() {
                let (found, expected) = (reply.data.len(), ticket.data);
                return Err(format!(
                    "a reply with {found} bytes of data, where {expected} were expected"
                ));
            }
            if W::COMPARES
                && self.input.bytes()[reply.data.clone()]
                    != *plan.shape.pattern.at(ticket.offset, ticket.data)
            {
                return Err(format!(
                    "offset {} holds other bytes than were written there",
                    ticket.offset
                ));
            }
            self.input.consume(reply.length);
            self.free.push_back(number);
            watch.done(ticket.sent, now);
            any = true;
        }
        Ok(any)
    }
}
