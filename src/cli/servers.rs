//! Asking many servers at the same time.

use dsm_client::{Error, ErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// The most servers that are asked at a time: each takes a thread.
const PARALLEL: usize = 16;

/// Asks each of the servers, and returns the answers in the servers' order.
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

/// What is the matter with a server that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody answers there, or not in time.
    Down,
    /// It answers, and refuses this client.
    Refused,
    /// What answers does not keep to the protocol.
    Protocol,
}

impl State {
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::OutcomeUnknown => Self::Down,
            ErrorKind::Protocol => Self::Protocol,
            _ => Self::Refused,
        }
    }

    /// Its name in the table and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
        }
    }
}

/// Why a server gave no answer, without its index and address: the line has these already.
pub(super) fn reason(error: &Error) -> String {
    let reason = error.reason();
    match (error.kind(), error.refusal()) {
        // Of a layout that differs, the server's text says whose value is whose.
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
    fn answers_come_in_the_servers_order() {
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
