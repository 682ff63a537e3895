//! Notifications to systemd after `sd_notify(3)`, sent by a dedicated thread: a service manager
//! that does not read its socket blocks no other thread. Without a service manager, nothing is
//! sent.

use sd_notify::NotifyState;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Notifications that may wait for the service manager. More are dropped; the next one sends the
/// state at its time.
const QUEUE_CAPACITY: usize = 16;

/// How long a process that ends waits until its last notifications are sent.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

static SENDER: OnceLock<SyncSender<Notification>> = OnceLock::new();

enum Notification {
    /// Lines of `KEY=value`.
    States(String),
    /// Report when everything before it is sent.
    Flush(SyncSender<()>),
}

/// Queues a notification. Not to be called before the process is detached: a fork takes no thread
/// along.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let text = states.iter().map(|state| format!("{state}\n")).collect();
    if sender().try_send(Notification::States(text)).is_err() {
        log::debug!("a notification was dropped because systemd does not read those before it");
    }
}

/// Waits at most [`FLUSH_TIMEOUT`] until queued notifications are sent; for the end of the process.
pub(super) fn flush() {
    let Some(sender) = SENDER.get() else { return };
    let (done, wait) = sync_channel(1);
    if sender.try_send(Notification::Flush(done)).is_ok() {
        // After a timeout, or without the thread, the last notifications are lost.
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
            log::warn!("cannot start the thread that notifies systemd: {error}");
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
                    log::warn!("cannot notify systemd through NOTIFY_SOCKET: {error}");
                }
            }
            Notification::Flush(done) => {
                // The caller of `flush` may have timed out.
                let _ = done.try_send(());
            }
        }
    }
}
