//! What systemd is told: ready, still alive, what the server is doing. Nothing happens when systemd does not listen.

use super::context::Context;
use crate::protocol::{Code, HEADER, HelloReply, HelloRequest, Opcode, Operation, Request, RequestHeader, split_reply};
use sd_notify::NotifyState;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;

/// How often STATUS is refreshed when there is no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// How much longer a start may take after each step of allocation that succeeds.
const START_EXTENSION: Duration = Duration::from_secs(30);

/// Tells systemd; without one, or when it does not take the message, nothing is lost but the message.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        ::log::debug!("sd_notify: {error}");
    }
}

/// Tells systemd that a long start goes on.
pub(super) fn allocating(done: u64, total: u64) {
    let text = format!("allocating shared memory: {} of {} MiB", done >> 20, total >> 20);
    let extension = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(extension), NotifyState::Status(&text)]);
}

/// Tells systemd that the server is ready, and starts the thread that keeps telling it that the server answers.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(context: Arc<Context>, address: SocketAddr) -> io::Result<()> {
    notify(&[NotifyState::Ready, NotifyState::Status(&sentence(&context))]);
    let watchdog = sd_notify::watchdog_enabled();
    let interval = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 3).min(STATUS_INTERVAL));
    let mut session = [0; 16];
    getrandom::fill(&mut session).map_err(io::Error::other)?;
    std::thread::Builder::new().name("dsm-watchdog".to_owned()).spawn(move || {
        while !context.is_stopping() {
            std::thread::sleep(interval);
            context.sessions.touch_attached();
            match (watchdog, ask(&context, address, session, interval)) {
                (Some(_), Ok(())) => notify(&[NotifyState::Watchdog, NotifyState::Status(&sentence(&context))]),
                (None, _) => notify(&[NotifyState::Status(&sentence(&context))]),
                // systemd restarts the service if this goes on.
                (Some(_), Err(error)) => ::log::warn!("the server does not answer itself on {address}: {error}"),
            }
        }
    })?;
    Ok(())
}

/// What `systemctl status` shows.
fn sentence(context: &Context) -> String {
    let connections = context.connections();
    let requests: u64 = context.statistics.operations().values().sum();
    format!(
        "serving {} MiB as server {} of {} on {}: {} of {} connections, {requests} requests",
        context.layout.k() >> 20,
        context.index,
        context.layout.n(),
        context.address(),
        connections.open,
        connections.limit
    )
}

/// A real conversation over the server's own socket: hello, a read of its first bytes, and the right answers. A
/// server that says that it has too many connections answers, too.
fn ask(context: &Context, address: SocketAddr, session: [u8; 16], timeout: Duration) -> io::Result<()> {
    let mut socket = TcpStream::connect_timeout(&address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.set_nodelay(true)?;
    let hello = HelloRequest::new(context.index, session, context.segment.incarnation(), false);
    let text = context.layout.canonical();
    let payload = [hello.as_bytes(), text.as_bytes()].concat();
    let mut request = Vec::new();
    Request { id: 0, operation: Operation::Hello(&payload) }.append_to(&mut request);
    socket.write_all(&request)?;
    let Some(body) = answer(&mut socket)? else { return Ok(()) };
    if body.len() != size_of::<HelloReply>() {
        return Err(io::Error::other("the reply to hello has a wrong length"));
    }
    let mut read = RequestHeader::new(Opcode::Read, u64::MAX);
    read.operand = 8.into();
    socket.write_all(read.as_bytes())?;
    match answer(&mut socket)? {
        Some(body) if body.len() == 8 => Ok(()),
        _ => Err(io::Error::other("the reply to a read has a wrong length")),
    }
}

/// The payload of the next reply; `None` when the server says that it has too many connections, or is stopping.
fn answer(socket: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; HEADER];
    socket.read_exact(&mut head)?;
    let header = match split_reply(&head) {
        Ok(Some((header, _))) => header,
        Ok(None) => return Err(io::Error::other("a short header")),
        Err(refusal) => return Err(io::Error::other(refusal)),
    };
    let mut body = vec![0; header.payload.get() as usize];
    socket.read_exact(&mut body)?;
    match header.code.get() {
        0 => Ok(Some(body)),
        code if code == Code::TooManyConnections as u16 || code == Code::Stopping as u16 => Ok(None),
        _ => Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
    }
}
