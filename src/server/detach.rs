//! `--daemonize`: detaches from the terminal, for hosts without systemd. The command returns when
//! dsmd is ready or has failed, with the matching exit code.

use super::failure::Failure;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The process that started this one and waits to learn whether it is ready. Dropping this removes
/// the pid file.
pub(super) struct Parent {
    pipe: Option<std::fs::File>,
    pid_file: Option<PathBuf>,
}

impl Parent {
    /// Has the parent print `message` and exit with `code`. Only the first call has an effect.
    pub(super) fn report(&mut self, code: u8, message: &str) {
        if let Some(mut pipe) = self.pipe.take() {
            // A parent that has ended needs no message.
            let _ = pipe
                .write_all(&[code])
                .and_then(|()| pipe.write_all(message.as_bytes()));
        }
    }

    /// Reports that this process ends, and why. The pid file is removed before the parent can
    /// report it.
    pub(super) fn fail(&mut self, code: u8, message: &str) {
        self.remove_pid_file();
        self.report(code, message);
    }

    /// Only once: a file that appears later belongs to another process.
    fn remove_pid_file(&mut self) {
        if let Some(pid_file) = self.pid_file.take() {
            // A file that was removed already is no error.
            let _ = std::fs::remove_file(pid_file);
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.remove_pid_file();
    }
}

/// Forks: the child returns from here and writes its pid to `pid_file`; the calling process waits
/// for it in here and exits.
pub(super) fn detach(pid_file: &Path) -> Result<Parent, Failure> {
    // The daemonize crate changes the working directory before it creates the file.
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
                    // The pid file belongs to another process.
                    Parent {
                        pipe,
                        pid_file: None,
                    }
                    .report(failure.exit_code(), &failure.to_string());
                    std::process::exit(i32::from(failure.exit_code()));
                }
            }
        }
    }
}

/// The parent's side: exits as the child reports.
fn wait(read: OwnedFd) -> ! {
    let mut report = Vec::new();
    // A pipe that cannot be read counts as closed without a report.
    let _ = std::fs::File::from(read).read_to_end(&mut report);
    let (code, message) = match report.split_first() {
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

/// The crate's message, or which process holds the pid file.
fn explain(pid_file: &Path, message: &str) -> String {
    match std::fs::read_to_string(pid_file) {
        Ok(pid) if message.contains("lock pid file") => {
            format!(
                "process {} holds the file: stop that dsmd first, or give another pid file",
                pid.trim()
            )
        }
        _ => message.to_owned(),
    }
}
