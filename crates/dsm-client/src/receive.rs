//! Replies: every field is checked against what was asked before it is believed.

use super::lane::{Body, Lane};
use super::link::Phase;
use super::trouble::Trouble;
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::printable::printable_bytes;
use dsm_core::protocol::{
    Code, HEADER, HelloReply, MAX_REFUSAL_TEXT, Opcode, Refusal, ReplyHeader, VERSION, WINDOW,
    split_reply,
};
use std::io;
use zerocopy::FromBytes;

impl Lane<'_> {
    /// Receives and takes in what is there.
    pub(super) fn receive(&mut self) -> Result<(), Trouble> {
        loop {
            let read = match (&mut self.body, self.link.session.awaited()) {
                (Some(body), Some(sent)) => {
                    let (number, position) = (sent.job, sent.position);
                    let (received, total) = (body.received, body.total);
                    // Bytes of data go to where they belong; only what follows them goes through
                    // the buffer.
                    let (link, job) = self.link_and_job(number);
                    link.read(&mut job.sink(position, total)[received..])
                }
                _ => self.link.read(&mut []),
            };
            let (count, more) = match read {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Trouble::Broken("it closed the connection".into()));
                }
                Err(error) => return Err(Trouble::Broken(error.to_string())),
            };
            if let Some(body) = &mut self.body {
                body.received += count;
            }
            while match self.link.phase {
                Phase::Greeting => self.take_hello()?,
                _ => self.take_reply()?,
            } {}
            if !more {
                return Ok(());
            }
        }
    }

    /// Takes in the reply to hello; false when it is not all there.
    fn take_hello(&mut self) -> Result<bool, Trouble> {
        let Some(header) = self.header()? else {
            return Ok(false);
        };
        if header.code.get() != 0 {
            let Some(refusal) = self.refusal(&header)? else {
                return Ok(false);
            };
            return Err(Trouble::Refused(refusal));
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
        let Ok((reply, _)) = HelloReply::read_from_prefix(&self.link.input.unread()[HEADER..])
        else {
            return Ok(false);
        };
        self.link.input.consume(HEADER + length);
        self.check_hello(&reply)?;
        if let Some(id) = self.link.to_supersede.pop() {
            self.link.shared.superseded(self.server(), id);
            return Err(Trouble::HelloOnly);
        }
        let resumed = reply.resumed.get() == 1;
        let link = &mut self.link;
        let doubtful = link.session.hello_answered(
            resumed,
            reply.last_executed.get(),
            reply.incarnation.get(),
        );
        link.phase = Phase::Ready;
        self.doubt(
            &doubtful,
            "the connection broke before the reply, and the server has forgotten the session",
        );
        Ok(true)
    }

    fn check_hello(&self, reply: &HelloReply) -> Result<(), Trouble> {
        let (server, k) = (self.server(), self.link.shared.layout.k());
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
        let (last_executed, last_id) = (reply.last_executed.get(), self.link.session.last_id());
        if last_executed > last_id && self.link.to_supersede.is_empty() {
            let message = format!(
                "it has executed request {last_executed} of a session whose last one is {last_id}"
            );
            return Err(self.protocol(message));
        }
        let found = reply.incarnation.get();
        if found == 0 {
            // It has no memory yet: whatever this client knew before still counts.
            return Ok(());
        }
        self.link.shared.meet(server, found).map_err(|known| {
            Trouble::Fatal(self.memory_lost(format!(
                "its incarnation was {known:016x} and is {found:016x}"
            )))
        })
    }

    /// Takes in as much of the oldest request's reply as is there; false when nothing more can be
    /// done without receiving.
    fn take_reply(&mut self) -> Result<bool, Trouble> {
        if self.body.is_none() && !self.take_header()? {
            return Ok(false);
        }
        let (Some(body), Some(sent)) = (&mut self.body, self.link.session.awaited()) else {
            return Ok(false);
        };
        let (number, position, total) = (sent.job, sent.position, body.total);
        if body.received < total {
            let received = body.received;
            let (link, job) = self.link_and_job(number);
            let taken = link
                .input
                .take_into(&mut job.sink(position, total)[received..]);
            if received + taken < total {
                self.body = self.body.take().map(|body| Body {
                    received: received + taken,
                    ..body
                });
                return Ok(false);
            }
        }
        let value = self.body.take().map_or(0, |body| body.value);
        self.link.session.answered();
        self.link.succeeded();
        if let Err(message) = self.job(number).part_done(value) {
            // This part was the job's last perhaps: then nothing else would tell it.
            let error = self.name().protocol(message);
            self.job(number).fail(error.clone());
            return Err(Trouble::Fatal(error));
        }
        self.settle(number);
        Ok(true)
    }

    /// Takes a reply's header and makes sure that it answers the oldest request, after settling the
    /// refusals before it; false when it is not all there.
    fn take_header(&mut self) -> Result<bool, Trouble> {
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
                        return Err(Trouble::Refused(refusal));
                    }
                    refusal => refusal,
                },
            };
            let number = self.check_awaited(&header, refusal.is_some())?;
            self.link.input.consume(HEADER);
            let total = header.payload.get() as usize;
            let Some(refusal) = refusal else {
                self.body = Some(Body {
                    received: 0,
                    total,
                    value: header.value.get(),
                });
                return Ok(true);
            };
            self.link.input.consume(total);
            self.link.session.answered();
            self.link.succeeded();
            let error = self.refused(refusal);
            self.job(number).part_failed(error);
            self.settle(number);
        }
    }

    /// Checks that a reply is the one that is due; returns the number of its job.
    fn check_awaited(&mut self, header: &ReplyHeader, refused: bool) -> Result<u64, Trouble> {
        let (id, total) = (header.id.get(), u64::from(header.payload.get()));
        let Some(sent) = self.link.session.awaited() else {
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
        if !sent.left_within(self.link.sent_bytes) {
            return Err(self.protocol(format!(
                "the reply with id {id} came before its request was all sent"
            )));
        }
        let (number, length, name) = (sent.job, sent.length, sent.opcode.name());
        match self.job(number).reply_length(length) {
            Some(expected) if !refused && total != expected => Err(self.protocol(format!(
                "a reply to {name} has {total} bytes of payload instead of {expected}"
            ))),
            _ => Ok(number),
        }
    }

    fn header(&self) -> Result<Option<ReplyHeader>, Trouble> {
        match split_reply(self.link.input.unread()) {
            Ok(split) => Ok(split.map(|(header, _)| header)),
            Err(refusal) => Err(self.protocol(refusal.message)),
        }
    }

    /// The refusal whose header is the next in the buffer, without taking it; `None` when its text
    /// is not all there.
    fn refusal(&self, header: &ReplyHeader) -> Result<Option<Refusal>, Trouble> {
        let length = header.payload.get() as usize;
        if length > MAX_REFUSAL_TEXT {
            return Err(self.protocol(format!(
                "a refusal has {length} bytes of text; at most {MAX_REFUSAL_TEXT} may be"
            )));
        }
        let Some(text) = self.link.input.unread().get(HEADER..HEADER + length) else {
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
