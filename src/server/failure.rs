//! Why dsmd ends, and the exit code for it, after `sysexits(3)`.

use crate::logging::Event;
use dsm_config::{ConfigError, IdentityError, UntrustedAddress};
use dsm_core::net::hint;
use dsm_core::segment::SegmentError;
use nix::errno::Errno;
use std::io;
use std::path::PathBuf;

/// An error that ends dsmd.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Untrusted(#[from] UntrustedAddress),
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("listen on {address}: {source}{}", hint(.source))]
    Listen { address: String, source: io::Error },
    #[error(
        "no dsmd with pid {pid} serves memory that this user may open: see systemctl status dsmd, or run as its user"
    )]
    NoServer { pid: u32 },
    #[error(
        "dsmd (pid {pid}) refused the new configuration and keeps the old one: its log says why, as does dsmctl config check"
    )]
    ReloadRefused { pid: u32 },
    #[error(
        "dsmd (pid {pid}) was told to reload its configuration but has not confirmed it: see its log"
    )]
    NoAnswer { pid: u32 },
    #[error("tell dsmd (pid {pid}) to reload its configuration: {source}")]
    Reload { pid: u32, source: io::Error },
    #[error("start threads: {error}{}", thread_hint(.0), error = .0)]
    Threads(io::Error),
    #[error("detach with the pid file {pid_file}: {reason}", pid_file = .pid_file.display())]
    Daemonize { pid_file: PathBuf, reason: String },
}

impl Failure {
    pub(super) fn listen(address: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let address = address.to_owned();
        move |source| Self::Listen { address, source }
    }

    /// The event under which the journal's catalog explains it, if any.
    pub(super) fn event(&self) -> Option<Event> {
        matches!(self, Self::Segment(SegmentError::Mismatch { .. }))
            .then_some(Event::SegmentMismatch)
    }

    /// The exit code; dsmd(8), EXIT STATUS, lists them.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Identity(IdentityError::Range { .. }) => 64,
            // The address may still appear.
            Self::Identity(IdentityError::None { .. }) => 69,
            Self::Config(_)
            | Self::Identity(_)
            | Self::Untrusted(_)
            | Self::ReloadRefused { .. } => 78,
            Self::Segment(error) => match error {
                // Another process has the name and may free it: the unit tries again.
                SegmentError::InUse { .. }
                | SegmentError::UnderRepair { .. }
                | SegmentError::NotUpgradable { .. }
                | SegmentError::NotUpgraded { .. }
                | SegmentError::NotOurs { .. }
                | SegmentError::NotAnObject { .. } => 69,
                // A memory limit is the same a second later, as a k that is too large is.
                SegmentError::Mismatch { .. }
                | SegmentError::TooLarge { .. }
                | SegmentError::MemoryLimit { .. } => 78,
                SegmentError::System {
                    source: Errno::EACCES | Errno::EPERM,
                    ..
                } => 77,
                _ => 74,
            },
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Reload { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Listen { .. } | Self::NoServer { .. } | Self::NoAnswer { .. } => 69,
            Self::Reload { .. } => 74,
            Self::Threads(_) => 70,
            Self::Daemonize { .. } => 77,
        }
    }
}

/// What a user can do about a thread, or a resource of it, that the system does not provide.
fn thread_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAGAIN) => {
            ". The limit of processes and threads is reached: raise TasksMax= of the unit, pids.max of the container, or \
             ulimit -u"
        }
        Some(Errno::ENOMEM) => {
            ". Allow more memory: MemoryMax= of the unit, the memory of the container, or ulimit -v"
        }
        Some(Errno::EMFILE) => {
            ". Raise the limit of open files: LimitNOFILE= of the unit, or ulimit -n"
        }
        _ => "",
    }
}
