//! A lock whose holder may be killed: the next process takes it over and repairs what is half done.
//!
//! ```console
//! $ dsmctl fill 5242880 4096 0                             # a lock that is free
//! $ cargo run --example lock -- 100 0                      # 100 rounds, 0 ms between the two writes; start it several times
//! $ timeout -s KILL 3 target/debug/examples/lock 1 60000   # is killed while it holds the lock; then the line above again
//! ```
//!
//! The memory from address 5242880 on, in 64-bit words, little-endian: at offset 0 the token of the
//! holder, 0 when the lock is free; at 8 the last token; at 16 the counter `left`. On the last
//! server, at 5242880 + 24 + (N - 1) x k, the counter `right`. Both are equal while the lock is
//! free. No single request can change both: they may be on two servers.
//!
//! A holder that does not release the lock within LEASE loses it. It therefore begins no write
//! after half of that, and no request of it takes longer than a quarter. Choose a LEASE longer than
//! any stop of a process, or of dsmd, before a write: no lease can exclude one. Use one mcomp.cfg.

use dsm_client::{Client, CompareAndSwap, Config};
use std::{error::Error, thread::sleep, time::Duration, time::Instant};

const LOCK: u64 = 5 << 20;
const FREE: u64 = 0;
const LEASE: Duration = Duration::from_secs(4);

/// Makes `new` the holder if `expected` is; returns the holder before.
fn replace(client: &Client, expected: u64, new: u64) -> Result<u64, dsm_client::Error> {
    client.compare_and_swap(LOCK, CompareAndSwap { expected, new })
}

/// Takes the lock; returns the token of this holder, and the time from which on its lease counts.
fn lock(client: &Client) -> Result<(u64, Instant), dsm_client::Error> {
    let token = client.fetch_add(LOCK + 8, 1)? + 1; // No two holders have the same, and none has 0.
    let (mut seen, mut seen_since) = (FREE, Instant::now());
    loop {
        let is_dead = seen_since.elapsed() > LEASE; // It held the lock for longer than its lease.
        let (expected, start) = (if is_dead { seen } else { FREE }, Instant::now());
        match replace(client, expected, token)? {
            holder if holder == expected => return Ok((token, start)),
            holder if holder != seen => (seen, seen_since) = (holder, start),
            _ => sleep(Duration::from_millis(10)),
        }
    }
}

fn read(client: &Client, address: u64) -> Result<u64, dsm_client::Error> {
    client.fetch_add(address, 0) // Adds nothing, and returns the word.
}

fn write(client: &Client, start: Instant, address: u64, value: u64) -> Result<(), Box<dyn Error>> {
    if start.elapsed() > LEASE / 2 {
        return Err("the lock was held for too long: the next holder repairs".into());
    }
    Ok(client.write(address, &value.to_le_bytes())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: u64 = arguments.next().ok_or("say how many rounds")?.parse()?;
    let pause = Duration::from_millis(arguments.next().ok_or("say how long to pause")?.parse()?);
    let client = Client::new(&Config::load(&Config::find(None))?).with_timeout(LEASE / 4);
    let left = LOCK + 16; // On the first server.
    let right = LOCK + 24 + client.size() - client.layout().share_size(); // On the last one.
    for _ in 0..rounds {
        let (token, start) = lock(&client)?;
        let value = read(&client, left)?;
        if read(&client, right)? != value {
            println!("a holder died between its writes: right becomes {value}");
            write(&client, start, right, value)?;
        }
        write(&client, start, left, value + 1)?;
        sleep(pause);
        write(&client, start, right, value + 1)?;
        if replace(&client, token, FREE)? != token {
            return Err("the lock was lost while it was held".into());
        }
    }
    println!("left is {}", read(&client, left)?);
    Ok(())
}
