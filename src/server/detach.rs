//! `--daemonize`: detaching from the terminal, for hosts without systemd. The command returns only
//! when dsmd is ready or has failed, and with the exit code that says which.

use super::failure::Failure;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The process that started this one and waits to hear whether it is ready. The pid file goes when
/// this is dropped.
pub(super) struct Parent {
    pipe: Option<std::fs::File>,
    pid_file: Option<PathBuf>,
}

impl Parent {
    /// Lets the parent exit with `code` after it has shown `message`. Only the first call counts.
    pub(super) fn tell(&mut self, code: u8, message: &str) {
        if let Some(mut pipe) = self.pipe.take() {
            // A parent that is gone need not be told.
            let _ = pipe
                .write_all(&[code])
                .and_then(|()| pipe.write_all(message.as_bytes()));
        }
    }

    /// Says that this process ends, and why. Whoever hears that finds no pid file any more.
    pub(super) fn fail(&mut self, code: u8, message: &str) {
        self.remove_pid_file();
        self.tell(code, message);
    }

    /// Once: a file that comes after that is another's.
    fn remove_pid_file(&mut self) {
        if let Some(pid_file) = self.pid_file.take() {
            // Gone already is as good.
            let _ = std::fs::remove_file(pid_file);
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.remove_pid_file();
    }
}

/// Goes on as a process of its own, with its pid in `pid_file`. The calling process stays behind in
/// here, and exits.
pub(super) fn detach(pid_file: &Path) -> Result<Parent, Failure> {
    // The crate changes to the working directory before it makes the file.
    let pid_file = std::path::absolute(pid_file).unwrap_or_else(|_| pid_file.to_owned());
    let failed = |reason: String| Failure::Daemonize {
        pid_file: pid_file.clone(),
        reason,
    };
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|error| failed(error.to_string()))?;
    let process = daemonize::Daemonize::new()
        .pid_file(&pid_file)
        .working_directory("/")
        .umask(0o027);
    match process.execute() {
        daemonize::Outcome::Parent(Ok(_)) => {
            drop(write);
            wait(read)
        }
        daemonize::Outcome::Parent(Err(error)) => Err(failed(error.to_string())),
        daemonize::Outcome::Child(result) => {
            let pipe = Some(std::fs::File::from(write));
            match result {
                Ok(_) => Ok(Parent {
                    pipe,
                    pid_file: Some(pid_file),
                }),
                Err(error) => {
                    let failure = failed(explain(&pid_file, &error.to_string()));
                    // The pid file is another's.
                    Parent {
                        pipe,
                        pid_file: None,
                    }
                    .tell(failure.exit_code(), &failure.to_string());
                    std::process::exit(i32::from(failure.exit_code()));
                }
            }
        }
    }
}

/// The parent's end: exits as the child says.
fn wait(read: OwnedFd) -> ! {
    let mut said = Vec::new();
    // What cannot be read was not said.
    let _ = std::fs::File::from(read).read_to_end(&mut said);
    let (code, message) = match said.split_first() {
        Some((code, message)) => (*code, String::from_utf8_lossy(message).into_owned()),
        None => (
            70,
            "the detached process ended before it was ready; see syslog".to_owned(),
        ),
    };
    if code != 0 {
        eprintln!("dsmd: {message}");
    }
    std::process::exit(i32::from(code));
}

/// The crate's message, or who holds the pid file.
fn explain(pid_file: &Path, message: &str) -> String {
    match std::fs::read_to_string(pid_file) {
        Ok(pid) if message.contains("lock pid file") => {
            format!(
                "the process {} holds it: stop that dsmd first, or give another pid file",
                pid.trim()
            )
        }
        _ => message.to_owned(),
    }
}
