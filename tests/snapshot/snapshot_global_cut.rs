//! A snapshot is one instant of all servers: what clients keep in order over servers under full
//! load is in order in every file. `DSM_TEST_SNAPSHOTS` sets another number of them. When servers
//! are cut one by one instead, it is not: so the test would see it.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_client::Client;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use support::counts::{count, count_of};
use support::random::Random;
use support::{Cluster, client, local_client, ring};

const SERVERS: usize = 3;
const K: u64 = 256 * 1024;

/// Clients that move money, and accounts on each server.
const MOVERS: usize = 3;
const ACCOUNTS: u64 = 4;

/// What each account has at first, and the most that is moved at once.
const BALANCE: u64 = 1 << 40;
const MOST: u64 = 1 << 20;

/// Where the accounts of a server are, each on a page of its own, and after them the movers'
/// journals.
const BANK: u64 = ring::USED;
const PAGE: u64 = 4096;

/// Without the gate, an order that is broken must show within so many snapshots.
const WITHOUT_GATE: usize = 300;

fn account(server: usize, number: u64) -> u64 {
    assert!(BANK + (ACCOUNTS + MOVERS as u64) * PAGE <= K && number < ACCOUNTS);
    server as u64 * K + BANK + number * PAGE
}

/// Where a mover writes what it is about to move.
fn journal(mover: usize) -> u64 {
    (mover % SERVERS) as u64 * K + BANK + (ACCOUNTS + mover as u64) * PAGE
}

/// Moves money from account to account, until told to stop, in four steps that follow each other:
/// the amount into the journal, out of one account, into one on another server, and zero into the
/// journal.
///
/// So at every instant the accounts together have what they had at first, less at most what stands
/// in the journals; and never more.
fn move_money(
    client: &Client,
    mover: usize,
    mut random: Random,
    stop: &AtomicBool,
    transfers: &AtomicU64,
) {
    let write = |address, value: u64| client.write(address, &value.to_le_bytes()).unwrap();
    while !stop.load(Ordering::SeqCst) {
        let from = random.index(SERVERS);
        let to = (from + 1 + random.index(SERVERS - 1)) % SERVERS;
        let (from, to) = (
            account(from, random.within(0, ACCOUNTS)),
            account(to, random.within(0, ACCOUNTS)),
        );
        let amount = random.within(1, MOST);
        write(journal(mover), amount);
        client.fetch_add(from, amount.wrapping_neg()).unwrap();
        client.fetch_add(to, amount).unwrap();
        write(journal(mover), 0);
        transfers.fetch_add(1, Ordering::SeqCst);
    }
}

fn fill_accounts(client: &Client) {
    for (server, number) in
        (0..SERVERS).flat_map(|server| (0..ACCOUNTS).map(move |number| (server, number)))
    {
        client
            .write(account(server, number), &BALANCE.to_le_bytes())
            .unwrap();
    }
}

/// What is wrong with the money in a memory, if it is that of an instant.
fn check_money(memory: &[u8]) -> Option<String> {
    let word = |address: u64| {
        u64::from_le_bytes(
            *memory[usize::try_from(address).unwrap()..]
                .first_chunk()
                .unwrap(),
        )
    };
    let accounts =
        (0..SERVERS).flat_map(|server| (0..ACCOUNTS).map(move |number| account(server, number)));
    let (had, has) = (
        SERVERS as u64 * ACCOUNTS * BALANCE,
        accounts.map(word).sum::<u64>(),
    );
    let under_way: u64 = (0..MOVERS).map(|mover| word(journal(mover))).sum();
    match had.checked_sub(has) {
        None => Some(format!("{} were made of nothing", has - had)),
        Some(missing) if missing > under_way => {
            Some(format!("{missing} are missing, {under_way} are under way"))
        }
        Some(_) => None,
    }
}

/// Takes snapshots under load until one of them has something wrong, at most `most`. Returns how
/// many there were, and what was wrong with the last one.
fn take_snapshots(
    environment: support::agents::Environment<'_>,
    connect: fn(&Cluster) -> Client,
    most: usize,
) -> (usize, Vec<String>) {
    let _alone = support::one_at_a_time();
    // The time of a freeze is another test's business.
    let cluster = Cluster::builder()
        .servers(SERVERS)
        .k(K)
        .snapshot("freeze_timeout = \"5s\"")
        .start();
    (0..SERVERS).for_each(|index| cluster.start_agent_with(index, environment));
    fill_accounts(&connect(&cluster));
    let (stop, transfers, began) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    let mut random = Random::new("snapshot_global_cut");
    let mut memory = vec![0; SERVERS * usize::try_from(K).unwrap()];
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for mover in 0..MOVERS {
            let (client, random, stop, transfers) =
                (connect(&cluster), random.fork(), &stop, &transfers);
            scope.spawn(move || move_money(&client, mover, random, stop, transfers));
        }
        let ring = ring::Ring::start(&cluster);
        let (mut taken, mut wrong) = (0, Vec::new());
        while taken < most && wrong.is_empty() {
            let file = cluster.snapshot();
            file.read_range(0, &mut memory).unwrap();
            std::fs::remove_file(file.path()).unwrap();
            taken += 1;
            wrong = ring::check(&memory, usize::try_from(K).unwrap());
            wrong.extend(check_money(&memory));
        }
        println!(
            "{environment:?}: {taken} snapshots in {:?}, while there were {} rounds of {SERVERS} blocks and {} transfers; \
             out of order: {wrong:?}",
            began.elapsed(),
            ring.rounds(),
            transfers.load(Ordering::SeqCst),
        );
        ring.stop();
        (taken, wrong)
    })
}

/// Stops the movers whatever happens: otherwise nobody would hear of a failure.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn every_snapshot_under_load_is_one_instant_of_all_servers() {
    let most = count_of("DSM_TEST_SNAPSHOTS", 50, 1000);
    let (taken, wrong) = take_snapshots(&[], client, most);
    assert!(wrong.is_empty(), "snapshot {taken}: {wrong:?}");
}

#[test]
fn every_snapshot_under_the_load_of_local_clients_is_one_instant_too() {
    let (taken, wrong) = take_snapshots(&[], local_client, count(25, 500));
    assert!(wrong.is_empty(), "snapshot {taken}: {wrong:?}");
}

#[test]
fn local_clients_of_servers_that_are_cut_one_by_one_are_seen_to_be_out_of_order() {
    let (taken, wrong) = take_snapshots(&[("DSM_TEST_GATE", "off")], local_client, WITHOUT_GATE);
    assert!(
        !wrong.is_empty(),
        "{taken} snapshots without the gate are in order: this test sees nothing"
    );
}

#[test]
fn servers_that_are_cut_one_by_one_are_seen_to_be_out_of_order() {
    let (taken, wrong) = take_snapshots(&[("DSM_TEST_GATE", "off")], client, WITHOUT_GATE);
    assert!(
        !wrong.is_empty(),
        "{taken} snapshots without the gate are in order: this test sees nothing"
    );
}
