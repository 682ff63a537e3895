//! Checks that shared memory can hold a segment of the size that mcomp.cfg asks for.

use super::diagnostic::ConfigError;
use super::{Config, approximate_size};
use dsm_core::segment::SHARED_MEMORY_DIRECTORY;
use nix::sys::statvfs::statvfs;

/// Checks that shared memory is large enough for a segment of k bytes and `overhead` bytes of
/// tables; an `overhead` of 0 means that k is too large for any tables. The free part of shared
/// memory does not count: the segment itself may take up the rest.
///
/// # Errors
/// When shared memory is too small, and when the operating system does not say how large it is.
pub fn check_capacity(config: &Config, overhead: u64) -> Result<(), ConfigError> {
    let directory = SHARED_MEMORY_DIRECTORY;
    let system = statvfs(directory).map_err(|error| ConfigError::SharedMemory {
        directory,
        source: error.into(),
    })?;
    fits(
        config,
        overhead,
        system.blocks().saturating_mul(system.fragment_size()),
    )
}

/// `capacity` is in bytes; a tmpfs without a limit reports 0.
fn fits(config: &Config, overhead: u64, capacity: u64) -> Result<(), ConfigError> {
    let k = config.layout.share_size();
    let needed = k.saturating_add(overhead);
    // Two rounded amounts may look equal, which would contradict the message.
    let shown = |bytes| approximate_size(bytes).replace(".0 ", " ");
    let rounded = shown(needed) != shown(capacity);
    let amount = |bytes| {
        if rounded {
            shown(bytes)
        } else {
            format!("{bytes} bytes")
        }
    };
    if capacity == 0 || needed <= capacity {
        return Ok(());
    }
    let tables = if overhead == 0 {
        "its tables".to_owned()
    } else {
        format!("{} of tables", amount(overhead))
    };
    let message = format!(
        "k is {}: with {tables} a segment needs {}, but {SHARED_MEMORY_DIRECTORY} can hold {}: make k smaller, \
         or {SHARED_MEMORY_DIRECTORY} larger (mount -o remount,size=... {SHARED_MEMORY_DIRECTORY})",
        amount(k),
        if overhead == 0 {
            "even more".to_owned()
        } else {
            amount(needed)
        },
        amount(capacity)
    );
    Err(ConfigError::single(
        &config.path,
        config.place("k"),
        message,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_k_that_shared_memory_cannot_hold_is_an_error() {
        let text = "n = 1\nk = \"64MiB\"\nserver = [{ address = \"[::1]:7411\" }]\n";
        let config = Config::parse(text, Path::new("mcomp.cfg")).unwrap();
        assert!(fits(&config, 1 << 20, 65 << 20).is_ok());
        assert!(fits(&config, u64::MAX, 0).is_ok());
        assert_eq!(
            fits(&config, 1 << 20, 64 << 20).unwrap_err().to_string(),
            "mcomp.cfg:2:5: k is 64 MiB: with 1 MiB of tables a segment needs 65 MiB, but /dev/shm can hold 64 MiB: \
             make k smaller, or /dev/shm larger (mount -o remount,size=... /dev/shm)"
        );
        assert!(fits(&config, u64::MAX, 1 << 40).is_err());
        let close = fits(&config, 4097, 64 << 20).unwrap_err().to_string();
        assert!(
            close.contains("needs 67112961 bytes, but /dev/shm can hold 67108864 bytes"),
            "{close}"
        );
    }

    #[test]
    fn a_k_beyond_the_address_space_has_tables_of_unknown_size() {
        let text = "n = 1\nk = 9223372036854775808\nserver = [{ address = \"[::1]:7411\" }]\n";
        let config = Config::parse(text, Path::new("mcomp.cfg")).unwrap();
        let message = fits(&config, 0, 64 << 20).unwrap_err().to_string();
        assert!(
            message.contains("k is 8 EiB: with its tables a segment needs even more, but"),
            "{message}"
        );
    }

    #[test]
    fn a_segment_of_one_page_fits_the_shared_memory_of_this_machine() {
        let text = "n = 1\nk = 4096\nserver = [{ address = \"[::1]:7411\" }]\n";
        let config = Config::parse(text, Path::new("mcomp.cfg")).unwrap();
        assert!(check_capacity(&config, 0).is_ok());
    }
}
