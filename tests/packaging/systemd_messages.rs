//! The messages of dsmd to systemd over `NOTIFY_SOCKET`. The test is the service manager.
#![allow(clippy::unwrap_used)]

use dsm_client::Client;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};
use support::process::StoppedThread;
use support::service::Service;
use support::wire::Wire;
use support::{Cluster, namespace, wait_for};

const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn systemd_is_told_of_start_watchdog_reload_and_stop() {
    let cluster = Cluster::builder().create();
    let mut service = Service::start(&cluster, "300000");
    assert!(
        service
            .wait_for_message("EXTEND_TIMEOUT_USEC=")
            .contains("STATUS=allocating")
    );
    assert!(
        service
            .wait_for_message("READY=1")
            .contains("STATUS=serving 1 MiB as server 0 of 1")
    );
    for _ in 0..3 {
        service.wait_for_message("WATCHDOG=1");
    }
    service.signal(nix::sys::signal::SIGHUP);
    assert!(
        service
            .wait_for_message("RELOADING=1")
            .contains("MONOTONIC_USEC=")
    );
    service.wait_for_message("READY=1");
    service.signal(nix::sys::signal::SIGTERM);
    service.wait_for_message("STOPPING=1");
    assert_eq!(service.exit_code(), Some(0));
}

#[test]
fn a_server_that_is_full_still_answers_its_watchdog() {
    let cluster = Cluster::builder()
        .config("[limits]\nconnections = 2")
        .create();
    let service = Service::start(&cluster, "300000");
    service.wait_for_message("READY=1");
    let clients: Vec<Client> = (0..2).map(|_| support::client(&cluster)).collect();
    clients
        .iter()
        .for_each(|client| client.write(0, b"here").unwrap());
    assert!(
        support::client(&cluster).ping(0).is_err(),
        "the server is not full"
    );
    let refused = clients[0]
        .status(0)
        .map(|status| status.connections.refused);
    for _ in 0..4 {
        service.wait_for_message("WATCHDOG=1");
    }
    if let Ok(refused) = refused {
        assert_eq!(
            clients[0].status(0).unwrap().connections.refused,
            refused,
            "the server has refused its probe"
        );
    }
    clients
        .iter()
        .for_each(|client| client.write(0, b"still").unwrap());
}

#[test]
fn the_watchdog_gets_no_answer_while_a_thread_is_stopped_and_one_after_it_has_resumed() {
    for name in ["dsm-accept", "dsm-shared-1", "dsm-probe"] {
        let cluster = Cluster::builder().create();
        let mut service = Service::start(&cluster, "300000");
        service.wait_for_message("WATCHDOG=1");
        let threads = service.threads(name);
        let &[thread] = threads.as_slice() else {
            panic!("{name}: {threads:?}")
        };
        let stopped = StoppedThread::new(thread);
        // A probe from before the stop may still succeed.
        wait_for("no more messages", DEADLINE, || {
            service
                .next_message_within(Duration::from_millis(500))
                .is_none()
        });
        let said = service.next_message_within(Duration::from_secs(1));
        assert_eq!(
            said, None,
            "{name} was stopped, and dsmd has still sent WATCHDOG=1"
        );
        drop(stopped);
        service.wait_for_message("WATCHDOG=1");
        service.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(service.exit_code(), Some(0));
        let mut log = String::new();
        service
            .child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        let complaint = if name == "dsm-probe" {
            "a read of the memory"
        } else {
            name
        };
        assert!(
            log.contains("the server does not answer itself") && log.contains(complaint),
            "{log}"
        );
    }
}

#[test]
fn a_server_whose_address_is_removed_answers_its_watchdog_and_local_programs() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_server_whose_address_is_removed_answers_its_watchdog_and_local_programs",
    ) {
        return;
    }
    let cluster = Cluster::builder().local().create();
    let service = Service::start(&cluster, "300000");
    service.wait_for_message("WATCHDOG=1");
    support::client(&cluster).write(0, b"by TCP").unwrap();
    let local = support::local_client(&cluster);
    local.write(8, b"local").unwrap();
    namespace::change_loopback("del");
    assert!(
        Wire::try_connect(cluster.address(0)).is_err(),
        "the address still exists"
    );
    let began = Instant::now();
    for count in 0..10 {
        service.wait_for_message("WATCHDOG=1");
        local.write(16, &[count]).unwrap();
    }
    println!("without an address, ten answers in {:?}", began.elapsed());
    assert_eq!(local.read(0, 17).unwrap(), *b"by TCP\0\0local\0\0\0\x09");
    namespace::change_loopback("add");
    assert_eq!(support::client(&cluster).read(0, 6).unwrap(), *b"by TCP");
}

#[test]
fn a_service_manager_that_does_not_read_blocks_nothing() {
    let cluster = Cluster::builder().create();
    let path = cluster.directory().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", &path).is_ok() {}
    let mut service = Service::with(&cluster, manager, "30000");
    wait_for("dsmd to serve", DEADLINE, || {
        support::client(&cluster).ping(0).is_ok()
    });
    service.signal(nix::sys::signal::SIGHUP);
    support::client(&cluster).write(0, b"served").unwrap();
    service.signal(nix::sys::signal::SIGTERM);
    assert_eq!(service.exit_code(), Some(0));
}

#[test]
fn a_watchdog_time_of_zero_disables_the_watchdog() {
    let cluster = Cluster::builder().create();
    let mut service = Service::start(&cluster, "0");
    service.wait_for_message("READY=1");
    std::thread::sleep(Duration::from_millis(300));
    service.signal(nix::sys::signal::SIGTERM);
    assert!(!service.wait_for_message("STOPPING=1").contains("WATCHDOG"));
    assert_eq!(service.exit_code(), Some(0));
    let mut said = String::new();
    service
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.lines().count() < 10, "{said}");
}

#[test]
fn a_service_whose_name_in_shared_memory_is_taken_waits_and_starts_when_it_is_free() {
    let cluster = Cluster::builder().create();
    let taken = std::path::PathBuf::from(format!("/dev/shm/sem.{}.0.03", cluster.name()));
    std::fs::create_dir(&taken).unwrap();
    let service = Service::start(&cluster, "0");
    let said = service.wait_for_message("STATUS=waiting");
    std::fs::remove_dir(&taken).unwrap();
    assert!(said.contains(taken.to_str().unwrap()), "{said}");
    service.wait_for_message("READY=1");
}

/// The log of dsmd, from its start to its end, in a file that is its standard error. With
/// `as_journal`, `JOURNAL_STREAM` names that file.
fn log_in_a_file(as_journal: bool) -> String {
    let cluster = Cluster::builder().create();
    let path = cluster.directory().join("log");
    let file = std::fs::File::create(&path).unwrap();
    let metadata = file.metadata().unwrap();
    let mut command = cluster.command(0);
    if as_journal {
        command.env(
            "JOURNAL_STREAM",
            format!("{}:{}", metadata.dev(), metadata.ino()),
        );
    }
    let mut child = command.stderr(file).spawn().unwrap();
    wait_for("dsmd listens", DEADLINE, || {
        std::net::TcpStream::connect(cluster.address(0)).is_ok()
    });
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
        nix::sys::signal::SIGTERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_log_line_has_a_time_unless_the_journal_adds_it() {
    let levels = ["ERROR", "WARN", "INFO"];
    let log = log_in_a_file(false);
    assert!(log.lines().count() >= 2, "{log}");
    for line in log.lines().filter(|line| !line.starts_with("    ")) {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert!(
            levels
                .iter()
                .any(|level| rest.starts_with(&format!("{level} "))),
            "{line}"
        );
    }
    // Where journald runs, dsmd uses its native protocol and the file has no lines.
    for line in log_in_a_file(true)
        .lines()
        .filter(|line| !line.starts_with("    "))
    {
        assert!(
            levels
                .iter()
                .any(|level| line.starts_with(&format!("{level} "))),
            "{line}"
        );
    }
}
