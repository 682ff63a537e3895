//! README.md is true: its tour, followed from top to bottom, does what it shows, also beside an
//! installed dsmd.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_config::Config;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::skip;

const README: &str = include_str!("../../README.md");

/// The tour's three shares, what each has around its memory, and a snapshot that saves pages, in
/// /dev/shm.
const SHARED_MEMORY: u64 = 320 << 20;

/// The mcomp.cfg of the tour.
fn tour() -> Config {
    let (_, rest) = README
        .split_once("$ cat > tour.cfg <<END\n")
        .expect("the tour writes its mcomp.cfg");
    let (text, _) = rest.split_once("\nEND\n").expect("END is alone on a line");
    let text = text.replace("$PWD", "/tmp/tour");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tour.cfg");
    std::fs::write(&path, text).unwrap();
    Config::load(&path).expect("the mcomp.cfg of the tour is sound")
}

fn ports(config: &Config) -> Vec<u16> {
    let port = |address: String| {
        address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .expect("a port")
    };
    let addresses = config
        .servers
        .iter()
        .flat_map(|server| [Some(&server.address), server.snapshot.as_ref()]);
    addresses
        .flatten()
        .map(ToString::to_string)
        .map(port)
        .collect()
}

#[test]
fn the_tour_needs_nothing_that_an_installed_dsmd_has_taken() {
    let tour = tour();
    let packaged = Config::load(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/etc/mcomp.cfg"
    )))
    .unwrap();
    let (ours, taken) = (ports(&tour), ports(&packaged));
    assert!(
        ours.iter().all(|port| !taken.contains(port)),
        "the tour has the ports {ours:?}, the package {taken:?}"
    );
    assert_ne!(tour.layout.name(), packaged.layout.name());
}

#[test]
fn what_make_test_needs_is_what_the_readme_installs() {
    let installed = README
        .lines()
        .find_map(|line| line.strip_prefix("$ sudo apt-get install "))
        .expect("a line of apt-get");
    let installed: Vec<&str> = installed.split(' ').collect();
    let scripts = [
        include_str!("../run"),
        include_str!("../package"),
        include_str!("../../packaging/build-deb"),
    ];
    // Such as `have zstd || echo zstd`, and what `make deb` needs beside debhelper and
    // build-essential, which depend on it.
    let wanted = scripts
        .iter()
        .flat_map(|script| script.lines())
        .filter_map(|line| line.split_once("|| echo "));
    let wanted: Vec<&str> = wanted.map(|(_, package)| package.trim()).collect();
    assert!(wanted.len() > 8, "{wanted:?}");
    for package in wanted
        .into_iter()
        .filter(|package| !["make", "dpkg-dev"].contains(package))
    {
        assert!(
            installed.contains(&package),
            "README.md does not install {package}: {installed:?}"
        );
    }
    let lintian = include_str!("../package").contains("command -v lintian");
    assert!(lintian && installed.contains(&"lintian"));
}

#[test]
fn a_reader_who_follows_the_tour_sees_what_it_shows() {
    let room = nix::sys::statvfs::statvfs("/dev/shm").unwrap();
    let free = room.blocks_available() * room.fragment_size();
    if free < SHARED_MEMORY {
        skip::skip(format!(
            "/dev/shm has {free} bytes free; the tour needs {SHARED_MEMORY}"
        ));
        return;
    }
    let name = format!("dsmtest-{}-readme", std::process::id());
    // The tour makes it, and removes it at its end.
    let parent = tempfile::Builder::new().prefix(&name).tempdir().unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_dsmd")).parent().unwrap();
    let _left_over = LeftOver(name.clone());
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readme_tour.py"))
        .arg(programs)
        .args([&name, &host()])
        .arg(parent.path().join("tour"))
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .output()
        .expect("python3 is installed");
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{text}{errors}");
    assert!(
        output.status.success(),
        "README.md is not as things are:\n{text}{errors}"
    );
    assert_eq!(
        objects(&name),
        Vec::<PathBuf>::new(),
        "the tour's last commands leave this"
    );
}

/// A loopback address of this process's own.
fn host() -> String {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    format!("127.{}.{b}.{c}", 100 + a % 100)
}

/// What there is in /dev/shm of the memory of that name.
fn objects(name: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir("/dev/shm")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().contains(name))
        .collect()
}

/// Removes what a tour that failed halfway has left.
struct LeftOver(String);

impl Drop for LeftOver {
    fn drop(&mut self) {
        for path in objects(&self.0) {
            let _ = std::fs::remove_file(path);
        }
    }
}
