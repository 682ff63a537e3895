//! A pipe through the memory: one producer fills a ring buffer, and one consumer empties it.
//!
//! ```console
//! $ dsmctl fill 3145728 69632 0                        # an empty ring
//! $ cargo run --example ring_buffer take > copy        # on one machine
//! $ cargo run --example ring_buffer put < file         # on another, before or after; then cmp file copy
//! ```
//!
//! The memory from address 3145728 on; numbers are of 64 bits, little-endian; all zeros at first:
//!
//! | offset | bytes | what | written by |
//! |---|---|---|---|
//! | 0 | 8 | the number of the last item that was taken | the consumer |
//! | 4096 x (1 + i mod 16) | 4096 | item i, from 1 on: i, the length of its data, the data; length 0: the end | the producer |
//!
//! An item is on one server, and is written as one step. A write whose outcome is unknown may still
//! come later, over a newer item: neither side repeats it, but ends with the error. A consumer may
//! be started again: what it printed and did not mark as taken comes twice. A producer needs an
//! empty ring. Both use the same mcomp.cfg (`DSM_CONFIG`).

use dsm_client::{Client, Config};
use std::{error::Error, io::Read, io::Write, thread::sleep, time::Duration};

const RING: u64 = 3 << 20;
const SLOTS: u64 = 16;
const PAGE: usize = 4096;

fn slot(number: u64) -> u64 {
    RING + PAGE as u64 * (1 + number % SLOTS)
}

/// Reads the number at an address again and again until it is `ready`.
fn wait(client: &Client, at: u64, ready: impl Fn(u64) -> bool) -> Result<u64, dsm_client::Error> {
    let mut word = [0; 8];
    client.read_into(at, &mut word)?;
    while !ready(u64::from_le_bytes(word)) {
        sleep(Duration::from_millis(1));
        client.read_into(at, &mut word)?;
    }
    Ok(u64::from_le_bytes(word))
}

fn put(client: &Client) -> Result<(), Box<dyn Error>> {
    if client.read(RING, 69_632)?.iter().any(|byte| *byte != 0) {
        return Err("the ring was used: fill it with zeros, and start the consumer again".into());
    }
    let (mut number, mut length) = (0, 1);
    while length > 0 {
        number += 1;
        wait(client, RING, |taken| number - taken <= SLOTS)?;
        let mut item = [0; PAGE];
        length = std::io::stdin().read(&mut item[16..])?;
        item[..16].copy_from_slice(&[number, length as u64].map(u64::to_le_bytes).concat());
        client.write(slot(number), &item[..16 + length])?;
    }
    Ok(())
}

fn take(client: &Client) -> Result<(), Box<dyn Error>> {
    let (mut number, mut length) = (wait(client, RING, |_| true)?, 1);
    while length > 0 {
        number += 1;
        wait(client, slot(number), |found| found == number)?;
        length = wait(client, slot(number) + 8, |_| true)?;
        std::io::stdout().write_all(&client.read(slot(number) + 16, length)?)?;
        std::io::stdout().flush()?;
        client.write(RING, &number.to_le_bytes())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::new(&Config::load(&Config::find(None))?);
    match std::env::args().nth(1).as_deref() {
        Some("put") => put(&client),
        Some("take") => take(&client),
        _ => Err("say put or take".into()),
    }
}
