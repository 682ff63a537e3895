//! README.md is true: its tour prints what the page shows, also while an installed dsmd runs.

// clippy.toml allows `unwrap` in tests, but not in their helpers.
#![allow(clippy::unwrap_used)]

use dsm_config::Config;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::skip;

const README: &str = include_str!("../../README.md");

/// Bytes in /dev/shm that the tour needs: three segments with their overhead, and the pages that
/// writers save during a snapshot.
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
    Config::load(&path).expect("the mcomp.cfg of the tour is valid")
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
fn the_tour_uses_no_port_and_no_name_of_an_installed_dsmd() {
    let tour = tour();
    let packaged = Config::load(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/etc/mcomp.cfg"
    )))
    .unwrap();
    let (ours, taken) = (ports(&tour), ports(&packaged));
    assert!(
        ours.iter().all(|port| !taken.contains(port)),
        "the tour uses the ports {ours:?}, the package {taken:?}"
    );
    assert_ne!(tour.layout.name(), packaged.layout.name());
}

#[test]
fn the_readme_installs_every_package_that_make_test_needs() {
    let installed = README
        .lines()
        .find_map(|line| line.strip_prefix("$ sudo apt-get install "))
        .expect("a line with apt-get");
    let installed: Vec<&str> = installed.split(' ').collect();
    let scripts = [
        include_str!("../run"),
        include_str!("../package"),
        include_str!("../../packaging/build-deb"),
    ];
    // Lines such as `have zstd || echo zstd`. The list of `make deb` also has packages that
    // debhelper and build-essential depend on: the filter below removes them.
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
    // The tour creates the folder `tour` in it, and removes it at its end.
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
        "the tour does not do what README.md shows:\n{text}{errors}"
    );
    assert_eq!(
        objects(&name),
        Vec::<PathBuf>::new(),
        "the last commands of the tour do not remove these objects"
    );
}

/// A loopback address that only this process uses.
fn host() -> String {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    format!("127.{}.{b}.{c}", 100 + a % 100)
}

/// The objects in /dev/shm of the memory with this name.
fn objects(name: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir("/dev/shm")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().contains(name))
        .collect()
}

/// Removes the objects that a failed tour has left in /dev/shm.
struct LeftOver(String);

impl Drop for LeftOver {
    fn drop(&mut self) {
        for path in objects(&self.0) {
            let _ = std::fs::remove_file(path);
        }
    }
}
