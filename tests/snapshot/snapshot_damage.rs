//! Every damage to a snapshot file is detected: a flipped bit, a missing end, a file that is not a
//! snapshot.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_snapshot::{ReadError, SnapshotFile, Summary};
use std::collections::BTreeMap;
use std::path::Path;
use support::Cluster;
use support::counts::count;
use support::random::Random;
use support::snapshots::{PAGE_BYTES, header, memory, write, zstd};

fn verify(bytes: &[u8]) -> Result<Summary, ReadError> {
    SnapshotFile::from_source(Path::new("damaged"), bytes)?.verify(|_, _| {})
}

fn sound_file(random: &mut Random) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let memory = memory(random, 3 * 100);
    std::fs::read(write(
        directory.path(),
        &header(100, &[1, 2, 3]),
        &memory,
        zstd(),
    ))
    .unwrap()
}

/// The part of the file that an error names.
fn part(error: &ReadError) -> &'static str {
    match error {
        ReadError::Header { .. } => "header",
        ReadError::Footer { .. } => "footer",
        ReadError::Index { .. } => "index",
        ReadError::Frame { .. } => "frame",
        ReadError::Hash { .. } => "hash",
        other => panic!("damage is reported as {other}"),
    }
}

#[test]
fn a_flipped_bit_is_detected_anywhere_in_the_file() {
    let mut random = Random::new("flips");
    let sound = sound_file(&mut random);
    verify(&sound).unwrap();
    let (mut found, flips) = (BTreeMap::new(), count(300, 10_000));
    for _ in 0..flips {
        let (at, bit) = (random.index(sound.len()), random.index(8));
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << bit;
        let error = verify(&bytes).expect_err(&format!(
            "bit {bit} of byte {at} of {} flipped, unseen",
            sound.len()
        ));
        *found.entry(part(&error)).or_insert(0) += 1;
    }
    println!(
        "{flips} flipped bits of {} bytes, all found: {found:?}",
        sound.len()
    );
}

#[test]
fn every_flipped_bit_of_a_small_file_is_detected() {
    let directory = tempfile::tempdir().unwrap();
    let mut memory = vec![0; 8 * PAGE_BYTES];
    memory[3 * PAGE_BYTES..4 * PAGE_BYTES].fill(b'x');
    let sound = std::fs::read(write(
        directory.path(),
        &header(4, &[1, 2]),
        &memory,
        zstd(),
    ))
    .unwrap();
    let mut found = BTreeMap::new();
    for bit in 0..8 * sound.len() {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = verify(&bytes).expect_err(&format!("bit {bit} flipped, unseen"));
        *found.entry(part(&error)).or_insert(0) += 1;
    }
    println!(
        "all {} bits of {} bytes: {found:?}",
        8 * sound.len(),
        sound.len()
    );
}

#[test]
fn a_file_that_is_cut_short_at_any_boundary_is_detected() {
    let sound = sound_file(&mut Random::new("truncation"));
    let file = SnapshotFile::from_source(Path::new("sound"), &sound[..]).unwrap();
    let (header, footer) = (file.header().encode().len(), sound.len() - 64);
    // The boundaries of the header's fields up to the name, of its checksum, and of the footer's
    // fields.
    let mut boundaries = vec![
        0,
        8,
        12,
        16,
        32,
        40,
        48,
        52,
        56,
        60,
        64,
        66,
        68,
        72,
        header - 4,
        header,
    ];
    boundaries.extend([0, 8, 16, 20, 24, 56, 62].map(|field| footer + field));
    for extent in file.extents(0..u64::MAX).unwrap() {
        let begin = usize::try_from(extent.unwrap().offset()).unwrap();
        boundaries.extend([begin, begin + 32]);
    }
    let entries = usize::try_from(file.frames()).unwrap();
    boundaries.extend((0..=entries).map(|entry| footer - 24 * entry));
    let mut tried = 0;
    for boundary in boundaries {
        for length in [boundary.saturating_sub(1), boundary, boundary + 1] {
            let error =
                verify(&sound[..length]).expect_err(&format!("cut to {length} bytes, unseen"));
            assert!(matches!(part(&error), "header" | "footer"), "{error}");
            tried += 1;
        }
    }
    println!("cut at {tried} places, all found");
    let longer = [&sound[..], b"\0"].concat();
    assert_eq!(part(&verify(&longer).unwrap_err()), "footer");
}

#[test]
fn a_damaged_frame_is_named_with_its_addresses_and_the_others_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let memory = vec![b'x'; 300 * PAGE_BYTES];
    let path = write(directory.path(), &header(100, &[1, 2, 3]), &memory, zstd());
    let file = SnapshotFile::open(&path).unwrap();
    let extents: Vec<_> = file
        .extents(0..u64::MAX)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let (bad, good) = (extents[3], extents[4]);
    let mut bytes = std::fs::read(&path).unwrap();
    // The length in the frame's header: the next frame must still be found.
    bytes[usize::try_from(bad.offset()).unwrap() + 20] ^= 4;
    std::fs::write(&path, bytes).unwrap();

    let file = SnapshotFile::open(&path).unwrap();
    let error = file.verify(|_, _| {}).unwrap_err();
    println!("{error}");
    let ReadError::Frame {
        offset, addresses, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (*offset, addresses.clone()),
        (bad.offset(), bad.addresses())
    );
    assert!(
        error
            .to_string()
            .contains(&format!("{} to {}", addresses.start, addresses.end - 1)),
        "{error}"
    );
    let mut page = vec![0; PAGE_BYTES];
    assert!(file.read_range(bad.addresses().start, &mut page).is_err());
    file.read_range(good.addresses().start, &mut page).unwrap();
    assert!(page.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_restore_refuses_a_damaged_file_and_changes_nothing() {
    let mut random = Random::new("restore");
    let cluster = Cluster::start(2, 256 << 10);
    cluster.start_agents();
    cluster.write_all(&memory(&mut random, 128));
    let sound = std::fs::read(cluster.snapshot().path()).unwrap();
    let live = memory(&mut random, 128);
    cluster.write_all(&live);
    let before = cluster.incarnations();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let end = sound.len();
    let damaged = [
        ("magic", flipped(0)),
        ("header", flipped(20)),
        ("frames", flipped(end / 2)),
        ("index", flipped(end - 70)),
        ("hash", flipped(end - 30)),
        ("end", flipped(end - 1)),
        ("short by one", sound[..end - 1].to_vec()),
        ("without its footer", sound[..end - 64].to_vec()),
        ("half", sound[..end / 2].to_vec()),
        ("longer", [&sound[..], b"x"].concat()),
        ("empty", Vec::new()),
    ];
    let path = cluster.directory().join("damaged");
    for (what, bytes) in damaged {
        std::fs::write(&path, bytes).unwrap();
        let run = cluster.restore(&path, "--force");
        println!("{what}: {}", run.stderr.trim());
        run.fails(65, &[path.to_str().unwrap()]);
    }
    assert!(
        cluster.read_all() == live && cluster.incarnations() == before,
        "the memory was changed"
    );
    std::fs::write(&path, sound).unwrap();
    cluster.restore(&path, "--force").prints();
}

#[test]
fn the_error_for_a_file_that_is_not_a_snapshot_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "x".repeat(1000)).unwrap();
    for path in [directory.path(), &text, &directory.path().join("nothing")] {
        let error = SnapshotFile::open(path).unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
