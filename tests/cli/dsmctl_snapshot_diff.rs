//! `dsmctl snapshot diff`: it reports every byte that differs, and no other.

// The lint exempts test functions, but not their helpers.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::PAGE;
use dsm_snapshot::{Header, HeaderFields};
use serde_json::json;
use support::random::Random;
use support::snapshots::{CUT_TIME, Folder, PAGE_BYTES, damage, header, memory};
use support::{Cluster, client};

const PAGES: usize = 100;
const SIZE: usize = 2 * PAGES * PAGE_BYTES;

/// The output that a comparison of each byte predicts.
fn expected(ours: &[u8], theirs: &[u8]) -> String {
    let differing: Vec<usize> = (0..ours.len())
        .filter(|at| ours[*at] != theirs[*at])
        .collect();
    let runs: Vec<&[usize]> = differing.chunk_by(|a, b| a + 1 == *b).collect();
    let lines: String = runs
        .iter()
        .map(|run| format!("{} {}\n", run[0], run.len()))
        .collect();
    let summary = match (differing.len(), runs.len()) {
        (0, _) => String::new(),
        (1, _) => "1 byte in 1 range differs\n".to_owned(),
        (bytes, 1) => format!("{bytes} bytes in 1 range differ\n"),
        (bytes, ranges) => format!("{bytes} bytes in {ranges} ranges differ\n"),
    };
    lines + &summary
}

#[test]
fn the_ranges_between_two_files_are_exact() {
    let folder = Folder::new();
    let mut random = Random::new("diff");
    let ours = memory(&mut random, 2 * PAGES);
    let mut theirs = memory(&mut random, 2 * PAGES);
    // Three quarters are equal but for a few bytes, some of them across borders of pages, frames
    // and servers.
    theirs[..SIZE * 3 / 4].copy_from_slice(&ours[..SIZE * 3 / 4]);
    for (at, length) in [
        (0, 1),
        (4095, 2),
        (PAGES * PAGE_BYTES - 1, 3),
        (70_000, 9000),
        (80_000, 1),
    ] {
        theirs[at..at + length]
            .iter_mut()
            .for_each(|byte| *byte ^= 0xff);
    }
    folder.snapshot("ours", &header(PAGES, &[1, 2]), &ours);
    folder.snapshot("theirs", &header(PAGES, &[3, 4]), &theirs);

    let run = folder.dsmctl("snapshot diff ours theirs");
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    assert!(run.text() == expected(&ours, &theirs), "{}", run.text());
    let run = folder.dsmctl("snapshot diff ours theirs --range 4000 200");
    assert_eq!(
        (run.code, run.text()),
        (1, "4095 2\n2 bytes in 1 range differ\n")
    );
    let run = folder.dsmctl("snapshot diff ours theirs --range 4096 1");
    assert_eq!(
        (run.code, run.text()),
        (1, "4096 1\n1 byte in 1 range differs\n")
    );
    assert_eq!(
        folder
            .dsmctl("snapshot diff ours theirs --range 4097 1000")
            .prints(),
        ""
    );
    assert_eq!(folder.dsmctl("snapshot diff ours ours").prints(), "");

    let run = folder.dsmctl("snapshot diff ours theirs --range 0 8KiB --json");
    let ranges = json!([{ "address": 0, "length": 1 }, { "address": 4095, "length": 2 }]);
    let report = json!({ "file": "ours", "other": "theirs", "compared": 8192, "ranges": ranges, "bytes": 3 });
    assert_eq!((run.code, run.json()), (1, report));
    let equal = folder.dsmctl("snapshot diff ours ours --json");
    assert_eq!(
        (equal.code, &equal.json()["ranges"], &equal.json()["bytes"]),
        (0, &json!([]), &json!(0))
    );
}

#[test]
fn a_difference_is_exit_code_1_even_if_standard_output_is_closed() {
    let folder = Folder::new();
    folder.snapshot("ours", &header(PAGES, &[1, 2]), &vec![b'x'; SIZE]);
    folder.snapshot("theirs", &header(PAGES, &[1, 2]), &vec![b'y'; SIZE]);
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsmctl"))
        .current_dir(folder.path("ours").parent().unwrap())
        .args(["snapshot", "diff", "ours", "theirs"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(1), &b""[..])
    );
}

#[test]
fn memories_of_different_layouts_are_compared_where_they_overlap() {
    let folder = Folder::new();
    let mut random = Random::new("shapes");
    let ours = memory(&mut random, 2 * PAGES);
    let mut theirs = [ours.clone(), vec![b'x'; PAGES * PAGE_BYTES]].concat();
    theirs[5] ^= 1;
    folder.snapshot("ours", &header(PAGES, &[1, 2]), &ours);
    folder.snapshot("theirs", &header(PAGES / 2, &[1, 2, 3, 4, 5, 6]), &theirs);
    folder.snapshot("partial", &header(PAGES, &[0, 2]), &ours);
    folder.snapshot("rest", &header(PAGES, &[1, 0]), &ours);

    let run = folder.dsmctl("snapshot diff ours theirs");
    run.fails(
        1,
        &["ours has 2 servers of 400 KiB, theirs has 6 servers of 200 KiB: only addresses 0 to 819199 are compared"],
    );
    assert_eq!(run.text(), "5 1\n1 byte in 1 range differs\n");
    folder
        .dsmctl("snapshot diff ours theirs --range 0 819201")
        .fails(65, &["ours: address 0 length 819201 is outside"]);

    let run = folder.dsmctl("snapshot diff theirs partial");
    run.fails(
        0,
        &["server 0 is missing from partial: addresses 0 to 409599 are not compared"],
    );
    assert_eq!(run.text(), "");
    folder
        .dsmctl("snapshot diff ours partial --range 0 1")
        .fails(65, &["partial is a partial snapshot without server 0"]);
    folder
        .dsmctl("snapshot diff rest partial")
        .fails(65, &["no server is in both rest and partial"]);
}

#[test]
fn a_damaged_or_missing_file_is_an_error_not_a_difference() {
    let folder = Folder::new();
    folder.snapshot("good", &header(PAGES, &[1, 2]), &vec![b'x'; SIZE]);
    let bad = folder.snapshot("bad", &header(PAGES, &[1, 2]), &vec![b'x'; SIZE]);
    let lost = damage(&bad, 0);
    for line in ["snapshot diff good bad", "snapshot diff bad good"] {
        folder.dsmctl(line).fails(
            65,
            &[
                "bad is damaged",
                &format!("addresses 0 to {}", lost.end - 1),
            ],
        );
    }
    let rest = format!("snapshot diff good bad --range {} 4096", lost.end);
    assert_eq!(folder.dsmctl(&rest).prints(), "");
    folder
        .dsmctl("snapshot diff good missing")
        .fails(66, &["missing"]);
    folder
        .dsmctl("snapshot diff good --config missing.cfg")
        .fails(78, &["missing.cfg"]);
}

#[test]
fn a_file_is_compared_with_the_live_memory() {
    const K: u64 = 3 << 20;
    let cluster = Cluster::start(2, K);
    let dsmctl =
        |line: &str| support::dsmctl::run(cluster.directory(), &cluster.config_path(), line, b"");
    let pages = usize::try_from(K / PAGE).unwrap();
    let mut random = Random::new("live");
    let mut memory = memory(&mut random, 2 * pages);
    let path = cluster.directory().join("one");
    let fields = HeaderFields::new(cluster.layout().clone(), CUT_TIME, &[1, 2], Some(0)).unwrap();
    std::fs::rename(
        support::snapshots::write(
            cluster.directory(),
            &Header::new(fields).unwrap(),
            &memory,
            support::snapshots::zstd(),
        ),
        &path,
    )
    .unwrap();
    client(&cluster).write(0, &memory).unwrap();
    assert_eq!(dsmctl("snapshot diff one").prints(), "");
    let before = memory.clone();
    for at in [0, 1 << 20, 3 << 20, (6 << 20) - 1] {
        memory[at] ^= 1;
    }
    client(&cluster).write(0, &memory).unwrap();
    let run = dsmctl("snapshot diff one");
    assert_eq!(
        (run.code, run.stderr.as_str(), run.text()),
        (1, "", expected(&before, &memory).as_str())
    );
    let report = dsmctl("snapshot diff one --range 1MiB 1 --json").json();
    assert_eq!(
        (&report["other"], &report["bytes"]),
        (&json!(null), &json!(1))
    );

    cluster.kill(1);
    assert_eq!(dsmctl("snapshot diff one --range 8 1MiB-8").code, 64);
    assert_eq!(dsmctl("snapshot diff one --range 8 1000000").prints(), "");
    dsmctl("snapshot diff one --timeout 300ms").fails(
        69,
        &["after 3145728 of 6291456 bytes were compared: server 1"],
    );
}
