//! Whether shared memory can hold what mcomp.cfg asks for.

use super::mistake::ConfigError;
use super::{Config, format_size};
use nix::sys::statvfs::statvfs;

/// Where the operating system keeps shared-memory objects, see `shm_overview(7)`.
pub const SHARED_MEMORY_DIRECTORY: &str = "/dev/shm";

/// Checks that shared memory is large enough for a segment of k bytes and `overhead` bytes of tables. What is free
/// of it is not looked at: it may be this very segment that takes it.
///
/// # Errors
/// When it is too small, and when the operating system does not say.
pub fn check_capacity(config: &Config, overhead: u64) -> Result<(), ConfigError> {
    let directory = SHARED_MEMORY_DIRECTORY;
    let system = statvfs(directory).map_err(|error| ConfigError::SharedMemory { directory, source: error.into() })?;
    fits(config, overhead, system.blocks().saturating_mul(system.fragment_size()))
}

/// `capacity` is in bytes; zero is how a tmpfs without a limit shows itself.
fn fits(config: &Config, overhead: u64, capacity: u64) -> Result<(), ConfigError> {
    let k = config.layout.k();
    let needed = k.saturating_add(overhead);
    if capacity == 0 || needed <= capacity {
        return Ok(());
    }
    let message = format!(
        "k is {}: with {} of tables a segment needs {}, but {SHARED_MEMORY_DIRECTORY} can hold {}: make k smaller, \
         or {SHARED_MEMORY_DIRECTORY} larger (mount -o remount,size=... {SHARED_MEMORY_DIRECTORY})",
        format_size(k),
        format_size(overhead),
        format_size(needed),
        format_size(capacity)
    );
    Err(ConfigError::single(&config.path, config.place("k"), message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_share_that_shared_memory_cannot_hold_is_a_mistake_in_k() {
        let text = "n = 1\nk = \"64MiB\"\nserver = [{ address = \"[::1]:7411\" }]\n";
        let config = Config::parse(text, Path::new("mcomp.cfg")).unwrap();
        assert!(fits(&config, 1 << 20, 65 << 20).is_ok());
        assert!(fits(&config, u64::MAX, 0).is_ok());
        assert_eq!(
            fits(&config, 1 << 20, 64 << 20).unwrap_err().to_string(),
            "mcomp.cfg:2:5: k is 64MiB: with 1MiB of tables a segment needs 65MiB, but /dev/shm can hold 64MiB: make k \
             smaller, or /dev/shm larger (mount -o remount,size=... /dev/shm)"
        );
        assert!(fits(&config, u64::MAX, 1 << 40).is_err());
    }

    #[test]
    fn this_machine_says_how_much_shared_memory_it_has() {
        let text = "n = 1\nk = 4096\nserver = [{ address = \"[::1]:7411\" }]\n";
        let config = Config::parse(text, Path::new("mcomp.cfg")).unwrap();
        assert!(check_capacity(&config, 0).is_ok());
    }
}
