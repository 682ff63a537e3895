//! Retries steps of a start that fail only for a while: an address or a host name that appears late
//! when a machine boots, or a name of the segment that another user must free.

use super::failure::Failure;
use super::notify::notify;
use dsm_config::IdentityError;
use dsm_core::segment::SegmentError;
use sd_notify::NotifyState;
use std::fmt::Display;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// How long a step is retried. Shorter than `TimeoutStartSec=` of the unit, and so long that its
/// `StartLimitBurst=` is not reached.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// The interval between attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Retries `attempt` while it fails with an error that `is_transient`, if a service manager has
/// started this process; a user at a terminal gets the error immediately. `None` when `is_stopped`
/// says so.
pub(super) fn retry<T, E: Display>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_transient: impl Fn(&E) -> bool,
    mut is_stopped: impl FnMut() -> bool,
) -> Result<Option<T>, E> {
    let managed = std::env::var_os("NOTIFY_SOCKET").is_some();
    let deadline = Instant::now() + RETRY_TIMEOUT;
    let mut reported = false;
    loop {
        match attempt() {
            Err(error) if managed && is_transient(&error) && Instant::now() < deadline => {
                if !std::mem::replace(&mut reported, true) {
                    log::warn!(
                        "{error}. dsmd tries again for {}",
                        humantime::format_duration(RETRY_TIMEOUT)
                    );
                    notify(&[NotifyState::Status(&format!("waiting: {error}"))]);
                }
            }
            outcome => return outcome.map(Some),
        }
        if is_stopped() {
            return Ok(None);
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

/// Whether this server's index is unknown because its address, or the resolver, is not available
/// yet.
pub(super) fn identity_may_appear(error: &IdentityError) -> bool {
    matches!(error, IdentityError::None { .. })
}

/// Whether dsmd cannot listen on an address because the address, or its name, is not available yet.
pub(super) fn address_may_appear(failure: &Failure) -> bool {
    // The standard library gives no kind for the resolver's errors.
    let final_kinds = [ErrorKind::AddrInUse, ErrorKind::PermissionDenied];
    matches!(failure, Failure::Listen { source, .. } if !final_kinds.contains(&source.kind()))
}

/// Whether another user's file, or something that is no shared-memory object, has a name that the
/// memory needs. It stays until its owner removes it, so failing at once and restarting would not
/// help.
pub(super) fn name_may_be_freed(error: &SegmentError) -> bool {
    matches!(
        error,
        SegmentError::NotOurs { .. } | SegmentError::NotAnObject { .. }
    )
}
