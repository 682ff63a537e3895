//! Waiting for what comes late when a machine boots: an address, or the name of one; and for what
//! only another user can take away.

use super::failure::Failure;
use super::notify::notify;
use dsm_config::IdentityError;
use dsm_core::segment::SegmentError;
use sd_notify::NotifyState;
use std::fmt::Display;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// How long. Less than `TimeoutStartSec=` of the unit, and so long that its `StartLimitBurst=` is
/// not reached.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is looked for.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Repeats `attempt` while it fails for what may be `late`, if a service manager has started this
/// process: somebody at a terminal wants to know at once. None when `is_stopped` says so.
pub(super) fn retry<T, E: Display>(
    mut attempt: impl FnMut() -> Result<T, E>,
    late: impl Fn(&E) -> bool,
    mut is_stopped: impl FnMut() -> bool,
) -> Result<Option<T>, E> {
    let managed = std::env::var_os("NOTIFY_SOCKET").is_some();
    let deadline = Instant::now() + RETRY_TIMEOUT;
    let mut told = false;
    loop {
        match attempt() {
            Err(error) if managed && late(&error) && Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    log::warn!(
                        "{error}. That may change: trying again for {}",
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

/// Whether it is not known which server this is because an address, or the resolver, is not there
/// yet.
pub(super) fn identity_may_appear(error: &IdentityError) -> bool {
    matches!(error, IdentityError::None { .. })
}

/// Whether an address cannot be listened on because it, or its name, is not there yet.
pub(super) fn address_may_appear(failure: &Failure) -> bool {
    // Of a resolver's errors the standard library gives no kind.
    let final_kinds = [ErrorKind::AddrInUse, ErrorKind::PermissionDenied];
    matches!(failure, Failure::Listen { source, .. } if !final_kinds.contains(&source.kind()))
}

/// Whether another user, or something else than an object, has a name that the memory needs. It
/// holds for as long as they want, and no restart helps: tried again slowly, dsmd starts when the
/// name is free.
pub(super) fn name_may_be_freed(error: &SegmentError) -> bool {
    matches!(
        error,
        SegmentError::NotOurs { .. } | SegmentError::NotAnObject { .. }
    )
}
