//! The operation log: what it records, and that neither a failing disk nor a slow one harms the
//! service.

#![allow(clippy::unwrap_used)] // helpers of tests, which the lint's exception for tests does not cover

use dsm_config::OperationLogMode;
use dsm_core::protocol::{Code, Opcode};
use dsm_service::server::operation_log::{OperationLog, OperationLogEntry};
use log::kv::Key;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const TIMEOUT: Duration = Duration::from_secs(10);

/// For files that may have any size.
const NO_LIMIT: u64 = u64::MAX;

fn entry(address: u64) -> OperationLogEntry {
    let client = "10.0.0.5:51234".parse().unwrap();
    OperationLogEntry {
        time: SystemTime::now(),
        client,
        opcode: Opcode::Write,
        address,
        length: 8,
        outcome: 0,
        microseconds: 13,
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The addresses of the lines in a file, in their order.
fn addresses(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let address =
        |line: &str| u64::from_str_radix(&line.split(' ').nth(3).unwrap()[2..], 16).unwrap();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(address)
        .collect()
}

/// Records the warnings of this process per server index. Each test here uses another index.
struct RecordedWarnings;

static WARNINGS: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

impl log::Log for RecordedWarnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let server = record
            .key_values()
            .get(Key::from_str("DSM_SERVER"))
            .and_then(|value| value.to_u64());
        // Another test in this process may make the library log warnings without an index.
        let Some(server) = server else { return };
        let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push((server, record.args().to_string()));
    }

    fn flush(&self) {}
}

fn keep_warnings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&RecordedWarnings).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

fn warnings(index: u32) -> Vec<String> {
    let warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    warnings
        .iter()
        .filter(|(server, _)| *server == u64::from(index))
        .map(|(_, text)| text.clone())
        .collect()
}

#[test]
fn every_line_recorded_before_the_stop_is_in_the_file_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), NO_LIMIT, 1);
    for address in 0..10_000 {
        log.record(entry(address));
    }
    let began = Instant::now();
    log.stop(TIMEOUT);
    assert!(
        began.elapsed() < TIMEOUT / 2,
        "the stop took {:?}",
        began.elapsed()
    );
    let path = folder.path().join("operations-1.log");
    assert_eq!(addresses(&path), (0..10_000).collect::<Vec<_>>());
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.lines().all(|line| line.ends_with(" 8 ok 13")),
        "{text}"
    );
    let status = log.status();
    assert_eq!(
        (status.written, status.lost, status.mode.as_str()),
        (10_000, 0, "off")
    );
}

#[test]
fn the_mode_decides_which_operations_are_wanted_and_can_change() {
    let folder = tempfile::tempdir().unwrap();
    let log = OperationLog::start(OperationLogMode::Off, folder.path(), NO_LIMIT, 2);
    let wanted = |log: &OperationLog| {
        Opcode::ALL
            .into_iter()
            .filter(|opcode| log.wants(*opcode))
            .collect::<Vec<_>>()
    };
    let mutating = Opcode::ALL
        .into_iter()
        .filter(|opcode| opcode.mutates())
        .collect::<Vec<_>>();
    assert_eq!(wanted(&log), []);
    assert_eq!(log.status().mode.as_str(), "off");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "a log that is off makes no file"
    );

    log.reconfigure(OperationLogMode::Writes, folder.path(), NO_LIMIT);
    assert_eq!(wanted(&log), mutating);
    assert_eq!(log.status().mode.as_str(), "writes");
    log.record(entry(1));

    log.reconfigure(OperationLogMode::All, folder.path(), NO_LIMIT);
    let more = wanted(&log);
    assert!(
        more.contains(&Opcode::Read) && more.len() == mutating.len() + 1,
        "{more:?}"
    );
    assert_eq!(log.status().mode.as_str(), "all");

    let code = Code::OutOfRange;
    log.record(OperationLogEntry {
        opcode: Opcode::Read,
        outcome: code as u16,
        ..entry(2)
    });
    log.reconfigure(OperationLogMode::Off, folder.path(), NO_LIMIT);
    assert_eq!(wanted(&log), []);
    let path = folder.path().join("operations-2.log");
    assert_eq!(
        addresses(&path),
        [1, 2],
        "what was recorded before the switch is written"
    );
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .contains(" read 0x0000000000000002 8 out-of-range 13\n")
    );
    log.stop(TIMEOUT);
}

#[test]
fn a_renamed_file_is_left_alone_after_the_reload() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (
        folder.path().join("operations-3.log"),
        folder.path().join("operations-3.log.1"),
    );
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), NO_LIMIT, 3);
    log.record(entry(1));
    until("the first line", || addresses(&path) == [1]);
    fs::rename(&path, &old).unwrap();
    log.record(entry(2));
    until(
        "a line between rename and reload goes to the old file",
        || addresses(&old) == [1, 2],
    );
    log.reconfigure(OperationLogMode::Writes, folder.path(), NO_LIMIT);
    log.record(entry(3));
    log.stop(TIMEOUT);
    assert_eq!((addresses(&old), addresses(&path)), (vec![1, 2], vec![3]));
    assert_eq!(log.status().lost, 0);
}

#[test]
fn lines_lost_to_a_missing_directory_are_counted_and_the_log_recovers() {
    keep_warnings();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("later");
    let log = OperationLog::start(OperationLogMode::Writes, &directory, NO_LIMIT, 4);
    for address in 0..5 {
        log.record(entry(address));
    }
    until("the lines are lost", || log.status().lost == 5);
    fs::create_dir(&directory).unwrap();
    let mut recorded = 5;
    until("the log is written again", || {
        log.record(entry(7));
        recorded += 1;
        log.status().written > 0
    });
    log.stop(TIMEOUT);
    let status = log.status();
    assert_eq!(status.written + status.lost, recorded);
    assert_eq!(
        addresses(&directory.join("operations-4.log")).len() as u64,
        status.written
    );
    let said = warnings(4);
    assert_eq!(
        said.len(),
        2,
        "once when it begins, once when it ends: {said:?}"
    );
    assert!(
        said[0].contains("later/operations-4.log: No such file or directory"),
        "{said:?}"
    );
    assert!(
        said[1].ends_with(&format!(
            "it is written again; {} lines were lost",
            status.lost
        )),
        "{said:?}"
    );
}

#[test]
fn lines_lost_to_a_full_disk_are_counted_and_the_log_recovers() {
    keep_warnings();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operations-5.log");
    symlink("/dev/full", &path).unwrap();
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), NO_LIMIT, 5);
    let began = Instant::now();
    let mut recorded = 0;
    // Long enough for several attempts to open, each of which succeeds and is followed by a failed
    // write.
    while began.elapsed() < Duration::from_millis(2_500) {
        log.record(entry(recorded));
        recorded += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    until("the lines are lost", || log.status().lost == recorded);
    assert_eq!(warnings(5).len(), 1, "once per episode: {:?}", warnings(5));
    fs::remove_file(&path).unwrap();
    until("the log is written again", || {
        log.record(entry(recorded));
        recorded += 1;
        log.status().written > 0
    });
    log.stop(TIMEOUT);
    assert_eq!(log.status().written + log.status().lost, recorded);
    assert_eq!(warnings(5).len(), 2, "{:?}", warnings(5));
}

#[test]
fn a_disk_that_hangs_blocks_neither_operations_nor_the_stop() {
    keep_warnings();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operations-6.log");
    // An unread pipe takes 64 KiB and then blocks the writer, as an unreachable network file system
    // does.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), NO_LIMIT, 6);
    let total = 200_000;
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    for address in 0..total {
        let before = Instant::now();
        log.record(entry(address));
        longest = longest.max(before.elapsed());
    }
    assert!(
        began.elapsed() < TIMEOUT,
        "{:?} for {total} lines",
        began.elapsed()
    );
    assert!(
        longest < Duration::from_secs(1),
        "one line waited for {longest:?}"
    );
    let lost = log.status().lost;
    assert!(
        lost > 0 && lost < total,
        "{lost} lines of {total} were lost"
    );

    let began = Instant::now();
    log.stop(Duration::from_millis(200));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "the stop took {:?}",
        began.elapsed()
    );

    // Once the pipe is read, the queued lines arrive whole and in order, and the loss is reported.
    let mut pipe = fs::File::open(&path).unwrap();
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count() as u64, total - lost);
    assert_eq!(
        (log.status().written, log.status().lost),
        (total - lost, lost)
    );
    let said = warnings(6);
    assert!(
        said.iter()
            .any(|text| text.ends_with(&format!("; {lost} lines were lost"))),
        "{said:?}"
    );
}

#[test]
fn every_reload_is_executed_at_once_whenever_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..200 {
        let log = OperationLog::start(OperationLogMode::Writes, folder.path(), NO_LIMIT, 7);
        log.record(entry(round));
        // Entries gather for 20 ms: the commands come before, at and after the end of that time.
        std::thread::sleep(Duration::from_micros(19_500 + 10 * (round % 100)));
        let began = Instant::now();
        if round % 2 == 0 {
            log.reconfigure(OperationLogMode::All, folder.path(), NO_LIMIT);
        }
        log.stop(TIMEOUT);
        assert!(
            began.elapsed() < Duration::from_millis(900),
            "round {round}: {:?}",
            began.elapsed()
        );
    }
    assert_eq!(
        addresses(&folder.path().join("operations-7.log")),
        (0..200).collect::<Vec<_>>()
    );
}

/// Records entries with the addresses of the range, no faster than they are written.
fn record_all(log: &OperationLog, range: std::ops::Range<u64>) {
    for address in range {
        log.record(entry(address));
        if address % 10_000 == 9_999 {
            let recorded = address + 1;
            until("the lines are written or lost", || {
                log.status().written + log.status().lost >= recorded
            });
        }
    }
}

#[test]
fn an_overload_leaves_two_files_of_the_allowed_size_with_the_last_lines_in_order() {
    const MOST: u64 = 1 << 20;
    const LINES: u64 = 100_000;
    keep_warnings();
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (
        folder.path().join("operations-8.log"),
        folder.path().join("operations-8.log.old"),
    );
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), MOST, 8);
    record_all(&log, 0..LINES);
    log.stop(TIMEOUT);
    let size = |path: &Path| path.metadata().unwrap().len();
    println!("{} and {} bytes", size(&path), size(&old));
    assert!(size(&path) <= MOST && size(&old) <= MOST && size(&old) > MOST / 2);
    let kept = [addresses(&old), addresses(&path)].concat();
    assert!(
        kept == (kept[0]..LINES).collect::<Vec<_>>(),
        "not the last lines, or with a gap"
    );
    assert_eq!((log.status().written, log.status().lost), (LINES, 0));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    let said = warnings(8);
    assert!(
        said.len() == 1
            && said[0].contains("log.max_size")
            && said[0].contains("operations-8.log.old"),
        "{said:?}"
    );

    // Another start appends to the existing files.
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), MOST, 8);
    record_all(&log, 0..LINES / 10);
    log.stop(TIMEOUT);
    assert!(size(&path) <= MOST && size(&old) <= MOST);
    assert_eq!(addresses(&path).last(), Some(&(LINES / 10 - 1)));
}

#[test]
fn a_file_that_cannot_be_renamed_does_not_grow_and_the_log_recovers() {
    const MOST: u64 = 1 << 20;
    keep_warnings();
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (
        folder.path().join("operations-9.log"),
        folder.path().join("operations-9.log.old"),
    );
    fs::create_dir(&old).unwrap();
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), MOST, 9);
    record_all(&log, 0..40_000);
    let status = log.status();
    assert!(
        status.lost > 0 && path.metadata().unwrap().len() <= MOST,
        "{status:?}"
    );
    assert!(
        addresses(&path) == (0..status.written).collect::<Vec<_>>(),
        "not the first lines"
    );
    assert!(
        warnings(9)[0].contains("log.max_size and cannot be renamed"),
        "{:?}",
        warnings(9)
    );
    fs::remove_dir(&old).unwrap();
    let mut recorded = 40_000;
    until("the log is written again", || {
        log.record(entry(recorded));
        recorded += 1;
        old.is_file()
    });
    log.stop(TIMEOUT);
    assert!(
        addresses(&old).starts_with(&(0..status.written).collect::<Vec<_>>()),
        "the earlier lines are lost"
    );
    assert_eq!(addresses(&path).last(), Some(&(recorded - 1)));
    assert_eq!(log.status().written + log.status().lost, recorded);
}

#[test]
fn a_file_that_logrotate_has_renamed_is_not_renamed_again() {
    const MOST: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (
        folder.path().join("operations-10.log"),
        folder.path().join("operations-10.log.1"),
    );
    let log = OperationLog::start(OperationLogMode::Writes, folder.path(), MOST, 10);
    record_all(&log, 0..10_000);
    fs::rename(&path, &rotated).unwrap();
    // It is full before the reload.
    record_all(&log, 10_000..20_000);
    log.stop(TIMEOUT);
    assert!(
        [addresses(&rotated), addresses(&path)].concat() == (0..20_000).collect::<Vec<_>>(),
        "lines are missing"
    );
    assert!(!folder.path().join("operations-10.log.old").exists());
}
