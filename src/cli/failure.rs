//! The errors of dsmctl and their exit codes. No other module chooses an exit code; dsmctl(1) lists
//! them all.

use super::servers::ServerState;
use dsm_client::ErrorKind;
use dsm_config::ConfigError;
use dsm_core::layout::OutsideMemory;
use dsm_core::protocol::Code;
use dsm_core::sys::file_size;
use dsm_snapshot::{AgentError, CreateError, DirectoryError, ReadError, RestoreError};
use std::{fmt, io};

/// The exit codes: 1, and those of sysexits(3).
pub(super) mod exit {
    pub(in crate::cli) const MISMATCH: u8 = 1;
    pub(in crate::cli) const USAGE: u8 = 64;
    pub(in crate::cli) const DATA: u8 = 65;
    pub(in crate::cli) const NO_INPUT: u8 = 66;
    pub(in crate::cli) const UNAVAILABLE: u8 = 69;
    pub(in crate::cli) const SOFTWARE: u8 = 70;
    pub(in crate::cli) const INPUT_OUTPUT: u8 = 74;
    pub(in crate::cli) const TEMPORARY: u8 = 75;
    pub(in crate::cli) const PROTOCOL: u8 = 76;
    pub(in crate::cli) const PERMISSION: u8 = 77;
    pub(in crate::cli) const CONFIGURATION: u8 = 78;
}

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliFailure {
    /// The command line parses, but its values do not fit together or do not fit the configuration.
    #[error("{0}")]
    Usage(String),
    /// mcomp.cfg is missing, unreadable or invalid.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// The range is not inside the memory.
    #[error(transparent)]
    OutsideMemory(#[from] OutsideMemory),
    /// One of several ranges or memories does not contain a requested range; `what` names it.
    #[error("{what}: {error}")]
    Outside { what: String, error: OutsideMemory },
    /// The input, whose length was unknown, did not fit between its address and the end of the
    /// memory.
    #[error(
        "{input} runs past the end of the memory: {} written, up to address {end}; give a shorter \
         input or a lower address",
        written_so_far(*written)
    )]
    TooMuchInput {
        input: String,
        written: u64,
        end: u64,
    },
    /// The file to write from has lost bytes that were not read yet.
    #[error("{0} has become shorter while it was read")]
    ShorterInput(String),
    /// The input file cannot be opened.
    #[error("cannot open {path}: {error}")]
    NoInput { path: String, error: io::Error },
    /// An operation on a local file or stream failed.
    #[error("{name}: {error}{}", io_hint(.error))]
    InputOutput { name: String, error: io::Error },
    /// The reader of standard output has closed it. This is not an error, and prints nothing.
    #[error("standard output is closed")]
    OutputClosed,
    /// The client library returned an error.
    #[error(transparent)]
    Memory(#[from] dsm_client::Error),
    /// `--path local` was given, but this process cannot use the server's shared memory.
    #[error(
        "this process cannot use the shared memory of server {server} ({address}): dsmd must run \
         on this machine with log.operations = \"off\", this user must be in the group of the \
         memory, the owner of the memory must be root, dsm or this user, and at most 60 programs \
         with 48 threads may use it (see dsm(7)); or give --path auto, which uses TCP instead"
    )]
    NotLocal { server: usize, address: String },
    /// A transfer failed after some of its steps had succeeded.
    #[error("after {done}{total} bytes were {verb}: {cause}")]
    Partly {
        verb: &'static str,
        done: u64,
        total: OfTotal,
        cause: Box<CliFailure>,
    },
    /// A snapshot is damaged, lacks the requested range, or cannot be read.
    #[error("{error}{advice}", error = .0, advice = snapshot_hint(.0))]
    Snapshot(#[from] ReadError),
    /// Some of several snapshots failed verification; the reason of each was printed before.
    #[error("{bad} of {asked} files failed verification: see the message about each above")]
    Snapshots { bad: usize, asked: usize, code: u8 },
    /// The snapshot directory cannot be listed.
    #[error("{error}. {advice}", error = .0, advice = directory_hint(.0.kind()))]
    SnapshotDirectory(#[from] DirectoryError),
    /// Neither the current folder nor the snapshot directory has a file of this name.
    #[error("there is no file {name} here, {elsewhere}")]
    NoSnapshot { name: String, elsewhere: String },
    /// Two partial snapshots have no server in common.
    #[error(
        "no server is in both {first} and {second}: name two snapshots that have a server in common"
    )]
    NothingInCommon { first: String, second: String },
    /// `snapshot create` failed.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// `snapshot restore` failed, possibly after it had restored some servers.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A snapshot agent refused a request or did not answer.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The user did not confirm the restore on the terminal.
    #[error("nothing was changed: answer y to restore, or give --yes")]
    Declined,
    /// Some requests of a load failed; the report shows the reason of each kind.
    #[error("{failed} of {asked} requests failed: the report says why")]
    Requests { failed: u64, asked: u64, code: u8 },
    /// Some servers are down or refused the request; the reason of each was printed before.
    #[error("{}", ServersFailed { down: *down, refused: *refused, asked: *asked })]
    Servers {
        down: usize,
        refused: usize,
        asked: usize,
        code: u8,
    },
}

/// The numbers of the servers that failed, and their message.
struct ServersFailed {
    down: usize,
    refused: usize,
    asked: usize,
}

impl fmt::Display for ServersFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            down,
            refused,
            asked,
        } = self;
        let servers = if *asked == 1 { "server" } else { "servers" };
        if *down > 0 {
            write!(
                formatter,
                "{down} of {asked} {servers} did not answer: check that dsmd runs there \
                 (systemctl status dsmd) and that this machine can reach it"
            )?;
        }
        if *refused > 0 {
            let separator = if *down > 0 { "; " } else { "" };
            write!(
                formatter,
                "{separator}{refused} of {asked} {servers} answered with an error: see the \
                 reason in the line of each"
            )?;
        }
        Ok(())
    }
}

/// The remedy for a snapshot that cannot be used, to follow its error message.
fn snapshot_hint(error: &ReadError) -> &'static str {
    match error {
        ReadError::Frame { .. } => ". All other addresses can still be read, with --range",
        ReadError::Missing { .. } => ". Give a --range that avoids them",
        _ => "",
    }
}

/// The remedy for a snapshot directory that cannot be listed.
fn directory_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => {
            "This user may not read it: use sudo, or become a member of its group (ls -ld shows \
             it; the package uses dsm) and log in again"
        }
        _ => {
            "Each snapshot is on the machine that wrote it: run this command there, or name the \
             folder with --directory"
        }
    }
}

fn written_so_far(count: u64) -> String {
    match count {
        0 => "nothing was".to_owned(),
        1 => "the first byte was".to_owned(),
        _ => format!("the first {count} bytes were"),
    }
}

/// The length of a whole transfer in bytes; displays as nothing if it is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OfTotal(Option<u64>);

impl fmt::Display for OfTotal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |bytes| write!(formatter, " of {bytes}"))
    }
}

/// The remedy for a file or stream that failed; empty where none is known.
fn io_hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::FileTooLarge => format!(": {}", file_size::HINT),
        _ => String::new(),
    }
}

impl CliFailure {
    /// The failure of the local file or stream `name`.
    pub(super) fn input_output(name: impl fmt::Display, error: io::Error) -> Self {
        Self::InputOutput {
            name: name.to_string(),
            error,
        }
    }

    /// Adds how many bytes of a transfer were done before this failure, unless there were none.
    pub(super) fn after(self, verb: &'static str, done: u64, total: Option<u64>) -> Self {
        if done == 0 || matches!(self, Self::OutputClosed) {
            return self;
        }
        Self::Partly {
            verb,
            done,
            total: OfTotal(total),
            cause: Box::new(self),
        }
    }

    /// The failure of a command that asked `asked` servers and got `errors`; `None` without errors.
    /// Its exit code is the greatest exit code of the errors.
    pub(super) fn of_servers<'e>(
        asked: usize,
        errors: impl Iterator<Item = &'e dsm_client::Error>,
    ) -> Option<Self> {
        Self::of_states(
            asked,
            errors.map(|error| (ServerState::of(error), code_of_memory(error))),
        )
    }

    /// Like [`CliFailure::of_servers`], from the state and the exit code of each failed server.
    fn of_states(asked: usize, errors: impl Iterator<Item = (ServerState, u8)>) -> Option<Self> {
        let (mut down, mut refused, mut code) = (0, 0, 0);
        for (state, of_error) in errors {
            match state {
                ServerState::Down => down += 1,
                ServerState::Refused | ServerState::Protocol => refused += 1,
            }
            code = code.max(of_error);
        }
        (code != 0).then_some(Self::Servers {
            down,
            refused,
            asked,
            code,
        })
    }

    /// The exit code, as dsmctl(1) documents it under EXIT STATUS.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Configuration(_) => exit::CONFIGURATION,
            Self::OutsideMemory(_)
            | Self::Outside { .. }
            | Self::TooMuchInput { .. }
            | Self::NothingInCommon { .. } => exit::DATA,
            Self::NoInput { error, .. } | Self::InputOutput { error, .. }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                exit::PERMISSION
            }
            Self::NoInput { .. } | Self::NoSnapshot { .. } => exit::NO_INPUT,
            Self::InputOutput { .. } | Self::ShorterInput(_) => exit::INPUT_OUTPUT,
            Self::OutputClosed => 0,
            Self::Memory(error) => code_of_memory(error),
            Self::NotLocal { .. } => exit::UNAVAILABLE,
            Self::Partly { cause, .. } => cause.code(),
            Self::Servers { code, .. }
            | Self::Snapshots { code, .. }
            | Self::Requests { code, .. } => *code,
            Self::Snapshot(error) => error.exit_code(),
            Self::SnapshotDirectory(error) => code_of_reading(error.kind()),
            Self::Create(error) => error.exit_code(),
            Self::Agent(error) => error.exit_code(),
            Self::Restore(error) => error.exit_code(),
            Self::Declined => exit::MISMATCH,
        }
    }
}

/// The exit code for an input that the user named and that cannot be read.
fn code_of_reading(kind: io::ErrorKind) -> u8 {
    match kind {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => exit::NO_INPUT,
        io::ErrorKind::PermissionDenied => exit::PERMISSION,
        _ => exit::INPUT_OUTPUT,
    }
}

/// The exit code for an error of the client library.
pub(super) fn code_of_memory(error: &dsm_client::Error) -> u8 {
    match error.kind() {
        ErrorKind::OutsideMemory | ErrorKind::Unaligned => exit::DATA,
        ErrorKind::Unavailable => exit::UNAVAILABLE,
        ErrorKind::OutcomeUnknown => exit::TEMPORARY,
        ErrorKind::MemoryLost => exit::INPUT_OUTPUT,
        ErrorKind::LayoutDiffers => exit::CONFIGURATION,
        ErrorKind::Refused => error.refusal().map_or(exit::PROTOCOL, code_of_refusal),
        ErrorKind::Protocol => exit::PROTOCOL,
        ErrorKind::NoSuchServer => exit::USAGE,
        // Insufficient memory in this process, or a kind of error added to the library later.
        _ => exit::SOFTWARE,
    }
}

/// The exit code for a request that the server refused.
fn code_of_refusal(code: Code) -> u8 {
    match code {
        Code::OutOfRange | Code::Unaligned => exit::DATA,
        Code::TooManyConnections | Code::Stopping | Code::TooSlow | Code::Busy => exit::UNAVAILABLE,
        Code::LayoutDiffers | Code::WrongServer => exit::CONFIGURATION,
        Code::MemoryLost => exit::INPUT_OUTPUT,
        Code::Internal => exit::SOFTWARE,
        Code::Restoring => exit::TEMPORARY,
        // All other codes mean that one side violates the protocol.
        _ => exit::PROTOCOL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsm_client::{Client, Layout, LocalAccess};
    use std::time::Duration;

    #[test]
    fn the_man_page_lists_the_exit_codes() {
        let page = include_str!("../../man/dsmctl.1");
        let listed: Vec<u8> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".It ")?.parse().ok())
            .collect();
        let all = [
            0,
            exit::MISMATCH,
            exit::USAGE,
            exit::DATA,
            exit::NO_INPUT,
            exit::UNAVAILABLE,
            exit::SOFTWARE,
            exit::INPUT_OUTPUT,
            exit::TEMPORARY,
            exit::PROTOCOL,
            exit::PERMISSION,
            exit::CONFIGURATION,
        ];
        assert_eq!(listed, all);
    }

    #[test]
    fn a_transfer_that_fails_keeps_its_exit_code_and_tells_how_many_bytes_it_moved() {
        // No process listens on port 1.
        let layout = Layout::new("dsm", 4096, vec!["127.0.0.1:1".to_owned()]).unwrap();
        let client = Client::with_layout(layout)
            .with_timeout(Duration::from_millis(1))
            .with_local(LocalAccess::Never);
        let down = || CliFailure::Memory(client.read(0, 1).unwrap_err());
        let partly = down().after("written", 8, Some(16));
        assert_eq!(partly.code(), exit::UNAVAILABLE);
        assert!(
            partly
                .to_string()
                .starts_with("after 8 of 16 bytes were written: server 0 (127.0.0.1:1)"),
            "{partly}"
        );
        assert!(
            down()
                .after("read", 8, None)
                .to_string()
                .starts_with("after 8 bytes were read: ")
        );
        assert!(
            down()
                .after("written", 0, Some(16))
                .to_string()
                .starts_with("server 0 (127.0.0.1:1)")
        );
        assert!(matches!(
            CliFailure::OutputClosed.after("read", 8, None),
            CliFailure::OutputClosed
        ));
    }

    #[test]
    fn the_greatest_exit_code_wins_when_servers_fail_differently() {
        let (down, other) = (
            (ServerState::Down, exit::UNAVAILABLE),
            (ServerState::Refused, exit::CONFIGURATION),
        );
        let code = |errors: &[(ServerState, u8)]| {
            CliFailure::of_states(3, errors.iter().copied())
                .map(|failure| (failure.code(), failure.to_string()))
        };
        assert_eq!(code(&[]), None);
        assert!(
            code(&[down]).is_some_and(
                |(code, text)| code == 69 && text.starts_with("1 of 3 servers did not")
            )
        );
        assert!(
            code(&[other]).is_some_and(
                |(code, text)| code == 78 && text.starts_with("1 of 3 servers answered")
            )
        );
        assert!(
            code(&[other, down])
                .is_some_and(|(code, text)| code == 78 && text.contains("; 1 of 3 servers"))
        );
    }

    #[test]
    fn every_refusal_maps_to_an_exit_code_of_sysexits() {
        for &code in Code::ALL {
            assert!(
                (exit::DATA..=exit::CONFIGURATION).contains(&code_of_refusal(code)),
                "{code:?}"
            );
        }
        let denied = CliFailure::input_output("file", io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.code(), exit::PERMISSION);
    }
}
