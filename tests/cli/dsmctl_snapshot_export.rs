//! `dsmctl snapshot export`: it writes the exact bytes of the memory, or leaves no file.

// The lint exempts test functions, but not their helpers.
#![allow(clippy::unwrap_used)]

use dsm_config::Compression;
use dsm_snapshot::{Destination, SnapshotWriter};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use support::random::Random;
use support::snapshots::{Folder, PAGE_BYTES, damage, header, memory, names};

const PAGES: usize = 100;
const SIZE: usize = 2 * PAGES * PAGE_BYTES;

#[test]
fn the_whole_memory_is_exported_to_a_sparse_file_and_through_a_pipe() {
    let folder = Folder::new();
    let mut memory = memory(&mut Random::new("export"), 2 * PAGES);
    memory[10 * PAGE_BYTES..60 * PAGE_BYTES].fill(0);
    memory[190 * PAGE_BYTES..].fill(0);
    folder.snapshot("one", &header(PAGES, &[1, 2]), &memory);
    assert_eq!(folder.dsmctl("snapshot export one raw").prints(), "");
    assert!(std::fs::read(folder.path("raw")).unwrap() == memory);
    let allocated = std::fs::metadata(folder.path("raw")).unwrap().blocks() * 512;
    assert!(
        allocated <= (SIZE - 60 * PAGE_BYTES) as u64,
        "{allocated} bytes are allocated of {SIZE}"
    );

    let piped = folder.dsmctl("snapshot export one -");
    assert!(
        (piped.code, piped.stdout == memory) == (0, true),
        "{}",
        piped.stderr
    );
    folder
        .dsmctl("snapshot export one - --json")
        .fails(64, &["--json"]);
    let report = folder.dsmctl("snapshot export one raw2 --json").json();
    assert_eq!(
        report,
        serde_json::json!({ "file": "one", "address": 0, "length": SIZE, "output": "raw2" })
    );
    // After --, a minus names a file.
    assert_eq!(folder.dsmctl("snapshot export -- one -").prints(), "");
    assert!(std::fs::read(folder.path("-")).unwrap() == memory);
}

#[test]
fn a_range_exports_exactly_its_bytes_and_reads_no_other_frame() {
    let folder = Folder::new();
    let mut random = Random::new("ranges");
    let mut memory = memory(&mut random, 2 * PAGES);
    memory[150 * PAGE_BYTES..160 * PAGE_BYTES].fill(b'x');
    let path = folder.snapshot("one", &header(PAGES, &[1, 2]), &memory);
    for _ in 0..20 {
        let address = random.index(SIZE);
        let length = random.index(SIZE - address + 1);
        let run = folder.dsmctl(&format!(
            "snapshot export one raw --range {address} {length}"
        ));
        assert_eq!(run.prints(), "");
        assert!(
            std::fs::read(folder.path("raw")).unwrap() == memory[address..address + length],
            "{address} {length}"
        );
    }
    assert_eq!(
        folder
            .dsmctl("snapshot export one - --range 400KiB 0")
            .prints(),
        ""
    );

    let lost = damage(&path, random.within(150, 160) * PAGE_BYTES as u64);
    let before = format!("snapshot export one - --range 0 {}", lost.start);
    assert!(folder.dsmctl(&before).stdout == memory[..usize::try_from(lost.start).unwrap()]);
    let into = format!("snapshot export one raw2 --range {} 1", lost.end - 1);
    folder.dsmctl(&into).fails(
        65,
        &[
            "one is damaged: the frame at byte ",
            &format!("{} to {}", lost.start, lost.end - 1),
        ],
    );
    assert!(!folder.path("raw2").exists());
}

#[test]
fn a_missing_server_is_named_unless_the_range_avoids_it() {
    let folder = Folder::new();
    folder.snapshot("one", &header(PAGES, &[1, 0]), &vec![b'x'; SIZE]);
    let half = SIZE / 2;
    for line in [
        "snapshot export one raw",
        "snapshot export one raw --range 409599 2",
    ] {
        folder.dsmctl(line).fails(
            65,
            &[
                "without server 1: addresses 409600 to 819199 are not in it",
                "--range",
            ],
        );
    }
    let run = folder.dsmctl("snapshot export one - --range 0 409600");
    assert!(
        (run.code, run.stdout == vec![b'x'; half]) == (0, true),
        "{}",
        run.stderr
    );
    folder
        .dsmctl("snapshot export one raw --range 0 900000")
        .fails(65, &["outside the memory, which has 819200"]);
    assert!(!folder.path("raw").exists());
}

#[test]
fn a_failed_export_leaves_the_existing_file_and_no_other() {
    let folder = Folder::new();
    let good = folder.snapshot("good", &header(PAGES, &[1, 2]), &vec![b'x'; SIZE]);
    let bad = folder.snapshot("bad", &header(PAGES, &[1, 2]), &vec![b'x'; SIZE]);
    damage(&bad, SIZE as u64 - 1);
    std::fs::write(folder.path("raw"), "kept").unwrap();
    std::fs::set_permissions(folder.path("raw"), PermissionsExt::from_mode(0o600)).unwrap();
    let before = names(folder.path("raw").parent().unwrap());
    folder
        .dsmctl("snapshot export bad raw")
        .fails(65, &["bad is damaged"]);
    folder
        .dsmctl("snapshot export bad new")
        .fails(65, &["bad is damaged"]);
    folder
        .dsmctl("snapshot export good nowhere/raw")
        .fails(74, &["nowhere/raw: No such file"]);
    folder
        .dsmctl("snapshot export good snapshots")
        .fails(74, &["snapshots: Is a directory"]);
    folder
        .dsmctl("snapshot export missing raw")
        .fails(66, &["missing"]);
    let own = std::fs::read(&good).unwrap();
    folder
        .dsmctl("snapshot export good ./good")
        .fails(64, &["is the snapshot itself"]);
    folder
        .dsmctl("snapshot export good /dev/full")
        .fails(74, &["/dev/full: No space left"]);
    assert_eq!(names(folder.path("raw").parent().unwrap()), before);
    assert!(std::fs::read(&good).unwrap() == own);
    assert_eq!(std::fs::read(folder.path("raw")).unwrap(), b"kept");

    // As with `dsmctl read -o`, an existing file is replaced. The new one has the same permissions.
    std::os::unix::fs::symlink("raw", folder.path("link")).unwrap();
    assert_eq!(folder.dsmctl("snapshot export good link").prints(), "");
    assert!(folder.path("link").is_symlink());
    let metadata = std::fs::metadata(folder.path("raw")).unwrap();
    assert_eq!(
        (metadata.len(), metadata.mode() & 0o777),
        (SIZE as u64, 0o600)
    );
    assert_eq!(folder.dsmctl("snapshot export good /dev/null").prints(), "");
}

#[test]
fn the_snapshot_may_be_much_larger_than_the_memory_of_the_process() {
    const PAGES: usize = 1 << 21;
    let folder = Folder::new();
    let mut writer = SnapshotWriter::create(
        Destination::File(folder.path("huge")),
        header(PAGES, &[1, 2]),
        Compression::None,
    )
    .unwrap();
    writer.add_pages(0, 5, &vec![1; 300 * PAGE_BYTES]).unwrap();
    writer
        .add_pages(1, PAGES as u64 - 2, &[2; PAGE_BYTES])
        .unwrap();
    writer.finish().unwrap();
    let script = "ulimit -v 262144 && exec \"$0\" snapshot export huge raw && exec \"$0\" snapshot diff huge huge";
    let mut command = assert_cmd::Command::new("sh");
    command
        .current_dir(folder.path("huge").parent().unwrap())
        .args(["-c", script]);
    command
        .arg(assert_cmd::cargo::cargo_bin("dsmctl"))
        .assert()
        .success();
    let raw = std::fs::File::open(folder.path("raw")).unwrap();
    let metadata = raw.metadata().unwrap();
    assert_eq!(metadata.len(), 2 * (PAGES * PAGE_BYTES) as u64);
    assert!(
        metadata.blocks() * 512 <= 302 * PAGE_BYTES as u64,
        "{} blocks",
        metadata.blocks()
    );
    let mut bytes = [9; 3];
    raw.read_exact_at(&mut bytes, metadata.len() - PAGE_BYTES as u64 - 2)
        .unwrap();
    assert_eq!(bytes, [2, 2, 0]);
}
