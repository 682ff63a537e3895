//! Requests to many servers at the same time, and the states of servers that fail them.

use dsm_client::{Error, ErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// The most servers that are asked at a time, since each takes a thread.
const PARALLEL: usize = 16;

/// Calls `ask` for each server, and returns the answers in the order of `servers`.
pub(super) fn ask_each<T: Send>(servers: &[usize], ask: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(servers.len()) {
            let (sender, ask, next) = (sender.clone(), &ask, &next);
            scope.spawn(move || {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(server) = servers.get(position) else {
                        break;
                    };
                    // The receiver outlives the scope.
                    let _ = sender.send((position, ask(*server)));
                }
            });
        }
    });
    drop(sender);
    let mut answers: Vec<(usize, T)> = receiver.into_iter().collect();
    answers.sort_by_key(|(position, _)| *position);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The state of a server that failed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerState {
    /// No server answers at the address, or not in time.
    Down,
    /// The server answers, but refuses the request.
    Refused,
    /// The peer violates the protocol; it may not be a dsmd.
    Protocol,
}

impl ServerState {
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::OutcomeUnknown => Self::Down,
            ErrorKind::Protocol => Self::Protocol,
            _ => Self::Refused,
        }
    }

    /// The name in the table and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
        }
    }
}

/// The reason why a server failed a request, without its index and address, which the line already
/// shows.
pub(super) fn reason(error: &Error) -> String {
    let reason = error.reason();
    match (error.kind(), error.refusal()) {
        // For a layout that differs, the text of the server already tells both values apart.
        (ErrorKind::Unavailable | ErrorKind::LayoutDiffers, _) => reason.to_owned(),
        (ErrorKind::Refused, Some(code)) => format!("{reason} ({})", code.name()),
        (ErrorKind::Protocol, _) => {
            format!("{reason}. Check that a dsmd of this release answers there")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_servers() {
        let servers: Vec<usize> = (0..100).rev().collect();
        let answers = ask_each(&servers, |server| {
            std::thread::yield_now();
            2 * server
        });
        assert_eq!(
            answers,
            (0..100).rev().map(|server| 2 * server).collect::<Vec<_>>()
        );
        assert!(ask_each(&[], |server| server).is_empty());
    }
}
