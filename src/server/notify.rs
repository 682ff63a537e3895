//! Messages to systemd, after `sd_notify(3)`, from a thread of their own: a service manager that
//! does not read its socket holds up nothing here. Without a service manager nothing happens.

use sd_notify::NotifyState;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Messages that may wait for the service manager; more are dropped, for the next one says what is
/// so then.
const QUEUE_CAPACITY: usize = 16;

/// How long the last messages of a process may take to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

static SENDER: OnceLock<SyncSender<Notification>> = OnceLock::new();

enum Notification {
    /// Lines of `KEY=value`.
    States(String),
    /// Answer when everything before is sent.
    Flush(SyncSender<()>),
}

/// Tells systemd, soon. Not to be called before the process is detached: a fork takes no thread
/// along.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let text = states.iter().map(|state| format!("{state}\n")).collect();
    if sender().try_send(Notification::States(text)).is_err() {
        log::debug!("a message to systemd was dropped, for it does not take the ones before");
    }
}

/// Waits a moment until what was said has been sent; for the end of the process.
pub(super) fn flush() {
    let Some(sender) = SENDER.get() else { return };
    let (done, wait) = sync_channel(1);
    if sender.try_send(Notification::Flush(done)).is_ok() {
        // Too late, or no thread: then nobody hears the last words.
        let _ = wait.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn sender() -> &'static SyncSender<Notification> {
    SENDER.get_or_init(|| {
        let (sender, receiver) = sync_channel(QUEUE_CAPACITY);
        if let Err(error) = std::thread::Builder::new()
            .name("dsm-notify".to_owned())
            .spawn(move || send(&receiver))
        {
            log::warn!("no thread for messages to systemd: {error}");
        }
        sender
    })
}

fn send(receiver: &Receiver<Notification>) {
    let mut warned = false;
    for message in receiver {
        match message {
            Notification::States(text) => {
                if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&text)])
                    && !std::mem::replace(&mut warned, true)
                {
                    log::warn!("systemd cannot be told what dsmd does, by NOTIFY_SOCKET: {error}");
                }
            }
            Notification::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
            }
        }
    }
}
