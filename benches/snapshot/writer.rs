//! The writers: each is a thread that sends one request at a time and measures its latency.

use crate::target::{BenchTarget, TargetConnection, UNIT};
use dsm_service::cli::random::SplitMix64;
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of one write. Its address is a multiple of this.
const WRITE: usize = 64;

/// The maximum number of samples of one writer in a window, which take 384 MiB. A window with more
/// is an error.
const MAX_SAMPLES: usize = 16 << 20;

/// The number of samples that a writer's first window holds without allocating memory.
const INITIAL_SAMPLES: usize = 1 << 20;

/// How long a writer may take to deliver its window: longer than the timeout of a request.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(90);

/// A request: its start and its latency.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) begin: u64,
    /// The time from the start of sending to the end of the reply.
    pub(crate) nanoseconds: u64,
    /// The number of the writer.
    pub(crate) connection: usize,
}

type WindowSamples = Result<Vec<Sample>, String>;

/// The running writers. Dropping this ends them.
pub(crate) struct Writers {
    control: Arc<Control>,
    windows: Receiver<WindowSamples>,
    threads: Vec<JoinHandle<()>>,
    from: u64,
}

#[derive(Default)]
struct Control {
    /// The number of the open window; 0: none.
    window: AtomicU64,
    /// The number of the last window that was opened.
    last: AtomicU64,
    stop: AtomicBool,
}

/// The time, in nanoseconds of `CLOCK_MONOTONIC`.
fn now() -> Result<u64, String> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_err(|error| format!("CLOCK_MONOTONIC: {error}"))?;
    u64::try_from(Duration::from(time).as_nanos())
        .map_err(|_| "CLOCK_MONOTONIC is above 584 years".into())
}

impl Writers {
    /// Starts the writers. Each has written once when this returns.
    pub(crate) fn start(
        target: &BenchTarget,
        connections: usize,
        rate: Option<u32>,
    ) -> Result<Self, String> {
        let control = Arc::new(Control::default());
        let (sender, windows) = channel();
        let mut threads = Vec::new();
        for number in 0..connections {
            let mut writer = BenchWriter::new(target, number, rate)?;
            writer.write()?;
            let (control, sender) = (Arc::clone(&control), sender.clone());
            threads.push(std::thread::spawn(move || writer.run(&control, &sender)));
        }
        Ok(Self {
            control,
            windows,
            threads,
            from: 0,
        })
    }

    /// Opens a window and returns the time.
    pub(crate) fn begin(&mut self) -> Result<u64, String> {
        self.from = now()?;
        self.control.window.store(
            self.control.last.fetch_add(1, Ordering::Relaxed) + 1,
            Ordering::Release,
        );
        Ok(self.from)
    }

    /// Closes the window. Returns its start, its end, and the requests that began in it, after the
    /// last of them has ended.
    pub(crate) fn end(&mut self) -> Result<(u64, u64, Vec<Sample>), String> {
        let to = now()?;
        self.control.window.store(0, Ordering::Release);
        let mut samples = Vec::new();
        for _ in &self.threads {
            let window = self.windows.recv_timeout(WINDOW_TIMEOUT);
            samples.extend(window.map_err(|_| {
                "a writer does not end its request, or no window is open".to_owned()
            })??);
        }
        Ok((self.from, to, samples))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // The thread has already sent its error.
            let _ = thread.join();
        }
    }
}

struct BenchWriter {
    number: usize,
    connection: TargetConnection,
    random: SplitMix64,
    first: u64,
    /// The number of addresses that it writes to.
    slots: u64,
    /// The time between the starts of two requests.
    interval: Option<Duration>,
}

impl BenchWriter {
    fn new(target: &BenchTarget, number: usize, rate: Option<u32>) -> Result<Self, String> {
        let range = target.range(number);
        let slots = (range.end - range.start) / WRITE as u64;
        if slots == 0 {
            return Err(format!(
                "the memory of writer {number} has less than {WRITE} bytes"
            ));
        }
        Ok(Self {
            number,
            connection: target.connect()?,
            random: SplitMix64::new(number as u64),
            first: range.start,
            slots,
            interval: rate.map(|rate| Duration::from_secs(1) / rate.max(1)),
        })
    }

    fn run(mut self, control: &Control, sender: &Sender<WindowSamples>) {
        if let Err(message) = self.work(control, sender) {
            // The send fails after the main thread has ended with the error of another writer.
            let _ = sender.send(Err(message));
        }
    }

    fn work(&mut self, control: &Control, sender: &Sender<WindowSamples>) -> Result<(), String> {
        let mut samples = Vec::with_capacity(INITIAL_SAMPLES);
        let mut recording = 0;
        let mut due = now()?;
        while !control.stop.load(Ordering::Relaxed) {
            let window = control.window.load(Ordering::Acquire);
            if window != recording {
                if recording != 0 && sender.send(Ok(std::mem::take(&mut samples))).is_err() {
                    return Ok(());
                }
                recording = window;
            }
            if let Some(interval) = self.interval {
                // A late writer sends without a pause until it is on schedule again.
                std::thread::sleep(Duration::from_nanos(due.saturating_sub(now()?)));
                due += u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
            }
            let sample = self.write()?;
            if recording != 0 {
                if samples.len() == MAX_SAMPLES {
                    return Err(format!(
                        "a window has more than {MAX_SAMPLES} requests of one writer: end it sooner"
                    ));
                }
                samples.push(sample);
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<Sample, String> {
        let address = self.first + self.random.next() % self.slots * WRITE as u64;
        let mut data = [0; WRITE];
        self.random.fill(&mut data);
        let begin = now()?;
        self.connection.write(address, &data)?;
        Ok(Sample {
            begin,
            nanoseconds: now()? - begin,
            connection: self.number,
        })
    }
}

/// Writes random bytes to the whole memory, with one thread per part.
pub(crate) fn fill(target: &BenchTarget) -> Result<(), String> {
    std::thread::scope(|scope| {
        let fill_part = |part| {
            let mut connection = target.connect()?;
            let mut random = SplitMix64::new(part as u64);
            let mut data = vec![0; usize::try_from(UNIT).map_err(|error| error.to_string())?];
            let range = target.range(part);
            let mut address = range.start;
            while address < range.end {
                // Up to the next multiple of `UNIT`.
                let length = (UNIT - address % UNIT).min(range.end - address);
                let data =
                    &mut data[..usize::try_from(length).map_err(|error| error.to_string())?];
                random.fill(data);
                connection.write(address, data)?;
                address += length;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..target.parts())
            .map(|part| scope.spawn(move || fill_part(part)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    })
}
