//! Measures the blocking calls of the library over TCP: of one thread, beside a bare loop on a
//! socket and the client of Redis; of threads that share a client, beside threads with a client
//! each; and the status of many servers.

use crate::bare::BareConnection;
use clap::ValueEnum;
use dsm_client::{Client, Layout};
use dsm_config::{Config, LocalAccess};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Calls between two readings of the clock.
const BATCH: u32 = 16;

/// The warm-up of a measurement lasts this fraction of it: one tenth.
const WARM_UP: u32 = 10;

/// The numbers of threads that share a client.
const THREADS: [usize; 2] = [2, 8];

/// The bytes of each kind of call.
const SIZES: [(&str, usize); 3] = [("8", 8), ("4k", 4 << 10), ("64k", 64 << 10)];

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LibraryCells {
    Calls,
    Threads,
    Status,
}

/// Measures one cell. Returns the seconds per call.
type LibraryTurn<'t> = (String, Box<dyn FnMut() -> Result<f64, String> + 't>);

/// Makes the clients of so many threads.
type MakeClients = fn(&Layout, usize) -> Vec<Client>;

/// Measures each cell in each round, in seconds per call.
pub(crate) fn measure(
    path: &Path,
    cells: LibraryCells,
    redis: Option<&str>,
    rounds: usize,
    window: Duration,
) -> Result<Value, String> {
    let layout = Config::load(path)
        .map_err(|error| error.to_string())?
        .layout;
    let mut turns = match cells {
        LibraryCells::Calls => {
            let mut turns = calls(&layout, window)?;
            if let Some(address) = redis {
                turns.extend(redis_calls(address, window).map_err(|error| error.to_string())?);
            }
            turns
        }
        LibraryCells::Threads => threads(&layout, window),
        LibraryCells::Status => status(&layout, window),
    };
    let mut found = Vec::new();
    for _ in 0..rounds {
        let mut round = Map::new();
        for (name, turn) in &mut turns {
            round.insert(name.clone(), turn()?.into());
        }
        // The order rotates, so that no measurement always follows the same one.
        turns.rotate_left(1);
        found.push(Value::from(round));
    }
    Ok(json!({ "rounds": found }))
}

/// A client that goes by TCP alone.
fn client(layout: &Layout) -> Client {
    Client::with_layout(layout.clone()).with_local(LocalAccess::Never)
}

fn calls(layout: &Layout, window: Duration) -> Result<Vec<LibraryTurn<'static>>, String> {
    let mut turns: Vec<LibraryTurn<'static>> = Vec::new();
    for (name, length) in SIZES {
        let client = client(layout);
        let writer = client.clone();
        let (mut buffer, data) = (vec![0; length], vec![1; length]);
        let (mut bare, mut bare_writer) =
            (BareConnection::open(layout)?, BareConnection::open(layout)?);
        let (mut bare_buffer, bare_data) = (buffer.clone(), data.clone());
        turns.push((
            format!("library r{name}"),
            Box::new(move || time(window, || client.read_into(0, &mut buffer))),
        ));
        turns.push((
            format!("bare r{name}"),
            Box::new(move || time(window, || bare.read(0, &mut bare_buffer))),
        ));
        turns.push((
            format!("library w{name}"),
            Box::new(move || time(window, || writer.write(0, &data))),
        ));
        turns.push((
            format!("bare w{name}"),
            Box::new(move || time(window, || bare_writer.write(0, &bare_data))),
        ));
    }
    Ok(turns)
}

/// The same with the blocking client of the crate `redis`: a key for each size, with a value of as
/// many bytes.
fn redis_calls(address: &str, window: Duration) -> redis::RedisResult<Vec<LibraryTurn<'static>>> {
    let server = redis::Client::open(format!("redis://{address}/"))?;
    let mut turns: Vec<LibraryTurn<'static>> = Vec::new();
    for (name, length) in SIZES {
        let (mut reader, mut writer) = (server.get_connection()?, server.get_connection()?);
        let data = vec![1_u8; length];
        let set = move |connection: &mut redis::Connection| {
            redis::cmd("SET").arg(name).arg(&data).exec(connection)
        };
        set(&mut writer)?;
        turns.push((
            format!("redis r{name}"),
            Box::new(move || {
                time(window, || {
                    let value: Vec<u8> = redis::cmd("GET").arg(name).query(&mut reader)?;
                    std::hint::black_box(value);
                    redis::RedisResult::Ok(())
                })
            }),
        ));
        turns.push((
            format!("redis w{name}"),
            Box::new(move || time(window, || set(&mut writer))),
        ));
    }
    Ok(turns)
}

/// Each turn has new clients: the processors that connections of earlier turns settled on would
/// decide its speed.
fn threads(layout: &Layout, window: Duration) -> Vec<LibraryTurn<'static>> {
    // Clones of one client share its connections.
    let shared: MakeClients = |layout, number| vec![client(layout); number];
    let own: MakeClients = |layout, number| (0..number).map(|_| client(layout)).collect();
    let mut turns: Vec<LibraryTurn<'static>> = Vec::new();
    for number in THREADS {
        for (name, make) in [("shared", shared), ("own", own)] {
            let layout = layout.clone();
            turns.push((
                format!("{name} {number}"),
                Box::new(move || time_threads(&make(&layout, number), window)),
            ));
        }
    }
    turns
}

fn status(layout: &Layout, window: Duration) -> Vec<LibraryTurn<'static>> {
    let (one, all) = (client(layout), client(layout));
    let count = layout.server_count();
    vec![
        (
            "status of one".to_owned(),
            Box::new(move || time(window, || one.status(0).map(drop))),
        ),
        (
            format!("status of {count}"),
            Box::new(move || {
                time(window, || {
                    all.status_of_all()
                        .into_iter()
                        .try_for_each(|one| one.map(drop))
                })
            }),
        ),
    ]
}

/// Repeats `step` for the time of `window`, after a warm-up. Returns the seconds per step.
fn time<E: ToString>(
    window: Duration,
    mut step: impl FnMut() -> Result<(), E>,
) -> Result<f64, String> {
    let mut run = |window: Duration| {
        let (begin, mut count) = (Instant::now(), 0.0);
        loop {
            for _ in 0..BATCH {
                step().map_err(|error| error.to_string())?;
            }
            count += f64::from(BATCH);
            let elapsed = begin.elapsed();
            if elapsed >= window {
                return Ok(elapsed.as_secs_f64() / count);
            }
        }
    };
    run(window / WARM_UP)?;
    run(window)
}

/// Reads 8 bytes in a thread for each client, for the time of `window` after a warm-up. Returns the
/// seconds per read of all threads together.
fn time_threads(clients: &[Client], window: Duration) -> Result<f64, String> {
    let (ready, end) = (Barrier::new(clients.len() + 1), AtomicBool::new(false));
    let total = AtomicU64::new(0);
    let read = |number: usize, client: &Client| {
        let mut buffer = [0; 8];
        // A page for each thread.
        let address = number as u64 * 4096;
        let warm_up = time(window / WARM_UP, || client.read_into(address, &mut buffer));
        ready.wait();
        warm_up?;
        let mut count = 0;
        while !end.load(Ordering::Relaxed) {
            client
                .read_into(address, &mut buffer)
                .map_err(|error| error.to_string())?;
            count += 1;
        }
        total.fetch_add(count, Ordering::Relaxed);
        Ok::<(), String>(())
    };
    std::thread::scope(|scope| {
        let started: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let read = &read;
                scope.spawn(move || read(number, client))
            })
            .collect();
        ready.wait();
        let started_at = Instant::now();
        std::thread::sleep(window);
        end.store(true, Ordering::Relaxed);
        let elapsed = started_at.elapsed();
        for thread in started {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok::<_, String>(elapsed)
    })
    .map(|elapsed| {
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let calls = total.load(Ordering::Relaxed) as f64;
        elapsed.as_secs_f64() / calls
    })
}
