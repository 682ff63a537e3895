//! mcomp.cfg has any text. The parser accepts it or returns an error that names the file, and does
//! not panic.

use dsm_config::Config;
use dsm_core::layout::Layout;
use std::path::Path;

/// The path that the error message must name.
const PATH: &str = "/etc/fuzzed.cfg";

/// Tests one input as the bytes of the file.
///
/// # Panics
/// When the parser breaks a promise.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Config::parse(&text, Path::new(PATH)) {
        Ok(config) => {
            let layout = &config.layout;
            let again = Layout::new(
                layout.name(),
                layout.share_size(),
                layout.addresses().to_vec(),
            );
            assert_eq!(
                again.as_ref(),
                Ok(layout),
                "the parser accepts a layout that breaks the rules of layouts"
            );
            assert_eq!(config.servers.len(), layout.server_count());
            assert!((1..=4096).contains(&config.limits.connections));
            assert!((1..=32).contains(&config.limits.threads));
            assert!(!config.settings().is_empty());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.contains(PATH),
                "the error does not name the file: {message}"
            );
        }
    }
}
