//! Takes replies in, and checks every field against the request before it is used.

use super::retry::DisconnectReason;
use super::server_connection::Phase;
use super::server_queue::{Body, QueueMachine};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::printable::printable_bytes;
use dsm_core::protocol::{
    Code, HEADER, HelloReply, MAX_REFUSAL_TEXT, Opcode, Refusal, ReplyHeader, VERSION, WINDOW,
    split_reply,
};
use std::time::Instant;
use zerocopy::FromBytes;

impl QueueMachine<'_, '_> {
    /// Where the next received bytes go, in this order: data straight to its place in the call, and
    /// what follows it, or comes before it, to the buffer.
    pub(super) fn receive_space(&mut self) -> (&mut [u8], &mut [u8]) {
        let (Some(body), Some(sent)) = (&self.queue.body, self.connection.session.awaited()) else {
            return (&mut [], self.connection.input.space());
        };
        let (received, total) = (body.received, body.total);
        let (number, position) = (sent.call, sent.position);
        let (connection, call) = self.connection_and_call(number);
        let target = &mut call.target(position, total)[received..];
        (target, connection.input.space())
    }

    /// Whether all that it waits for is the rest of the data of one reply.
    pub(super) fn awaits_rest(&self) -> bool {
        self.queue.body.is_some() && self.connection.session.awaits_one()
    }

    /// `count` bytes were put into [`QueueMachine::receive_space`]: takes the replies in.
    #[inline]
    pub(super) fn received(&mut self, count: usize, now: Instant) {
        let of_target = self.queue.body.as_mut().map_or(0, |body| {
            let of_target = count.min(body.total - body.received);
            body.received += of_target;
            of_target
        });
        self.connection.input.received(count - of_target);
        if let Err(reason) = self.take_replies(now) {
            self.recover(reason, now);
        }
    }

    fn take_replies(&mut self, now: Instant) -> Result<(), DisconnectReason> {
        while match self.connection.phase {
            Phase::Handshake => self.take_hello()?,
            _ => self.take_reply(now)?,
        } {}
        Ok(())
    }

    /// Takes in the reply to hello; false when it is not all there.
    fn take_hello(&mut self) -> Result<bool, DisconnectReason> {
        let Some(header) = self.header()? else {
            return Ok(false);
        };
        if header.code.get() != 0 {
            let Some(refusal) = self.refusal(&header)? else {
                return Ok(false);
            };
            return Err(DisconnectReason::Refused(refusal));
        }
        let length = header.payload.get() as usize;
        if (header.opcode, header.id.get(), length)
            != (Opcode::Hello as u8, 0, size_of::<HelloReply>())
        {
            return Err(self.protocol(format!(
                "the first reply has opcode {}, id {} and {length} bytes, which is no reply to hello",
                header.opcode, header.id
            )));
        }
        let Ok((reply, _)) =
            HelloReply::read_from_prefix(&self.connection.input.unread()[HEADER..])
        else {
            return Ok(false);
        };
        self.connection.input.consume(HEADER + length);
        self.check_hello(&reply)?;
        if let Some(id) = self.connection.to_supersede.pop() {
            self.shared.superseded(self.server(), id);
            return Err(DisconnectReason::Superseded);
        }
        let resumed = reply.resumed.get() == 1;
        let connection = &mut *self.connection;
        let uncertain = connection.session.hello_answered(
            resumed,
            reply.last_executed.get(),
            reply.incarnation.get(),
        );
        connection.phase = Phase::Ready;
        self.fail_uncertain(
            &uncertain,
            "the connection broke before the reply, and the server has forgotten the session",
        );
        Ok(true)
    }

    fn check_hello(&self, reply: &HelloReply) -> Result<(), DisconnectReason> {
        let (server, k) = (self.server(), self.shared.layout.share_size());
        for (field, found, expected) in [
            (
                "version",
                u64::from(reply.version.get()),
                u64::from(VERSION),
            ),
            ("index", u64::from(reply.index.get()), server as u64),
            ("k", reply.k.get(), k),
            ("max_atomic", u64::from(reply.max_atomic.get()), MAX_ATOMIC),
            ("window", u64::from(reply.window.get()), WINDOW),
        ] {
            if found != expected {
                return Err(self.protocol(format!(
                    "its reply to hello has {field} {found} instead of {expected}"
                )));
            }
        }
        let (last_executed, last_id) =
            (reply.last_executed.get(), self.connection.session.last_id());
        if last_executed > last_id && self.connection.to_supersede.is_empty() {
            let message = format!(
                "it has executed request {last_executed} of a session whose last one is {last_id}"
            );
            return Err(self.protocol(message));
        }
        let found = reply.incarnation.get();
        if found == 0 {
            // It has no memory yet: what this client knows stays as it is.
            return Ok(());
        }
        self.shared
            .check_incarnation(server, found)
            .map_err(|known| {
                DisconnectReason::Fatal(self.memory_lost(format!(
                    "its incarnation was {known:016x} and is {found:016x}"
                )))
            })
    }

    /// Takes in as much of the oldest request's reply as was received; false when more has to be
    /// received first.
    fn take_reply(&mut self, now: Instant) -> Result<bool, DisconnectReason> {
        if self.queue.body.is_none() && !self.take_header()? {
            return Ok(false);
        }
        let (Some(body), Some(sent)) = (&mut self.queue.body, self.connection.session.awaited())
        else {
            return Ok(false);
        };
        let (number, position, total) = (sent.call, sent.position, body.total);
        if body.received < total {
            let received = body.received;
            let (connection, call) = self.connection_and_call(number);
            let taken = connection
                .input
                .take_into(&mut call.target(position, total)[received..]);
            if received + taken < total {
                self.queue.body = self.queue.body.take().map(|body| Body {
                    received: received + taken,
                    ..body
                });
                return Ok(false);
            }
        }
        let value = self.queue.body.take().map_or(0, |body| body.value);
        self.connection.session.answered();
        self.connection.succeeded();
        if let Err(message) = self.queue.call(number).part_succeeded(value, now) {
            // The part may be the call's last one, and then `recover` does not fail it.
            let error = self.name().protocol(message);
            self.queue.call(number).fail(error.clone());
            return Err(DisconnectReason::Fatal(error));
        }
        self.complete(number);
        Ok(true)
    }

    /// Takes a reply's header and checks that it answers the oldest request. Refusals before it end
    /// their requests. False when the header is not all there.
    fn take_header(&mut self) -> Result<bool, DisconnectReason> {
        loop {
            let Some(header) = self.header()? else {
                return Ok(false);
            };
            // The code first: a refusal that ends the connection may carry any id.
            let refusal = match header.code.get() {
                0 => None,
                _ => match self.refusal(&header)? {
                    None => return Ok(false),
                    Some(refusal) if refusal.code.closes() => {
                        return Err(DisconnectReason::Refused(refusal));
                    }
                    refusal => refusal,
                },
            };
            let number = self.check_awaited(&header, refusal.is_some())?;
            self.connection.input.consume(HEADER);
            let total = header.payload.get() as usize;
            let Some(refusal) = refusal else {
                self.queue.body = Some(Body {
                    received: 0,
                    total,
                    value: header.value.get(),
                });
                return Ok(true);
            };
            self.connection.input.consume(total);
            self.connection.session.answered();
            self.connection.succeeded();
            let error = self.refused(refusal);
            self.queue.call(number).part_failed(error);
            self.complete(number);
        }
    }

    /// Checks that a reply answers the oldest request; returns the number of its call.
    fn check_awaited(
        &mut self,
        header: &ReplyHeader,
        refused: bool,
    ) -> Result<u64, DisconnectReason> {
        let (id, total) = (header.id.get(), u64::from(header.payload.get()));
        let Some(sent) = self.connection.session.awaited() else {
            return Err(self.protocol(format!(
                "a reply with id {id} came, though nothing was asked"
            )));
        };
        if (id, header.opcode) != (sent.id, sent.opcode as u8) {
            let message = format!(
                "a reply with id {id} and opcode {} came; the next must have id {} and opcode {}",
                header.opcode, sent.id, sent.opcode as u8
            );
            return Err(self.protocol(message));
        }
        if !sent.left_within(self.connection.sent_bytes) {
            return Err(self.protocol(format!(
                "the reply with id {id} came before its request was all sent"
            )));
        }
        let (number, length, name) = (sent.call, sent.length, sent.opcode.name());
        match self.queue.call(number).reply_length(length) {
            Some(expected) if !refused && total != expected => Err(self.protocol(format!(
                "a reply to {name} has {total} bytes of payload instead of {expected}"
            ))),
            _ => Ok(number),
        }
    }

    #[inline]
    fn header(&self) -> Result<Option<ReplyHeader>, DisconnectReason> {
        match split_reply(self.connection.input.unread()) {
            Ok(split) => Ok(split.map(|(header, _)| header)),
            Err(refusal) => Err(self.protocol(refusal.message)),
        }
    }

    /// The refusal whose header is the next in the buffer, without taking it; `None` when its text
    /// is not all there.
    fn refusal(&self, header: &ReplyHeader) -> Result<Option<Refusal>, DisconnectReason> {
        let length = header.payload.get() as usize;
        if length > MAX_REFUSAL_TEXT {
            return Err(self.protocol(format!(
                "a refusal has {length} bytes of text; at most {MAX_REFUSAL_TEXT} may be"
            )));
        }
        let Some(text) = self.connection.input.unread().get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        let Some(code) = Code::from_number(header.code.get()) else {
            let text = printable_bytes(text, MAX_REFUSAL_TEXT);
            return Err(self.protocol(format!(
                "it refused with code {}, which is not known here: {text}",
                header.code
            )));
        };
        Ok(Some(Refusal::received(code, text)))
    }
}
