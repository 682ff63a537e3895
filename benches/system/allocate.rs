//! What a start of dsmd cannot do without: the memory.

use nix::fcntl::posix_fallocate;
use sd_notify::NotifyState;
use serde_json::{Value, json};
use std::path::Path;

/// Allocates `size` bytes of a new file, and says so as dsmd says that it serves.
pub(crate) fn allocate(path: &Path, size: i64) -> Result<Value, String> {
    let file =
        std::fs::File::create_new(path).map_err(|error| format!("{}: {error}", path.display()))?;
    posix_fallocate(&file, 0, size)
        .map_err(|error| format!("{size} bytes in {}: {error}", path.display()))?;
    sd_notify::notify(&[NotifyState::Ready]).map_err(|error| format!("NOTIFY_SOCKET: {error}"))?;
    Ok(json!({ "bytes": size }))
}
