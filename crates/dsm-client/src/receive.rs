//! Receives replies, and checks every field against the request before it is used.

use super::retry::DisconnectReason;
use super::server_connection::{Phase, ReceiveMode};
use super::server_queue::{Body, ServerQueue};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::printable::printable_bytes;
use dsm_core::protocol::{
    Code, HEADER, HelloReply, MAX_REFUSAL_TEXT, Opcode, Refusal, ReplyHeader, VERSION, WINDOW,
    split_reply,
};
use std::io;
use zerocopy::FromBytes;

impl ServerQueue<'_> {
    /// Receives what the socket has, and takes the replies in.
    pub(super) fn receive(&mut self) -> Result<(), DisconnectReason> {
        self.receive_in(ReceiveMode::AtOnce).map(drop)
    }

    /// The same, after waiting for [`RECEIVE_WAIT`](super::server_connection::RECEIVE_WAIT) at most
    /// if the socket has nothing. Only for an established connection. Returns whether bytes came.
    pub(super) fn wait_and_receive(&mut self) -> Result<bool, DisconnectReason> {
        // With further replies in flight, a receive that also takes the beginning of the next one
        // saves more than one that waits for the rest of this one.
        if self.body.is_some() && self.connection.session.awaits_one() {
            self.receive_in(ReceiveMode::Fill)
        } else {
            self.receive_in(ReceiveMode::Wait)
        }
    }

    fn receive_in(&mut self, mode: ReceiveMode) -> Result<bool, DisconnectReason> {
        let mut has_received = false;
        loop {
            let read = match (&mut self.body, self.connection.session.awaited()) {
                (Some(body), Some(sent)) => {
                    let (number, position) = (sent.call, sent.position);
                    let (received, total) = (body.received, body.total);
                    // Data goes straight to its place; only what follows it goes through the
                    // buffer.
                    let (connection, call) = self.connection_and_call(number);
                    connection.read(&mut call.target(position, total)[received..], mode)
                }
                _ => self.connection.read(&mut [], mode),
            };
            let (count, has_more) = match read {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(has_received);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => match mode {
                    ReceiveMode::AtOnce => continue,
                    // The caller reads the clock: signals must not prolong the wait.
                    _ => return Ok(has_received),
                },
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(DisconnectReason::Broken("it closed the connection".into()));
                }
                Err(error) => return Err(DisconnectReason::Broken(error.to_string())),
            };
            has_received = true;
            if let Some(body) = &mut self.body {
                body.received += count;
            }
            while match self.connection.phase {
                Phase::Handshake => self.take_hello()?,
                _ => self.take_reply()?,
            } {}
            // After a wait, the caller reads the clock first.
            if !has_more || mode != ReceiveMode::AtOnce {
                return Ok(true);
            }
        }
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
            self.connection.shared.superseded(self.server(), id);
            return Err(DisconnectReason::Superseded);
        }
        let resumed = reply.resumed.get() == 1;
        let connection = &mut self.connection;
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
        let (server, k) = (self.server(), self.connection.shared.layout.share_size());
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
        self.connection
            .shared
            .check_incarnation(server, found)
            .map_err(|known| {
                DisconnectReason::Fatal(self.memory_lost(format!(
                    "its incarnation was {known:016x} and is {found:016x}"
                )))
            })
    }

    /// Takes in as much of the oldest request's reply as was received; false when more has to be
    /// received first.
    fn take_reply(&mut self) -> Result<bool, DisconnectReason> {
        if self.body.is_none() && !self.take_header()? {
            return Ok(false);
        }
        let (Some(body), Some(sent)) = (&mut self.body, self.connection.session.awaited()) else {
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
                self.body = self.body.take().map(|body| Body {
                    received: received + taken,
                    ..body
                });
                return Ok(false);
            }
        }
        let value = self.body.take().map_or(0, |body| body.value);
        self.connection.session.answered();
        self.connection.succeeded();
        if let Err(message) = self.call(number).part_succeeded(value) {
            // The part may be the call's last one, and then `recover` does not fail it.
            let error = self.name().protocol(message);
            self.call(number).fail(error.clone());
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
                self.body = Some(Body {
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
            self.call(number).part_failed(error);
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
        match self.call(number).reply_length(length) {
            Some(expected) if !refused && total != expected => Err(self.protocol(format!(
                "a reply to {name} has {total} bytes of payload instead of {expected}"
            ))),
            _ => Ok(number),
        }
    }

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
