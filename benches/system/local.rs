//! Measures one thread that uses a server on its host: in the server's shared memory, and over TCP.
//! The baseline is plain memory of the same size, which is mapped in the same way.

use crate::contents;
use dsm_benches::pattern::{BytePattern, MAX_SIZE};
use dsm_client::Client;
use dsm_client::DataPath;
use dsm_config::{Config, LocalAccess};
use dsm_core::sys::mapping::Mapping;
use dsm_core::sys::region::Region;
use dsm_service::cli::random::SplitMix64;
use nix::fcntl::posix_fallocate;
use serde_json::{Map, Value, json};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The size of a cache line: two accesses of the chain are at least this many bytes apart.
const LINE: usize = 64;

/// Requests between two readings of the clock.
const BATCH: u32 = 64;

/// The warm-up of a measurement lasts this fraction of it: one tenth.
const WARM_UP: u32 = 10;

struct LocalBench {
    local: Client,
    tcp: Client,
    /// Plain memory of the size of the server's. Each cache line has the offset of the next one:
    /// together they are one cycle in random order.
    chain: Region,
    place: usize,
    random: SplitMix64,
    buffer: Vec<u8>,
    window: Duration,
}

/// Measures one kind of access. Returns the seconds per access.
type BenchTurn = fn(&mut LocalBench) -> Result<f64, String>;

const TURNS: [(&str, BenchTurn); 8] = [
    ("access", LocalBench::access),
    ("read 8", |bench| bench.read(DataPath::Local, 8, BATCH)),
    ("write 8", |bench| bench.write_8(DataPath::Local)),
    ("read 1m", |bench| bench.read(DataPath::Local, MAX_SIZE, 1)),
    ("memcpy 1m", LocalBench::copy),
    ("tcp read 8", |bench| bench.read(DataPath::Tcp, 8, BATCH)),
    ("tcp write 8", |bench| bench.write_8(DataPath::Tcp)),
    ("tcp read 1m", |bench| {
        bench.read(DataPath::Tcp, MAX_SIZE, 1)
    }),
];

/// Measures each kind of access in each round, in seconds per access. `object` is a new file in
/// /dev/shm, which this unlinks.
pub(crate) fn measure(
    path: &Path,
    object: &Path,
    rounds: usize,
    window: Duration,
) -> Result<Value, String> {
    let config = Config::load(path).map_err(|error| error.to_string())?;
    let local = Client::new(&config).with_local(LocalAccess::Auto);
    let tcp = local.clone().with_local(LocalAccess::Never);
    if local.data_path(0) != Ok(DataPath::Local) {
        return Err(
            "the server does not share its memory with this process: run both as the same user"
                .to_owned(),
        );
    }
    let pattern = BytePattern::new(1);
    contents::fill(&local, &pattern)?;
    contents::verify(&tcp, &pattern)?;
    let size = usize::try_from(local.size()).map_err(|error| error.to_string())?;
    let chain =
        mapped_cycle(object, size).map_err(|error| format!("{}: {error}", object.display()))?;
    let random = SplitMix64::new(1);
    let mut bench = LocalBench {
        local,
        tcp,
        chain,
        place: 0,
        random,
        buffer: vec![0; MAX_SIZE],
        window,
    };
    let mut found = Vec::new();
    for number in 0..rounds {
        let mut round = Map::new();
        for turn in 0..TURNS.len() {
            // The order rotates, so that no measurement always follows the same one.
            let (name, turn) = TURNS[(turn + number) % TURNS.len()];
            round.insert(name.to_owned(), turn(&mut bench)?.into());
        }
        found.push(Value::from(round));
    }
    Ok(json!({ "rounds": found }))
}

/// Maps the cycle. Every page of it is written, and so allocated.
fn mapped_cycle(path: &Path, size: usize) -> std::io::Result<Region> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    // The mapping does not need the name.
    std::fs::remove_file(path)?;
    posix_fallocate(&file, 0, i64::try_from(size).unwrap_or(i64::MAX))?;
    let length = NonZeroUsize::new(size).ok_or(std::io::ErrorKind::InvalidInput)?;
    let chain = Arc::new(Mapping::new(&file, length)?).region(0..size);
    // Sattolo's shuffle gives a single cycle: an access returns to a line only after all others.
    let mut next: Vec<usize> = (0..size / LINE).map(|line| line * LINE).collect();
    let mut random = SplitMix64::new(2);
    for last in (1..next.len()).rev() {
        // The result is below `last`, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        next.swap(last, random.below(last as u64) as usize);
    }
    for (line, next) in next.into_iter().enumerate() {
        chain
            .word(line * LINE)
            .store(next as u64, Ordering::Relaxed);
    }
    Ok(chain)
}

impl LocalBench {
    fn client(&self, path: DataPath) -> Client {
        if path == DataPath::Local {
            self.local.clone()
        } else {
            self.tcp.clone()
        }
    }

    /// Measures dependent loads: each address is the result of the previous load.
    #[allow(clippy::cast_possible_truncation)] // an offset
    fn access(&mut self) -> Result<f64, String> {
        let Self {
            chain,
            place,
            window,
            ..
        } = self;
        let found = time(*window, BATCH, || {
            *place = chain.word(*place).load(Ordering::Relaxed) as usize;
            Ok(())
        });
        black_box(*place);
        found
    }

    fn copy(&mut self) -> Result<f64, String> {
        let Self {
            chain,
            random,
            buffer,
            window,
            ..
        } = self;
        time(*window, 1, || {
            chain.copy_out(offset(random, chain.length(), buffer.len()), buffer);
            black_box(&buffer);
            Ok(())
        })
    }

    fn read(&mut self, path: DataPath, length: usize, batch: u32) -> Result<f64, String> {
        let client = self.client(path);
        let Self {
            chain,
            random,
            buffer,
            window,
            ..
        } = self;
        let buffer = &mut buffer[..length];
        time(*window, batch, || {
            let address = offset(random, chain.length(), length) as u64;
            client
                .read_into(address, black_box(&mut *buffer))
                .map_err(|error| error.to_string())
        })
    }

    fn write_8(&mut self, path: DataPath) -> Result<f64, String> {
        let client = self.client(path);
        let Self {
            chain,
            random,
            window,
            ..
        } = self;
        time(*window, BATCH, || {
            let address = offset(random, chain.length(), 8) as u64;
            client
                .write(address, &address.to_le_bytes())
                .map_err(|error| error.to_string())
        })
    }
}

/// A random offset of `length` bytes, aligned to a cache line, or to `length` if that is less.
#[inline]
#[allow(clippy::cast_possible_truncation)] // below the size, a usize
fn offset(random: &mut SplitMix64, size: usize, length: usize) -> usize {
    let stride = length.min(LINE);
    random.below(((size - length) / stride + 1) as u64) as usize * stride
}

/// Repeats `step` for the time of `window`, after a warm-up. Returns the seconds per step.
fn time(
    window: Duration,
    batch: u32,
    mut step: impl FnMut() -> Result<(), String>,
) -> Result<f64, String> {
    let mut run = |window: Duration| {
        let (begin, mut count) = (Instant::now(), 0.0);
        loop {
            for _ in 0..batch {
                step()?;
            }
            count += f64::from(batch);
            let elapsed = begin.elapsed();
            if elapsed >= window {
                return Ok(elapsed.as_secs_f64() / count);
            }
        }
    };
    run(window / WARM_UP)?;
    run(window)
}
