//! Runs the fuzz targets of fuzz/ with inputs of proptest: cargo fuzz runs the same code.
//!
//! `PROPTEST_CASES` sets the number of cases.

use dsm_core::protocol::{Opcode, RequestHeader};
use dsm_fuzz::{config, protocol, snapshot};
use dsm_snapshot::SnapshotFile;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use support::counts::count_of;
use zerocopy::IntoBytes;

fn cases() -> ProptestConfig {
    let cases = count_of("PROPTEST_CASES", 20_000, 200_000);
    // proptest would write failed cases into the source tree.
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Random numbers, among them many boundary values.
fn edge() -> impl Strategy<Value = u64> {
    let near = select(vec![
        0,
        8,
        4096,
        1 << 16,
        1 << 20,
        1 << 32,
        1 << 63,
        u64::MAX,
    ]);
    prop_oneof![
        (near, -2_i64..=2).prop_map(|(base, by)| base.wrapping_add_signed(by)),
        any::<u64>(),
        0_u64..1 << 17,
    ]
}

/// A frame that is nearly valid.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let length_error = prop_oneof![8 => Just(0_i32), 1 => -3_i32..=3];
    (
        0_u8..16,
        0_u8..3,
        edge(),
        edge(),
        edge(),
        vec(any::<u8>(), 0..64),
        length_error,
    )
        .prop_map(|(opcode, argument, id, offset, operand, payload, error)| {
            let mut header = RequestHeader::new(Opcode::Ping, id);
            let length = u32::try_from(payload.len())
                .expect("short")
                .saturating_add_signed(error);
            (header.opcode, header.argument, header.payload) = (opcode, argument, length.into());
            (header.offset, header.operand) = (offset.into(), operand.into());
            [header.as_bytes(), &payload].concat()
        })
}

/// A nearly valid mcomp.cfg: lines of a valid one, of which some are changed, repeated or missing.
fn file() -> impl Strategy<Value = String> {
    let line = select(vec![
        "name = \"dsm\"",
        "k = 4096",
        "k = \"64MiB\"",
        "k = 0",
        "k = \"99999999TiB\"",
        "n = 1",
        "n = 2",
        "n = -1",
        "[[server]]",
        "address = \"127.0.0.1:7411\"",
        "address = \"[::1]:7412\"",
        "address = \"host\"",
        "snapshot = \"127.0.0.1:7500\"",
        "[security]",
        "trusted_network = true",
        "[log]",
        "level = \"info\"",
        "operations = \"writes\"",
        "directory = \"/var/log/dsm\"",
        "[limits]",
        "connections = 10",
        "threads = 99999999999999999999",
        "hello_timeout = \"5s\"",
        "request_timeout = 3",
        "buffer_memory = \"1GiB\"",
        "[client]",
        "timeout = \"500ms\"",
        "unknown = { a = [1, 2, \"\u{1F980}\"] }",
    ]);
    let mangled = (
        line.clone(),
        any::<proptest::sample::Index>(),
        any::<char>(),
    )
        .prop_map(|(line, at, with)| {
            let mut characters: Vec<char> = line.chars().collect();
            let at = at.index(characters.len());
            characters[at] = with;
            characters.into_iter().collect()
        });
    let line = prop_oneof![9 => line.prop_map(str::to_owned), 1 => mangled];
    vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

/// A valid mcomp.cfg, or one with a single error.
fn good_file() -> impl Strategy<Value = String> {
    (edge(), 0_usize..5, 1_usize..5, file()).prop_map(|(k, n, servers, more)| {
        let server = |index| format!("[[server]]\naddress = \"127.0.0.1:{}\"", 7411 + index);
        let map = (0..servers).map(server).collect::<Vec<_>>().join("\n");
        let k = if k % 3 == 0 { 1 << 16 } else { k.cast_signed() };
        let more = if n == servers { String::new() } else { more };
        format!("k = {k}\nn = {n}\n{map}\n{more}\n")
    })
}

/// A valid snapshot file, so small that a change often hits its structure.
fn snapshot_file() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let mut memory = vec![0; 8 * 4096];
    memory[4096..2 * 4096].fill(b'a');
    memory[3 * 4096..6 * 4096]
        .iter_mut()
        .zip(0_u8..=50)
        .for_each(|(byte, value)| *byte = value);
    let header = support::snapshots::header(4, &[1, 2]);
    let path = support::snapshots::write(
        directory.path(),
        &header,
        &memory,
        support::snapshots::zstd(),
    );
    std::fs::read(path).expect("a file")
}

/// The file with some bytes changed. With `repair`, the checksums of header and index are correct,
/// so that they do not hide the changes.
fn mangled_snapshot(valid: &[u8], changes: &[(usize, u8)], cut: usize, repair: bool) -> Vec<u8> {
    let header = u32::from_le_bytes(*valid[12..].first_chunk().expect("a header")) as usize;
    let end = valid.len() - 64;
    let index = u64::from_le_bytes(*valid[end..].first_chunk().expect("a footer"));
    let index = usize::try_from(index).expect("small");
    let mut bytes = valid.to_vec();
    // Half of the changes are in the structure: header, index, footer.
    for (at, value) in changes {
        let at = if at % 2 == 0 {
            at % bytes.len()
        } else {
            (index + at % (bytes.len() - index + header)) % bytes.len()
        };
        bytes[at] = *value;
    }
    if repair {
        let sum = crc32c::crc32c(&bytes[..header - 4]);
        bytes[header - 4..header].copy_from_slice(&sum.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[index..end]);
        bytes[end + 16..end + 20].copy_from_slice(&sum.to_le_bytes());
    }
    bytes.truncate(bytes.len() - cut);
    bytes
}

#[test]
fn the_seed_of_the_snapshot_target_is_a_small_valid_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("seed");
    snapshot::write_seed(path.clone());
    let file = SnapshotFile::open(&path).expect("a valid file");
    let summary = file.verify(|_, _| {});
    assert!(summary.is_ok(), "{summary:?}");
    let frames = file.extents(0..u64::MAX).expect("an index").count();
    assert_eq!(frames, 3);
    let bytes = std::fs::read(path).expect("a file");
    assert!(bytes.len() < 600, "{} bytes", bytes.len());
    snapshot::run(&bytes);
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_in_a_snapshot_are_refused_or_accepted(bytes in vec(any::<u8>(), 0..200)) {
        snapshot::run(&bytes);
    }

    #[test]
    fn nearly_valid_snapshots_are_refused_or_accepted(
        changes in vec((any::<usize>(), prop_oneof![any::<u8>(), Just(0), Just(0xff)]), 0..6),
        cut in prop_oneof![8 => Just(0_usize), 1 => 0_usize..64], repair in any::<bool>(),
    ) {
        static VALID: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(snapshot_file);
        snapshot::run(&mangled_snapshot(&VALID, &changes, cut, repair));
    }

    #[test]
    fn any_bytes_from_the_network_are_refused_or_accepted(bytes in vec(any::<u8>(), 0..200)) {
        protocol::run(&bytes);
    }

    #[test]
    fn nearly_valid_frames_are_refused_or_accepted(frames in vec(frame(), 1..4), cut in 0_usize..8) {
        let bytes = frames.concat();
        protocol::run(&bytes[..bytes.len() - cut.min(bytes.len())]);
    }

    #[test]
    fn any_bytes_in_the_configuration_are_refused_or_accepted(bytes in vec(any::<u8>(), 0..200)) {
        config::run(&bytes);
    }

    #[test]
    fn nearly_valid_configurations_are_refused_or_accepted(text in prop_oneof![file(), good_file()]) {
        config::run(text.as_bytes());
    }
}
