//! A reader in another language, written from docs/snapshot-format.md alone, exports the same
//! bytes.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_snapshot::SnapshotFile;
use std::path::Path;
use std::process::Command;
use support::Cluster;
use support::random::Random;
use support::snapshots::{CUT_TIME, header, memory, write, zstd};

fn python(arguments: &[&Path]) -> String {
    let mut command = Command::new("python3");
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/snapshot_reader.py"
        ))
        .args(arguments);
    let output = command.output().expect("python3 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_exports_the_file_that_a_master_wrote_of_a_live_memory() {
    let cluster = Cluster::start(3, 300 << 10);
    cluster.start_agents();
    let bytes = memory(&mut Random::new("master"), 3 * 75);
    cluster.write_all(&bytes);
    let path = cluster.snapshot().path().to_owned();

    let printed: serde_json::Value =
        serde_json::from_str(&python(&[Path::new("header"), &path])).unwrap();
    println!("{printed:#}");
    assert_eq!(
        (&printed["master"], &printed["n"], &printed["k"]),
        (&0.into(), &3.into(), &(300 << 10).into())
    );
    for (server, incarnation) in cluster.incarnations().iter().enumerate() {
        let found = printed["servers"][server]["incarnation"].as_u64().unwrap();
        assert_eq!(&format!("{found:016x}"), incarnation);
        assert_eq!(
            printed["servers"][server]["address"],
            cluster.address(server)
        );
    }
    let raw = cluster.directory().join("by-python");
    python(&[Path::new("export"), &path, &raw]);
    let exported = std::fs::read(raw).unwrap();
    assert!(
        exported == bytes && exported == cluster.export(&path),
        "the exports differ"
    );
}

#[test]
fn a_reader_written_from_the_specification_exports_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let memory = memory(&mut Random::new("reader"), 3 * 90);
    let path = write(
        directory.path(),
        &header(90, &[1, u64::MAX, 3]),
        &memory,
        zstd(),
    );
    let file = SnapshotFile::open(&path).unwrap();

    let printed: serde_json::Value =
        serde_json::from_str(&python(&[Path::new("header"), &path])).unwrap();
    println!("{printed:#}");
    assert_eq!(printed["cut_time"], CUT_TIME);
    assert_eq!(
        printed["id"],
        file.header()
            .id()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
    assert_eq!(
        (&printed["k"], &printed["n"]),
        (&(90 * 4096).into(), &3.into())
    );
    assert_eq!(printed["servers"][1]["incarnation"], u64::MAX);
    assert_eq!(printed["servers"][2]["hostname"], "host-2");
    assert_eq!(printed["tool"], file.header().tool());

    let raw = directory.path().join("raw");
    python(&[Path::new("export"), &path, &raw]);
    let exported = std::fs::read(raw).unwrap();
    let mut ours = vec![0; memory.len()];
    file.read_range(0, &mut ours).unwrap();
    assert!(exported == ours && ours == memory, "the exports differ");
    println!("{} bytes in {} frames, the same", ours.len(), file.frames());
}
