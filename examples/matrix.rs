//! A matrix over all servers, filled by several processes: each row is on one server, each process
//! fills rows of every server.
//!
//! ```console
//! $ dsmctl fill 4194304 8 0                           # no process is done
//! $ cargo run --example matrix -- PROCESS PROCESSES   # PROCESS counts from 0
//! $ cargo run --example matrix -- 0 2                 # in one terminal
//! $ cargo run --example matrix -- 1 2                 # in another, or on another machine
//! ```
//!
//! The memory that it uses, of N servers with k bytes each (k at least 8 MiB); numbers are of 64
//! bits, little-endian:
//!
//! | address | bytes | what |
//! |---|---|---|
//! | 4194304 | 8 | bit p is 1 when process p has written all its rows; all zeros at first |
//! | (r mod N) x k + 4194304 + 4096 x (1 + r / N) | 4096 | row r, of 256 rows with 512 numbers each |
//!
//! The process that sets the last bit checks all numbers. One that was killed or got an error is
//! started again: it writes the same bytes and sets the same bit, so what it had done before does
//! no harm. All use the same mcomp.cfg (`DSM_CONFIG`).

use dsm_client::{Client, Config, Layout};

const OFFSET: u64 = 4 << 20;
const ROWS: u64 = 256;
const COLUMNS: u64 = 512;
const ROW_BYTES: u64 = 8 * COLUMNS;

/// Where a row is: they are dealt out to the servers, so that all of these work at the same time.
fn place(layout: &Layout, row: u64) -> Result<u64, String> {
    let n = layout.server_count() as u64;
    let offset = OFFSET + ROW_BYTES * (1 + row / n);
    let k = layout.share_size();
    if offset + ROW_BYTES > k {
        return Err(format!("row {row} does not fit: k is {k}, less than 8 MiB"));
    }
    Ok((row % n) * k + offset)
}

/// The bytes of a row; here its numbers count on from the row before.
fn numbers(row: u64) -> Vec<u8> {
    let numbers = row * COLUMNS..(row + 1) * COLUMNS;
    numbers.flat_map(u64::to_le_bytes).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let process = arguments.next().ok_or("say which process this is")?;
    let processes = arguments.next().ok_or("say how many processes there are")?;
    let (process, processes): (usize, usize) = (process.parse()?, processes.parse()?);
    if process >= processes || processes > 64 {
        return Err("there are at most 64 processes, and their numbers are from 0 on".into());
    }
    let client = Client::new(&Config::load(&Config::find(None))?);

    // A pipeline sends the rows from where they are: they stay there until each write has its reply.
    let own = (0..ROWS).skip(process).step_by(processes);
    let rows: Vec<(u64, Vec<u8>)> = own.map(|row| (row, numbers(row))).collect();
    let mut pipeline = client.pipeline();
    for (row, numbers) in &rows {
        pipeline.write(place(client.layout(), *row)?, numbers)?;
    }
    pipeline.try_for_each(|reply| reply.map(drop))?;

    // All its rows are in the memory before its bit is: between servers there is no other order.
    let done = client.fetch_or(OFFSET, 1 << process)? | 1 << process;
    println!("process {process} of {processes} wrote {} rows", rows.len());
    if done.count_ones() as usize == processes {
        for row in 0..ROWS {
            if client.read(place(client.layout(), row)?, ROW_BYTES)? != numbers(row) {
                return Err(format!("row {row} is not what was written").into());
            }
        }
        let n = client.layout().server_count();
        println!("all {ROWS} rows are there, on {n} servers");
    }
    Ok(())
}
