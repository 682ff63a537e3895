//! `dsmctl snapshot list`, `show` and `verify`: they describe a snapshot, and say what is wrong
//! with a damaged one.

// The lint exempts test functions, but not their helpers.
#![allow(clippy::unwrap_used)]

use dsm_snapshot::Header;
use serde_json::{Value, json};
use support::random::Random;
use support::snapshots::{Folder, PAGE_BYTES, damage, fields, header, memory, write, zstd};

const PAGES: usize = 100;
const MEMORY: usize = 2 * PAGES * PAGE_BYTES;

/// Writes a snapshot to the snapshot directory, with a cut `minutes` after the default time.
/// Returns its name.
fn snapshot(folder: &Folder, minutes: u64, incarnations: &[u64]) -> String {
    let mut fields = fields(PAGES, incarnations);
    fields.cut_time += minutes * 60_000_000_000;
    let header = Header::new(fields).unwrap();
    let path = write(&folder.snapshots(), &header, &vec![b'x'; MEMORY], zstd());
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_list_starts_with_the_oldest_and_shows_the_standing_of_each_file() {
    let folder = Folder::new();
    let good = snapshot(&folder, 0, &[0x1234_5678_9abc_def0, 7]);
    let damaged = snapshot(&folder, 1, &[1, 2]);
    let partial = snapshot(&folder, 2, &[0xabcd_0000_0000_0001, 0]);
    let bytes = std::fs::read(folder.snapshots().join(&damaged)).unwrap();
    std::fs::write(folder.snapshots().join(&damaged), &bytes[..bytes.len() - 1]).unwrap();
    std::fs::write(
        folder.snapshots().join("dsm-20200101T000000Z.dsnap"),
        "a letter, which is longer",
    )
    .unwrap();
    std::fs::write(folder.snapshots().join("letter"), "").unwrap();

    let run = folder.dsmctl("snapshot list");
    let lines: Vec<&str> = run.prints().lines().collect();
    assert_eq!(lines.len(), 5, "{}", run.text());
    assert!(
        lines[0].starts_with("TIME ") && lines[0].ends_with("  STANDING"),
        "{}",
        run.text()
    );
    for (line, words) in lines[1..].iter().zip([
        [
            "-  ",
            "dsm-20200101T000000Z.dsnap",
            "25 B",
            "cannot be read as a snapshot: it does not begin",
        ],
        [
            "2026-11-23T04:00:00Z  ",
            &good,
            " 2 of 2  1234 0000 ",
            "  good",
        ],
        [
            "2026-11-23T04:01:00Z  ",
            &damaged,
            " 2 of 2  0000 0000 ",
            "  damaged: it does not end as a snapshot does",
        ],
        [
            "2026-11-23T04:02:00Z  ",
            &partial,
            " 1 of 2  abcd - ",
            "  partial",
        ],
    ]) {
        assert!(
            line.starts_with(words[0]) && words.iter().all(|words| line.contains(words)),
            "{words:?}: {line}"
        );
        assert!(!line.contains('/'), "{line}");
    }

    let rows = folder.dsmctl("snapshot list --json").json();
    let standings: Vec<&Value> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["standing"])
        .collect();
    assert_eq!(standings, ["foreign", "good", "damaged", "partial"]);
    assert_eq!(rows[3]["incarnations"], json!(["abcd000000000001", null]));
    assert_eq!(rows[1]["time"], "2026-11-23T04:00:00.000000000Z");
    assert_eq!(
        (&rows[1]["n"], &rows[1]["servers"], &rows[3]["servers"]),
        (&2.into(), &2.into(), &1.into())
    );
    assert_eq!(
        rows[1]["file"],
        folder.snapshots().join(&good).to_str().unwrap()
    );
    assert_eq!(
        rows[1]["bytes"],
        std::fs::metadata(folder.snapshots().join(&good))
            .unwrap()
            .len()
    );
}

#[test]
fn a_list_of_another_directory_shows_all_systems_and_needs_no_configuration() {
    let folder = Folder::new();
    snapshot(&folder, 0, &[0xfeed_0000_0000_0001]);
    let run = folder.dsmctl("snapshot list --directory snapshots --config missing.cfg");
    assert!(
        run.prints()
            .lines()
            .nth(1)
            .unwrap()
            .ends_with(" 1 of 1  feed000000000001  good"),
        "{}",
        run.text()
    );
    folder
        .dsmctl("snapshot list --config missing.cfg")
        .fails(78, &["missing.cfg"]);

    let text = std::fs::read_to_string(folder.path("mcomp.cfg")).unwrap();
    std::fs::write(
        folder.path("mcomp.cfg"),
        text.replace("\"test\"", "\"other\""),
    )
    .unwrap();
    let run = folder.dsmctl("snapshot list");
    assert!(
        run.prints()
            .lines()
            .nth(1)
            .unwrap()
            .ends_with("  of another system, test"),
        "{}",
        run.text()
    );
}

#[test]
fn an_empty_directory_is_no_error_and_a_missing_one_is_exit_code_66() {
    let folder = Folder::new();
    let run = folder.dsmctl("snapshot list");
    assert_eq!((run.code, run.text()), (0, ""));
    assert!(
        run.stderr.contains("there are no snapshots in /"),
        "{}",
        run.stderr
    );
    assert_eq!(folder.dsmctl("snapshot list --json").prints(), "[]\n");
    std::fs::remove_dir(folder.snapshots()).unwrap();
    folder
        .dsmctl("snapshot list")
        .fails(66, &["/snapshots: No such file", "--directory"]);
    folder
        .dsmctl("snapshot list --directory nowhere")
        .fails(66, &["nowhere"]);
    folder
        .dsmctl("snapshot list --directory mcomp.cfg")
        .fails(66, &["mcomp.cfg"]);
}

#[test]
fn show_prints_every_field_of_the_header() {
    let folder = Folder::new();
    let header = header(PAGES, &[0x1234_5678_9abc_def0, 0]);
    let mut memory = vec![0; MEMORY];
    memory[..10 * PAGE_BYTES].fill(b'x');
    folder.snapshot("one", &header, &memory);
    let run = folder.dsmctl("snapshot show one");
    let id = format!("{:032x}", u128::from_be_bytes(header.id()));
    for words in [
        id.as_str(),
        "2026-11-23T04:00:00.000000000Z",
        concat!("dsm ", env!("CARGO_PKG_VERSION")),
        "test\n",
        "400 KiB (409600 bytes)",
        "1 of 2",
        "server 0 (10.0.0.1:7411)",
        "40 KiB (40960 bytes)",
        "0  10.0.0.1:7411  host-0    123456789abcdef0  0 to 409599",
        "1  10.0.0.2:7411  host-1    missing           409600 to 819199",
    ] {
        assert!(
            run.prints().contains(words),
            "no {words:?} in {}",
            run.text()
        );
    }
    let shown = folder.dsmctl("snapshot show one --json").json();
    let size = std::fs::metadata(folder.path("one")).unwrap().len();
    for (member, value) in [
        ("id", Value::from(id)),
        ("system", "test".into()),
        ("k", 409_600.into()),
        ("n", 2.into()),
        ("master", 0.into()),
        ("frames", 1.into()),
        ("raw_bytes", 40_960.into()),
        ("bytes", size.into()),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    assert_eq!(
        shown["servers"][1],
        json!({ "index": 1, "address": "10.0.0.2:7411", "hostname": "host-1", "incarnation": null })
    );
}

#[test]
fn show_prints_the_header_of_a_damaged_file() {
    let folder = Folder::new();
    let path = folder.snapshot("one", &header(PAGES, &[1, 2]), &vec![b'x'; MEMORY]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let run = folder.dsmctl("snapshot show one");
    run.fails(65, &["one is damaged: it does not end as a snapshot does"]);
    assert!(
        run.text().contains("2026-11-23T04:00:00") && !run.text().contains("ratio"),
        "{}",
        run.text()
    );
    std::fs::write(&path, &bytes[1..]).unwrap();
    folder
        .dsmctl("snapshot show one")
        .fails(65, &["one cannot be read as a snapshot"]);
}

#[test]
fn a_name_is_searched_here_and_then_in_the_snapshot_directory() {
    let folder = Folder::new();
    let name = snapshot(&folder, 0, &[1, 2]);
    assert!(
        folder
            .dsmctl(&format!("snapshot show {name}"))
            .prints()
            .contains("snapshots/dsm-20261123T040000Z.dsnap")
    );
    assert!(
        folder
            .dsmctl(&format!(
                "snapshot show snapshots/{name} --config missing.cfg"
            ))
            .prints()
            .contains("ratio")
    );
    folder
        .dsmctl(&format!("snapshot show ./{name}"))
        .fails(66, &[&name]);
    folder
        .dsmctl("snapshot show missing")
        .fails(66, &["no file missing here, nor in /", "snapshot list"]);
    folder
        .dsmctl(&format!("snapshot show {name} --config missing.cfg"))
        .fails(66, &[&name, "missing.cfg"]);
    folder
        .dsmctl("snapshot show snapshots")
        .fails(66, &["not a regular file"]);
    // A file in the current folder comes first.
    std::fs::write(folder.path(&name), "x").unwrap();
    folder
        .dsmctl(&format!("snapshot show {name}"))
        .fails(65, &[&name]);
}

#[test]
fn verify_names_the_first_bad_frame_and_continues_with_the_next_file() {
    let folder = Folder::new();
    let mut random = Random::new("verify");
    let (good, partial) = (memory(&mut random, 2 * PAGES), header(PAGES, &[0, 2]));
    folder.snapshot("good", &header(PAGES, &[1, 2]), &good);
    folder.snapshot("partial", &partial, &vec![b'x'; MEMORY]);
    let bad = folder.snapshot("bad", &header(PAGES, &[1, 2]), &vec![b'x'; MEMORY]);
    let lost = damage(&bad, 409_600);

    let run = folder.dsmctl("snapshot verify good");
    assert!(
        run.prints().starts_with("good: ok (") && run.text().contains(" of memory in "),
        "{}",
        run.text()
    );
    let addresses = format!("for addresses {} to {}, is bad", lost.start, lost.end - 1);
    let run = folder.dsmctl("snapshot verify bad");
    run.fails(
        65,
        &["bad is damaged: the frame at byte ", &addresses, "--range"],
    );
    assert_eq!(run.text(), "");

    let run = folder.dsmctl("snapshot verify bad good partial");
    run.fails(65, &[&addresses, "1 of 3 files failed verification"]);
    let lines: Vec<&str> = run.text().lines().collect();
    assert!(
        lines[0].starts_with("good: ok (")
            && lines[1].starts_with("partial: ok (partial, 1 of 2 servers, ")
    );
    folder
        .dsmctl("snapshot verify missing bad")
        .fails(66, &["no file missing", &addresses, "2 of 2 files"]);

    let run = folder.dsmctl("snapshot verify bad good --json");
    run.fails(65, &["1 of 2 files"]);
    let rows = run.json();
    assert_eq!(
        (&rows[0]["ok"], &rows[1]["ok"]),
        (&false.into(), &true.into())
    );
    assert_eq!(
        (&rows[0]["address"], &rows[0]["length"]),
        (&lost.start.into(), &(lost.end - lost.start).into())
    );
    assert!(rows[0]["error"].as_str().unwrap().contains(&addresses));
}
