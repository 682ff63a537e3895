//! The thread that asks the server itself now and then, as a client would, and tells systemd that it answers.

use super::context::Context;
use super::names;
use super::notify::notify;
use crate::log::Event;
use crate::protocol::{Code, HEADER, HelloReply, HelloRequest, Opcode, Operation, Request, RequestHeader, split_reply};
use crate::segment::Names;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
use sd_notify::NotifyState;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// How often STATUS is refreshed when there is no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The shortest time between two questions, whatever watchdog time systemd asks for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// How often it is looked whether a dead snapshot agent has left something: how long writers save pages in vain.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// How often a long start is looked after.
pub(super) const START_STEP: Duration = Duration::from_secs(1);

/// How much longer a start may take after each step that succeeds.
const START_EXTENSION: Duration = Duration::from_secs(30);

/// Tells systemd that a long start goes on.
pub(super) fn allocating(done: u64, total: u64) {
    starting(&format!("allocating shared memory: {} of {} MiB", done >> 20, total >> 20));
}

/// Tells systemd that the memory is being restored; to be called every [`START_STEP`].
pub(super) fn restoring() {
    starting("restoring the newest snapshot into a memory that was lost");
}

fn starting(text: &str) {
    let extension = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(extension), NotifyState::Status(text)]);
}

/// Tells systemd that the server is ready, and starts the thread that keeps telling it that the server answers.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(context: Arc<Context>, address: SocketAddr) -> io::Result<()> {
    notify(&[NotifyState::Ready, NotifyState::Status(&sentence(&context))]);
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let interval = watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 3).clamp(SHORTEST_INTERVAL, STATUS_INTERVAL));
    let mut session = [0; 16];
    getrandom::fill(&mut session).map_err(io::Error::other)?;
    std::thread::Builder::new().name("dsm-watchdog".to_owned()).spawn(move || {
        let mut asked = Instant::now();
        let mut known = context.incarnation();
        while !context.is_stopping() {
            std::thread::sleep(interval.min(TIDY_INTERVAL));
            tidy(&context);
            tell_if_replaced(&context, &mut known);
            names::look_after(&context);
            if asked.elapsed() < interval {
                continue;
            }
            asked = Instant::now();
            context.sessions.touch_attached();
            match (watchdog, ask(&context, address, session, interval)) {
                (Some(_), Ok(())) => notify(&[NotifyState::Watchdog, NotifyState::Status(&sentence(&context))]),
                (None, _) => notify(&[NotifyState::Status(&sentence(&context))]),
                (Some(_), Err(_)) if context.is_stopping() => {}
                // systemd restarts the service if this goes on.
                (Some(_), Err(error)) => ::log::warn!("the server does not answer itself on {address}: {error}"),
            }
        }
    })?;
    Ok(())
}

/// Ends what a snapshot agent that died has left, so that writers need not save pages for nobody.
fn tidy(context: &Context) {
    match context.segment.end_orphaned_cut() {
        Ok(true) => ::log::warn!(
            DSM_SERVER = context.index;
            "a snapshot of {} was abandoned, for its agent has died; the pages saved for it are given back",
            context.segment.name()
        ),
        Err(error) if context.log_gate.opens() => ::log::warn!(DSM_SERVER = context.index; "{error}"),
        Ok(false) | Err(_) => {}
    }
}

/// Says in the server's own log what an agent has done to its memory.
fn tell_if_replaced(context: &Context, known: &mut u64) {
    let found = context.incarnation();
    if found != *known {
        let name = context.segment.name();
        if found == 0 {
            ::log::warn!(DSM_SERVER = context.index; "{name} is being restored: nobody reads or changes it meanwhile");
        } else {
            ::log::info!(
                MESSAGE_ID = Event::MemoryReplaced.id(), DSM_SERVER = context.index, DSM_INCARNATION = format!("{found:016x}");
                "{name} is in use, with a memory that was put there: its incarnation is {found:016x}"
            );
        }
        *known = found;
    }
}

/// What `systemctl status` shows.
fn sentence(context: &Context) -> String {
    let connections = context.connections();
    let requests: u64 = context.statistics.operations().values().sum();
    let serving = match context.names() {
        Names::Removed => "REMOVED FROM /dev/shm, see the journal: serving",
        _ if context.incarnation() == 0 => "waiting for restore:",
        _ => "serving",
    };
    format!(
        "{serving} {} MiB as server {} of {} on {}: {} of {} connections, {requests} requests",
        context.layout.k() >> 20,
        context.index,
        context.layout.n(),
        context.address(),
        connections.open,
        connections.limit
    )
}

/// A real conversation over the server's own socket: hello, a read of its first bytes, and the right answers. It does not
/// count against the limit of connections, so that a server that is full is not taken for one that is dead.
fn ask(context: &Context, address: SocketAddr, session: [u8; 16], timeout: Duration) -> io::Result<()> {
    let mut socket = connect(context, address, timeout)?;
    let hello = HelloRequest::new(context.index, session, context.incarnation(), false);
    let text = context.layout.canonical();
    let payload = [hello.as_bytes(), text.as_bytes()].concat();
    let mut request = Vec::new();
    Request { id: 0, operation: Operation::Hello(&payload) }.append_to(&mut request);
    socket.write_all(&request)?;
    let (code, body) = answer(&mut socket)?;
    if code == Code::MemoryLost as u16 {
        // A restore has come between the look at the incarnation and hello. It answers, and so it lives.
        return Ok(());
    }
    if code != 0 || body.len() != size_of::<HelloReply>() {
        return Err(unexpected("hello", code, &body));
    }
    let mut read = RequestHeader::new(Opcode::Read, u64::MAX);
    read.operand = 8.into();
    socket.write_all(read.as_bytes())?;
    match answer(&mut socket)? {
        (0, body) if body.len() == 8 => Ok(()),
        // It answers, and so it lives, though its memory waits for a restore.
        (code, _) if [Code::Restoring, Code::MemoryLost].map(|code| code as u16).contains(&code) => Ok(()),
        (code, body) => Err(unexpected("a read", code, &body)),
    }
}

fn unexpected(question: &str, code: u16, body: &[u8]) -> io::Error {
    let text = if code == 0 { format!("{} bytes", body.len()).into() } else { String::from_utf8_lossy(body) };
    io::Error::other(format!("the reply to {question} is {text}"))
}

/// Connects from a port that the context knows before the server can see it.
fn connect(context: &Context, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = TcpStream::from(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address.ip(), 0)))?;
    // Bounds connecting, too: see socket(7), SO_SNDTIMEO.
    socket.set_write_timeout(Some(timeout))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_nodelay(true)?;
    context.expect_probe(socket.local_addr()?);
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// The code and the payload of the next reply.
fn answer(socket: &mut TcpStream) -> io::Result<(u16, Vec<u8>)> {
    let mut head = [0; HEADER];
    socket.read_exact(&mut head)?;
    let header = match split_reply(&head) {
        Ok(Some((header, _))) => header,
        Ok(None) => return Err(io::Error::other("a short header")),
        Err(refusal) => return Err(io::Error::other(refusal)),
    };
    let mut body = vec![0; header.payload.get() as usize];
    socket.read_exact(&mut body)?;
    Ok((header.code.get(), body))
}
