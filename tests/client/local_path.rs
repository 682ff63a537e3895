//! A program on a server's host works on the server's shared memory. Only the counters differ from
//! TCP.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, CompareAndSwap, DataPath, Reply};
use dsm_config::LocalAccess;
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{LocalTraffic, Status};
use support::random::Random;
use support::{Cluster, client, local_client};

const K: u64 = 4 << 20;

/// Requests over TCP that read or change the memory.
fn remote_operations(status: &Status) -> u64 {
    let others = ["hello", "ping", "status"];
    status
        .operations
        .iter()
        .filter(|(name, _)| !others.contains(&name.as_str()))
        .map(|(_, count)| count)
        .sum()
}

#[test]
fn local_and_remote_clients_see_each_others_changes_and_are_counted() {
    let cluster = Cluster::start(1, K);
    let (local, remote) = (local_client(&cluster), client(&cluster));
    assert_eq!(local.data_path(0).unwrap(), DataPath::Local);
    assert_eq!(remote.data_path(0).unwrap(), DataPath::Tcp);
    assert_eq!(
        local
            .clone()
            .with_local(LocalAccess::Never)
            .data_path(0)
            .unwrap(),
        DataPath::Tcp
    );

    local.write(100, b"from here").unwrap();
    local.fill(4096, 5000, 7).unwrap();
    local.copy(100..109, 200).unwrap();
    assert_eq!(
        (
            local.fetch_add(0, 5).unwrap(),
            local
                .compare_and_swap(
                    0,
                    CompareAndSwap {
                        expected: 9,
                        new: 1
                    }
                )
                .unwrap()
        ),
        (0, 5)
    );
    assert_eq!(
        remote_operations(&remote.status(0).unwrap()),
        0,
        "no request went over TCP"
    );

    assert_eq!(remote.read(100, 9).unwrap(), b"from here");
    assert_eq!(remote.read(200, 9).unwrap(), b"from here");
    assert_eq!(remote.read(4096, 5000).unwrap(), [7; 5000]);
    remote.write(300, b"from there").unwrap();
    assert_eq!(local.read(300, 10).unwrap(), b"from there");

    let status = remote.status(0).unwrap();
    let bytes_written = 9 + 5000 + 9 + 8 + 8;
    let mut expected = LocalTraffic::default();
    (expected.reads, expected.writes, expected.fills) = (1, 1, 1);
    (expected.copies, expected.atomics) = (1, 2);
    (expected.bytes_read, expected.bytes_written) = (10, bytes_written);
    assert_eq!(status.local, expected);
    assert_eq!(status.recovery.participants, 2);
    drop(local);
    let status = remote.status(0).unwrap();
    assert_eq!(status.local, expected, "the counters outlive the process");
    assert_eq!(
        (status.recovery.participants, status.recovery.repaired),
        (1, 0),
        "the client left without a need for repair"
    );
}

/// Makes one random request of any kind to the memory, and the same change to `model`.
fn change_both(client: &Client, model: &mut [u8], random: &mut Random) {
    let size = model.len();
    let (offset, length) = (random.index(size), random.index(3 << 20));
    let length = length.min(size - offset);
    let range = offset..offset + length;
    let (address, byte) = (offset as u64, u8::try_from(random.index(256)).unwrap());
    match random.index(5) {
        0 => {
            let data: Vec<u8> = (0..length)
                .map(|i| byte.wrapping_add(u8::try_from(i % 249).unwrap()))
                .collect();
            client.write(address, &data).unwrap();
            model[range].copy_from_slice(&data);
        }
        1 => {
            client.fill(address, length as u64, byte).unwrap();
            model[range].fill(byte);
        }
        2 => {
            let to = random.index(size - length + 1);
            client
                .copy(address..address + length as u64, to as u64)
                .unwrap();
            model.copy_within(range, to);
        }
        3 => {
            let offset = offset & !7;
            let word = u64::from_le_bytes(model[offset..offset + 8].try_into().unwrap());
            assert_eq!(client.swap(offset as u64, 77).unwrap(), word);
            model[offset..offset + 8].copy_from_slice(&77_u64.to_le_bytes());
        }
        _ => assert!(
            client.read(address, length as u64).unwrap() == model[range],
            "{length} bytes at {address}"
        ),
    }
}

#[test]
fn ranges_over_local_servers_behave_like_one_plain_memory() {
    let cluster = Cluster::start(3, K);
    let local = local_client(&cluster);
    let mut random = Random::new("local_path");
    let mut model = vec![0; usize::try_from(cluster.layout().size()).unwrap()];
    for _ in 0..60 {
        change_both(&local, &mut model, &mut random);
    }
    assert!(local.read(0, local.size()).unwrap() == model);
    assert!(
        client(&cluster).read(0, local.size()).unwrap() == model,
        "the same contents over TCP"
    );
    let remote = client(&cluster);
    let by_tcp: u64 = (0..3)
        .map(|server| remote_operations(&remote.status(server).unwrap()))
        .sum();
    // Only the reads of the comparison above.
    assert_eq!(by_tcp, 3 * K.div_ceil(MAX_ATOMIC));
}

#[test]
fn a_pipeline_over_local_and_remote_servers_returns_every_outcome_in_order() {
    // The second server has an operation log, so clients reach it over TCP only.
    let cluster = Cluster::builder().servers(2).k(K).create();
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    let log = format!(
        "{text}\n[log]\noperations = \"all\"\ndirectory = \"{}\"\n",
        cluster.directory().display()
    );
    std::fs::write(cluster.directory().join("mcomp.1.cfg"), log).unwrap();
    cluster.start_server(0);
    cluster.start_server(1);
    let client = local_client(&cluster);
    assert_eq!(
        [0, 1].map(|server| client.data_path(server).unwrap()),
        [DataPath::Local, DataPath::Tcp]
    );

    let mut pipeline = client.pipeline();
    let border = K - 8;
    for round in 0..500_u64 {
        pipeline.fetch_add(0, 1).unwrap();
        pipeline.fetch_add(K + 64, 1).unwrap();
        pipeline
            .fill(border, 16, u8::try_from(round % 251).unwrap())
            .unwrap();
        pipeline.read(border, 16).unwrap();
    }
    for round in 0..500_u64 {
        let byte = u8::try_from(round % 251).unwrap();
        assert_eq!(pipeline.next().unwrap().unwrap(), Reply::Old(round));
        assert_eq!(pipeline.next().unwrap().unwrap(), Reply::Old(round));
        assert_eq!(pipeline.next().unwrap().unwrap(), Reply::Done);
        assert_eq!(
            pipeline.next().unwrap().unwrap(),
            Reply::Data(vec![byte; 16])
        );
    }
    assert!(pipeline.next().is_none());
    let model = vec![9; 3 << 20];
    client.write(K - (2 << 20), &model).unwrap();
    assert!(client.read(K - (2 << 20), 3 << 20).unwrap() == model);
    client
        .copy(K - (2 << 20)..K + (1 << 20), K - (2 << 20) + 5)
        .unwrap();
    assert!(client.read(K - (2 << 20), (3 << 20) + 5).unwrap() == vec![9; (3 << 20) + 5]);
}

#[test]
fn dsmctl_reports_whether_it_uses_shared_memory_as_mcomp_cfg_allows() {
    for (builder, path) in [
        (Cluster::builder().local(), "local"),
        (Cluster::builder(), "tcp"),
    ] {
        let cluster = builder.k(K).start();
        assert_eq!(cluster.dsmctl("ping --json").json()[0]["path"], path);
        assert!(cluster.dsmctl("ping").prints().trim_end().ends_with(path));
        cluster.dsmctl("write 5 hello").prints();
        assert_eq!(
            cluster.dsmctl("read 5 5 --format text").prints().trim_end(),
            "hello"
        );
        let status = cluster.dsmctl("status --json").json();
        let local = u64::from(path == "local");
        assert_eq!(
            (
                status[0]["local"]["writes"].as_u64(),
                status[0]["local"]["reads"].as_u64()
            ),
            (Some(local), Some(local))
        );
        assert_eq!(status[0]["operations"]["write"].as_u64(), Some(1 - local));
        assert!(
            cluster
                .dsmctl("status")
                .prints()
                .lines()
                .next()
                .unwrap()
                .contains("  LOCAL  ")
        );
        assert_eq!(
            status[0]["recovery"]["repaired"].as_u64(),
            Some(0),
            "dsmctl leaves the segment before it exits"
        );
    }
}
