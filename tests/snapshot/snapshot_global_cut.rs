//! A snapshot shows one instant of all servers: writes that clients order across servers are in
//! order in every file, under full load. `DSM_TEST_SNAPSHOTS` sets the number of snapshots. Further
//! tests cut the servers one by one, to prove that the check detects a wrong order.

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

/// The initial balance of each account, and the most that one transfer moves.
const BALANCE: u64 = 1 << 40;
const MOST: u64 = 1 << 20;

/// The offset of the accounts of a server, each on a separate page. The movers' journals follow.
const BANK: u64 = ring::USED;
const PAGE: u64 = 4096;

/// Without the gate, a wrong order must be found within so many snapshots.
const WITHOUT_GATE: usize = 300;

fn account(server: usize, number: u64) -> u64 {
    assert!(BANK + (ACCOUNTS + MOVERS as u64) * PAGE <= K && number < ACCOUNTS);
    server as u64 * K + BANK + number * PAGE
}

/// Where a mover records the amount of its transfer.
fn journal(mover: usize) -> u64 {
    (mover % SERVERS) as u64 * K + BANK + (ACCOUNTS + mover as u64) * PAGE
}

/// Moves money from account to account until told to stop, each time in four steps: writes the
/// amount into the journal, subtracts it from an account, adds it to an account on another server,
/// and writes zero into the journal.
///
/// So at every instant the sum of the accounts is at most the initial sum, and at least that less
/// the amounts in the journals.
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

/// What is wrong with the money in a memory; None when the memory can be that of one instant.
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
        None => Some(format!("{} too much", has - had)),
        Some(missing) if missing > under_way => {
            Some(format!("{missing} are missing, {under_way} are under way"))
        }
        Some(_) => None,
    }
}

/// Takes snapshots under load, at most `most`, until the check of one fails. Returns how many there
/// were, and what was wrong with the last one.
fn take_snapshots(
    environment: support::agents::Environment<'_>,
    connect: fn(&Cluster) -> Client,
    most: usize,
) -> (usize, Vec<String>) {
    let _alone = support::one_at_a_time();
    // Other tests check the length of a freeze.
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

/// Stops the movers also when the test fails: otherwise it would wait for them forever.
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
fn every_snapshot_under_the_load_of_local_clients_is_one_instant() {
    let (taken, wrong) = take_snapshots(&[], local_client, count(25, 500));
    assert!(wrong.is_empty(), "snapshot {taken}: {wrong:?}");
}

#[test]
fn the_check_detects_cuts_one_by_one_under_the_load_of_local_clients() {
    let (taken, wrong) = take_snapshots(&[("DSM_TEST_GATE", "off")], local_client, WITHOUT_GATE);
    assert!(
        !wrong.is_empty(),
        "{taken} snapshots without the gate are in order: the check detects nothing"
    );
}

#[test]
fn the_check_detects_servers_that_are_cut_one_by_one() {
    let (taken, wrong) = take_snapshots(&[("DSM_TEST_GATE", "off")], client, WITHOUT_GATE);
    assert!(
        !wrong.is_empty(),
        "{taken} snapshots without the gate are in order: the check detects nothing"
    );
}
