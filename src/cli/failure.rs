//! Why a command failed, and the exit code that says so. This is the only place that chooses one;
//! dsmctl(1) lists them.

use super::servers::State;
use dsm_client::ErrorKind;
use dsm_config::ConfigError;
use dsm_core::layout::OutsideMemory;
use dsm_core::protocol::Code;
use dsm_core::sys::file_size;
use dsm_snapshot::{AgentError, CreateError, DirectoryError, ReadError, RestoreError};
use std::{fmt, io};

/// Exit codes, as sysexits(3) names them.
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

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command line is well formed and makes no sense.
    #[error("{0}")]
    Usage(String),
    /// mcomp.cfg is missing or wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// The range is not inside the memory.
    #[error(transparent)]
    OutsideMemory(#[from] OutsideMemory),
    /// Of several ranges or memories, one is not inside the other.
    #[error("{what}: {error}")]
    Outside { what: String, error: OutsideMemory },
    /// A stream of unknown length was longer than the memory behind its address.
    #[error(
        "{input} goes on past the end of the memory: of it, {} written, up to address {end}, and the rest was not",
        written_so_far(*written)
    )]
    TooMuchInput {
        input: String,
        written: u64,
        end: u64,
    },
    /// What was to be written cannot be opened.
    #[error("cannot open {path}: {error}")]
    NoInput { path: String, error: io::Error },
    /// A local file or stream failed.
    #[error("{name}: {error}{}", advice(.error))]
    InputOutput { name: String, error: io::Error },
    /// Whoever read standard output has gone. Not worth a word.
    #[error("standard output is closed")]
    OutputClosed,
    /// The servers could not do it.
    #[error(transparent)]
    Memory(#[from] dsm_client::Error),
    /// A server's shared memory is closed to this process, and nothing else will do.
    #[error(
        "the shared memory of server {server} ({address}) is not open to this process: dsmd must run on this machine, with \
         log.operations = \"off\", this user be in the group of its memory, that be of root, of this user or of user dsm, and at \
         most 60 programs with 48 threads use it (see dsm(7)); --path auto goes over TCP then"
    )]
    NotLocal { server: usize, address: String },
    /// A long transfer ended early.
    #[error("after {done}{total} bytes were {verb}: {cause}")]
    Partly {
        verb: &'static str,
        done: u64,
        total: OfTotal,
        cause: Box<Failure>,
    },
    /// A snapshot is damaged, or does not have what is asked of it, or cannot be read.
    #[error("{error}{advice}", error = .0, advice = way_out(.0))]
    Snapshot(#[from] ReadError),
    /// Some of several snapshots are not good; each has been named with its reason.
    #[error("{bad} of {asked} files did not pass: the reason of each stands above")]
    Snapshots { bad: usize, asked: usize, code: u8 },
    /// The snapshots cannot be listed.
    #[error("{error}. {advice}", error = .0, advice = where_snapshots_are(.0.kind()))]
    SnapshotDirectory(#[from] DirectoryError),
    /// The name is that of no file, neither here nor where snapshots are.
    #[error("there is no file {name} here, {elsewhere}")]
    NoSnapshot { name: String, elsewhere: String },
    /// Two partial snapshots without a byte that both have.
    #[error("no server is in both {first} and {second}: there is nothing to compare")]
    NothingInCommon { first: String, second: String },
    /// No snapshot was taken.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// No snapshot was restored, or not all of it.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A snapshot agent did not do its part.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Whoever was asked on the terminal did not say yes.
    #[error("nothing was changed")]
    Declined,
    /// Requests of a load failed; the report has each kind with its reason.
    #[error("{failed} of {asked} requests failed: the report says why")]
    Requests { failed: u64, asked: u64, code: u8 },
    /// Some servers are down or refuse; each has been shown with its reason.
    #[error("{}", Servers { down: *down, refused: *refused, asked: *asked })]
    Servers {
        down: usize,
        refused: usize,
        asked: usize,
        code: u8,
    },
}

/// What is the matter with how many of the servers that were asked.
struct Servers {
    down: usize,
    refused: usize,
    asked: usize,
}

impl fmt::Display for Servers {
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
                "{down} of {asked} {servers} did not answer: see that dsmd runs there "
            )?;
            write!(formatter, "(systemctl status dsmd) and can be reached")?;
        }
        if *refused > 0 {
            let separator = if *down > 0 { "; " } else { "" };
            write!(
                formatter,
                "{separator}{refused} of {asked} {servers} answered with an error: the reason stands beside each"
            )?;
        }
        Ok(())
    }
}

/// What can be done about a snapshot, after what is the matter with it.
fn way_out(error: &ReadError) -> &'static str {
    match error {
        ReadError::Frame { .. } => ". Its other addresses can be read, with --range",
        ReadError::Missing { .. } => ". Give a --range without them",
        _ => "",
    }
}

/// What can be done about a snapshot directory that cannot be read.
fn where_snapshots_are(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => {
            "This user may not read it: use sudo, or become a member of its group, which ls -ld shows (that of the package is \
             dsm), and log in anew"
        }
        _ => {
            "Snapshots are on the machine that wrote them: run this there, or name their folder with --directory"
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

/// How long a transfer is to be, in bytes; shows itself only if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OfTotal(Option<u64>);

impl fmt::Display for OfTotal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |bytes| write!(formatter, " of {bytes}"))
    }
}

/// What the user can do about a file or stream that failed.
fn advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::FileTooLarge => format!(": {}", file_size::WAY_OUT),
        _ => String::new(),
    }
}

impl Failure {
    /// A failure of a local file or stream that is called `name`.
    pub(super) fn input_output(name: impl fmt::Display, error: io::Error) -> Self {
        Self::InputOutput {
            name: name.to_string(),
            error,
        }
    }

    /// This failure, with how much of a transfer was done before it, if any was.
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

    /// The failure of a command that asked `asked` servers, of which those with `errors` gave no
    /// answer; none if there are none. Its exit code is the greatest of those that the errors have
    /// each by itself.
    pub(super) fn of_servers<'e>(
        asked: usize,
        errors: impl Iterator<Item = &'e dsm_client::Error>,
    ) -> Option<Self> {
        Self::of_states(
            asked,
            errors.map(|error| (State::of(error), code_of_memory(error))),
        )
    }

    /// The same, of what is the matter with each, and its exit code.
    fn of_states(asked: usize, errors: impl Iterator<Item = (State, u8)>) -> Option<Self> {
        let (mut down, mut refused, mut code) = (0, 0, 0);
        for (state, of_error) in errors {
            match state {
                State::Down => down += 1,
                State::Refused | State::Protocol => refused += 1,
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

    /// The exit code, and so dsmctl(1)'s EXIT STATUS.
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
            Self::InputOutput { .. } => exit::INPUT_OUTPUT,
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

/// For what is to be read, and was named by the user.
fn code_of_reading(kind: io::ErrorKind) -> u8 {
    match kind {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => exit::NO_INPUT,
        io::ErrorKind::PermissionDenied => exit::PERMISSION,
        _ => exit::INPUT_OUTPUT,
    }
}

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
        // No room, or a kind of error that this program does not know yet.
        _ => exit::SOFTWARE,
    }
}

fn code_of_refusal(code: Code) -> u8 {
    match code {
        Code::OutOfRange | Code::Unaligned => exit::DATA,
        Code::TooManyConnections | Code::Stopping | Code::TooSlow | Code::Busy => exit::UNAVAILABLE,
        Code::LayoutDiffers | Code::WrongServer => exit::CONFIGURATION,
        Code::MemoryLost => exit::INPUT_OUTPUT,
        Code::Internal => exit::SOFTWARE,
        Code::Restoring => exit::TEMPORARY,
        // The two sides do not understand each other.
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
    fn a_transfer_that_ends_early_keeps_its_code_and_says_how_far_it_came() {
        // Nothing listens there.
        let layout = Layout::new("dsm", 4096, vec!["127.0.0.1:1".to_owned()]).unwrap();
        let client = Client::with_layout(layout)
            .with_timeout(Duration::from_millis(1))
            .with_local(LocalAccess::Never);
        let down = || Failure::Memory(client.read(0, 1).unwrap_err());
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
            Failure::OutputClosed.after("read", 8, None),
            Failure::OutputClosed
        ));
    }

    #[test]
    fn of_servers_that_fail_differently_the_greatest_code_counts() {
        let (down, other) = (
            (State::Down, exit::UNAVAILABLE),
            (State::Refused, exit::CONFIGURATION),
        );
        let code = |errors: &[(State, u8)]| {
            Failure::of_states(3, errors.iter().copied())
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
    fn every_refusal_has_a_code_of_its_kind() {
        for &code in Code::ALL {
            assert!(
                (exit::DATA..=exit::CONFIGURATION).contains(&code_of_refusal(code)),
                "{code:?}"
            );
        }
        let denied = Failure::input_output("file", io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.code(), exit::PERMISSION);
    }
}
