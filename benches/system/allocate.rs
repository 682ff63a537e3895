//! Allocates memory as dsmd does at its start: the lower bound of its start-up time.

use nix::fcntl::posix_fallocate;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use std::path::Path;

/// Allocates `size` bytes in a new file, and then sends READY=1 to the service manager, as dsmd
/// does.
pub(crate) fn allocate(path: &Path, size: i64) -> Result<Value, String> {
    let file =
        std::fs::File::create_new(path).map_err(|error| format!("{}: {error}", path.display()))?;
    posix_fallocate(&file, 0, size)
        .map_err(|error| format!("{size} bytes in {}: {error}", path.display()))?;
    sd_notify::notify(&[NotifyState::Ready]).map_err(|error| format!("NOTIFY_SOCKET: {error}"))?;
    Ok(json!({ "bytes": size }))
}
