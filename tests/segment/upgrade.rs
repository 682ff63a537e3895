//! A segment that a release with format 3 has left is upgraded in place, wherever the upgrade is
//! killed, with the memory, the sessions and what dead processes left.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::PAGE;
use dsm_core::protocol::Extent;
use dsm_core::segment::{FORMAT, Found, Leftover, RequestId, Segment, SegmentError, Start};
use nix::fcntl::OFlag;
use nix::sys::mman::shm_open;
use nix::sys::stat::Mode;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use support::segment::{TestMemoryName, attach, layout};

/// What dsmd 0.1.0 left of a memory of [`K`] bytes after a client had written [`written`] at
/// address 1000, a snapshot, a write of "after the cut" at 8192, and 70 fetch-adds of 3 to the word
/// at 200000 in a session.
const OBJECT: &[u8] = include_bytes!("fixtures/format-3.zst");
const OBJECT_SIZE: usize = 14_942_208;
const K: u64 = 256 << 10;
const INCARNATION: u64 = 0xfdcb_5221_8c63_2530;

// Places in an object of format 3.
const FORMAT_WORD: u64 = 8;
const FINGERPRINT: u64 = 48;
const GATE: u64 = 72;
const LAST_CUT: u64 = 80;
const FEATURES: u64 = 104;
const PARTICIPANTS: u64 = 4096;
const LOCKS: u64 = PARTICIPANTS + 64 * 64;
const FIRST_STRIPE: u64 = LOCKS + 4 * 64;
const INTENTS: u64 = LOCKS + 2 * 4096;
const SESSIONS: u64 = INTENTS + 96 * (128 + (64 << 10)) + (4 << 20);
const PAGE_TABLE: u64 = SESSIONS + 4160 * (64 + 64 * 8);

/// A worker of a local client, and the client's index in the table of participants.
const WORKER: u64 = 60;
const CLIENT: u64 = 5;

fn written() -> Vec<u8> {
    (0..100_000_u32)
        .map(|i| (i * 7 + i / 251).to_le_bytes()[0])
        .collect()
}

fn memory() -> Vec<u8> {
    let mut memory = vec![0; usize::try_from(K).unwrap()];
    memory[1000..101_000].copy_from_slice(&written());
    memory[8192..8205].copy_from_slice(b"after the cut");
    memory[200_000..200_008].copy_from_slice(&210_u64.to_le_bytes());
    memory
}

/// The object under another name.
struct OldSegment {
    name: TestMemoryName,
    file: File,
}

impl OldSegment {
    fn new(what: &str) -> Self {
        let name = TestMemoryName::new(what);
        // The semaphores and the copy area of the same name, from a segment that is then replaced.
        drop(name.serve(K));
        let flags = OFlag::O_RDWR;
        let file = shm_open(format!("/{}.0", name.0).as_str(), flags, Mode::empty()).unwrap();
        let file = File::from(file);
        let object = zstd::bulk::decompress(OBJECT, OBJECT_SIZE).unwrap();
        file.write_all_at(&object, 0).unwrap();
        let old = Self { name, file };
        // The only thing in it that depends on the name.
        let fingerprint = layout(&old.name.0, K).fingerprint().0;
        old.file.write_all_at(&fingerprint, FINGERPRINT).unwrap();
        old
    }

    fn word(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn set(&self, offset: u64, value: u64) {
        self.file
            .write_all_at(&value.to_le_bytes(), offset)
            .unwrap();
    }

    fn serve(&self) -> Result<Segment, SegmentError> {
        let mut progress = |_, _| ControlFlow::Continue(());
        let opened = Segment::serve(&layout(&self.name.0, K), 0, Start::Serve, &mut progress)?;
        let found = Found::Segment {
            layout_changed: false,
        };
        assert_eq!(opened.found, found);
        Ok(opened.segment)
    }

    /// Leaves a committed intent of a client that was killed: fill the first pages with 7.
    fn leave_intent(&self) {
        self.set(PARTICIPANTS + CLIENT * 64, 4_000_000);
        let intent = INTENTS + WORKER * 128;
        for (field, value) in [(16, 0), (24, 2 * PAGE), (32, 7), (40, 0), (48, 0), (56, 0)] {
            self.set(intent + field, value);
        }
        self.set(intent, CLIENT + 1);
        self.set(FIRST_STRIPE, WORKER + 1);
        self.set(FIRST_STRIPE + 64, WORKER + 1);
        self.set(PAGE_TABLE, self.word(PAGE_TABLE) | 1);
        self.set(intent + 8, 3);
    }
}

fn read(segment: &Segment) -> Vec<u8> {
    let mut memory = vec![0; usize::try_from(K).unwrap()];
    let extent = Extent::new(0, K, K).unwrap();
    segment.worker().unwrap().read(extent, &mut memory).unwrap();
    memory
}

fn assert_kept(segment: &Segment) {
    assert!(read(segment) == memory(), "the memory differs");
    assert_eq!(segment.incarnation(), INCARNATION);
    let sessions: Vec<_> = segment.sessions().collect();
    assert_eq!(sessions.len(), 1);
    assert_eq!(
        sessions[0].id,
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    );
    let session = sessions[0].index;
    assert_eq!(segment.last_executed(session), 70);
    for sequence in 7..=70 {
        let result = segment.executed_result(RequestId { session, sequence });
        assert_eq!(result, Some((sequence - 1) * 3));
    }
}

#[test]
fn a_segment_of_the_first_release_keeps_its_memory_and_its_sessions() {
    let old = OldSegment::new("kept");
    assert_eq!(old.word(FORMAT_WORD), 3);
    let segment = old.serve().unwrap();
    assert_kept(&segment);
    assert_eq!(old.word(FORMAT_WORD), FORMAT);
    // Written before the upgrade counts as written since the latest cut.
    assert_eq!(old.word(LAST_CUT), 1);
    assert_eq!(old.word(PAGE_TABLE) >> 36, 1 << 4);
    assert_eq!(old.word(PAGE_TABLE + 16 * 40), 0, "never written");
    let extent = Extent::new(5, 3, K).unwrap();
    let mut worker = segment.worker().unwrap();
    worker.write(extent, b"new", None).unwrap();
    drop((worker, segment));
    let segment = old.serve().unwrap();
    assert_eq!(&read(&segment)[5..8], b"new");
    let snapshots = attach(&old.name.0, K);
    assert!(snapshots.snapshot_lock().unwrap().is_some());
}

#[test]
fn counters_of_any_size_are_converted() {
    let old = OldSegment::new("counters");
    for (page, version) in [1 << 36, u64::MAX - 1, (1 << 36) - 2, 0xffff << 36]
        .into_iter()
        .enumerate()
    {
        old.set(PAGE_TABLE + page as u64 * 16, version);
    }
    assert_kept(&old.serve().unwrap());
}

#[test]
fn a_change_that_a_dead_client_committed_is_carried_out() {
    let old = OldSegment::new("intent");
    old.leave_intent();
    let segment = old.serve().unwrap();
    let found = read(&segment);
    let mut expected = memory();
    expected[..8192].fill(7);
    assert!(found == expected);
    assert_eq!(old.word(FIRST_STRIPE), 0);
    assert_eq!(old.word(FORMAT_WORD), FORMAT);
}

#[test]
fn the_cut_of_a_dead_agent_is_ended() {
    let old = OldSegment::new("cut");
    old.set(LAST_CUT, 9);
    old.set(GATE, 1 << 62 | 9);
    let segment = old.serve().unwrap();
    assert_eq!(old.word(GATE), 0);
    assert_kept(&segment);
    assert_eq!(segment.clean_up().unwrap(), None::<Leftover>);
}

/// A local client that was stopped in a write, and the cut that it saw: neither the upgrade nor the
/// clean-up of the server waits for as long as it is stopped.
#[test]
fn a_stalled_writer_that_saw_the_cut_of_a_dead_agent_holds_no_server_up() {
    let old = OldSegment::new("stalled");
    let entry = PARTICIPANTS + CLIENT * 64;
    lock(&old.file, i64::try_from(entry).unwrap());
    old.set(entry, u64::from(std::process::id()));
    let stall = || {
        old.set(LAST_CUT, 9);
        old.set(GATE, 1 << 62 | 9);
        old.set(INTENTS + WORKER * 128, CLIENT + 1);
        old.set(FIRST_STRIPE, WORKER + 1);
    };
    stall();
    let error = old.serve().err().unwrap();
    let pid = format!("(pid {})", std::process::id());
    assert!(
        matches!(&error, SegmentError::NotUpgradable { .. }) && error.to_string().contains(&pid),
        "{error}"
    );
    assert_eq!((old.word(FORMAT_WORD), old.word(GATE)), (3, 0));
    old.set(FIRST_STRIPE, 0);
    let segment = old.serve().unwrap();
    stall();
    assert_eq!(segment.clean_up().unwrap(), None::<Leftover>);
    old.set(FIRST_STRIPE, 0);
    assert_kept(&segment);
}

#[test]
fn a_memory_that_waits_for_a_restore_still_waits() {
    let old = OldSegment::new("waits");
    old.set(GATE, 3 << 62 | 1);
    let segment = old.serve().unwrap();
    assert!(segment.access_error().is_some());
    assert_eq!(old.word(FORMAT_WORD), FORMAT);
}

#[test]
fn an_object_with_features_of_a_later_release_is_refused() {
    let old = OldSegment::new("features");
    drop(old.serve().unwrap());
    old.set(FEATURES, 2);
    let error = old.serve().err().unwrap().to_string();
    assert!(
        error.contains("set of features is 0x2, expected 0"),
        "{error}"
    );
}

#[test]
fn only_the_server_upgrades() {
    let old = OldSegment::new("others");
    let attached = Segment::attach(&layout(&old.name.0, K), 0);
    let error = attached.err().unwrap();
    assert!(
        matches!(error, SegmentError::NotUpgraded { .. })
            && error.to_string().contains("restart dsmd"),
        "{error}"
    );
    assert_eq!(old.word(FORMAT_WORD), 3);
}

#[test]
fn while_a_snapshot_of_an_older_release_is_under_way_nothing_is_changed() {
    let old = OldSegment::new("snapshot");
    let before = old.word(PAGE_TABLE);
    // As an agent does: the lock of the copy area, and an entry among the participants.
    let copies = shm_open(
        format!("/{}.0.copies", old.name.0).as_str(),
        OFlag::O_RDWR,
        Mode::empty(),
    )
    .unwrap();
    lock(&copies, i64::MAX - 1);
    let entry = i64::try_from(PARTICIPANTS + 64).unwrap();
    lock(&old.file, entry);
    old.set(PARTICIPANTS + 64, u64::from(std::process::id()));
    let error = old.serve().err().unwrap();
    let pid = format!("(pid {})", std::process::id());
    assert!(
        matches!(&error, SegmentError::NotUpgradable { .. }) && error.to_string().contains(&pid),
        "{error}"
    );
    assert_eq!((old.word(FORMAT_WORD), old.word(PAGE_TABLE)), (3, before));
    drop(copies);
    assert_kept(&old.serve().unwrap());
}

/// Takes a lock of this open file on one byte.
#[allow(clippy::cast_possible_truncation)] // constants that fit
fn lock(file: &impl std::os::fd::AsFd, byte: i64) {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
}

#[cfg(debug_assertions)]
mod killed {
    use super::*;
    use dsm_core::segment::crash::{self, Action, Point};
    use std::os::unix::process::ExitStatusExt;
    use support::own_process;

    /// Not a test by itself: the process that is killed during an upgrade.
    #[test]
    fn upgrading_process() {
        let Ok(words) = std::env::var("UPGRADE") else {
            return;
        };
        let (name, point) = words.split_once(' ').unwrap();
        let armed = Point::UPGRADE
            .into_iter()
            .find(|other| (*other as u8).to_string() == point)
            .unwrap();
        crash::arm(armed, Action::Die);
        let _segment = support::segment::serve(name, K, Start::Serve);
        panic!("the upgrade passed {armed:?}");
    }

    fn kill_at(old: &OldSegment, point: Point) {
        let status = own_process::command(module_path!(), "upgrading_process")
            .env("UPGRADE", format!("{} {}", old.name.0, point as u8))
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(9), "{point:?}");
    }

    #[test]
    fn an_upgrade_that_is_killed_anywhere_is_made_by_the_next_start() {
        for first in Point::UPGRADE {
            for second in Point::UPGRADE {
                let old = OldSegment::new("killed");
                old.leave_intent();
                kill_at(&old, first);
                assert_eq!(old.word(FORMAT_WORD), 3, "{first:?}");
                kill_at(&old, second);
                let segment = old.serve().unwrap();
                let found = read(&segment);
                assert!(
                    found[..8192].iter().all(|byte| *byte == 7)
                        && found[8192..] == memory()[8192..],
                    "{first:?}, {second:?}"
                );
                assert_eq!(old.word(FORMAT_WORD), FORMAT);
            }
        }
    }

    #[test]
    fn what_a_killed_upgrade_holds_can_be_repaired_by_the_older_release() {
        for point in Point::UPGRADE {
            let old = OldSegment::new("owner");
            kill_at(&old, point);
            for worker in 0..96 {
                let owner = old.word(INTENTS + worker * 128);
                assert!(
                    owner <= 64,
                    "{point:?}: worker {worker} has owner {owner:#x}"
                );
            }
        }
    }
}

#[test]
fn a_program_of_the_first_release_finds_no_participant_to_repair_behind_a_worker() {
    let old = OldSegment::new("owner");
    let segment = old.serve().unwrap();
    let _worker = segment.worker().unwrap();
    let owners = (0..96).map(|worker| old.word(INTENTS + worker * 128));
    let taken: Vec<u64> = owners.filter(|owner| *owner != 0).collect();
    assert_eq!(taken.len(), 1);
    // It looks for the participant of this number plus one, among 64.
    assert!(taken[0] > 64, "{taken:?}");
}

#[test]
fn a_client_of_the_first_release_that_dies_with_a_stripe_is_repaired() {
    let old = OldSegment::new("stripe");
    let segment = old.serve().unwrap();
    // It was mapped before the upgrade, took a worker and a stripe, and died before it looked at its
    // permission.
    old.set(PARTICIPANTS + CLIENT * 64, 4_000_000);
    old.set(INTENTS + WORKER * 128, CLIENT + 1);
    old.set(FIRST_STRIPE, WORKER + 1);
    let mut worker = segment.worker().unwrap();
    worker
        .write(Extent::new(0, 3, K).unwrap(), b"new", None)
        .unwrap();
    assert_eq!(&read(&segment)[..3], b"new");
    assert_eq!(old.word(INTENTS + WORKER * 128), 0);
}
