//! The writers: a thread each, one request after the other, each request timed.

use crate::target::{Connection, Target, UNIT};
use dsm_service::cli::random::Random;
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of one write, which stands at a multiple of them.
const WRITE: usize = 64;

/// The most requests of one writer in a window, 384 MiB of them: a window that has more is an
/// error.
const MAX_SAMPLES: usize = 16 << 20;

/// Requests of one writer that its first window has room for without asking for memory.
const LIKELY_SAMPLES: usize = 1 << 20;

/// How long a writer may take to hand in its window: longer than a request may take.
const HAND_IN: Duration = Duration::from_secs(90);

/// A request: when it began, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) begin: u64,
    /// From before it was sent until its reply was read.
    pub(crate) nanoseconds: u64,
    /// The number of the writer.
    pub(crate) connection: usize,
}

type Window = Result<Vec<Sample>, String>;

/// Writers under way. Dropping them ends them.
pub(crate) struct Writers {
    control: Arc<Control>,
    windows: Receiver<Window>,
    threads: Vec<JoinHandle<()>>,
    from: u64,
}

#[derive(Default)]
struct Control {
    /// The window that requests are recorded for; 0: none.
    window: AtomicU64,
    last: AtomicU64,
    stop: AtomicBool,
}

/// The time, in nanoseconds of `CLOCK_MONOTONIC`.
fn now() -> Result<u64, String> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_err(|error| format!("CLOCK_MONOTONIC: {error}"))?;
    u64::try_from(Duration::from(time).as_nanos())
        .map_err(|_| "CLOCK_MONOTONIC is beyond 584 years".into())
}

impl Writers {
    /// Starts them and waits until each has written once.
    pub(crate) fn start(
        target: &Target,
        connections: usize,
        rate: Option<u32>,
    ) -> Result<Self, String> {
        let control = Arc::new(Control::default());
        let (sender, windows) = channel();
        let mut threads = Vec::new();
        for number in 0..connections {
            let mut writer = Writer::new(target, number, rate)?;
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

    /// Opens a window; returns the time.
    pub(crate) fn begin(&mut self) -> Result<u64, String> {
        self.from = now()?;
        self.control.window.store(
            self.control.last.fetch_add(1, Ordering::Relaxed) + 1,
            Ordering::Release,
        );
        Ok(self.from)
    }

    /// Closes the window; returns its begin, its end, and the requests that began in it, to the end
    /// of the last one.
    pub(crate) fn end(&mut self) -> Result<(u64, u64, Vec<Sample>), String> {
        let to = now()?;
        self.control.window.store(0, Ordering::Release);
        let mut samples = Vec::new();
        for _ in &self.threads {
            let window = self.windows.recv_timeout(HAND_IN);
            samples
                .extend(window.map_err(|_| "a writer hangs, or no window was begun".to_owned())??);
        }
        Ok((self.from, to, samples))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has told its error already.
            let _ = thread.join();
        }
    }
}

struct Writer {
    number: usize,
    connection: Connection,
    random: Random,
    first: u64,
    places: u64,
    pause: Option<Duration>,
}

impl Writer {
    fn new(target: &Target, number: usize, rate: Option<u32>) -> Result<Self, String> {
        let range = target.range(number);
        let places = (range.end - range.start) / WRITE as u64;
        if places == 0 {
            return Err(format!("there are no {WRITE} bytes to write to"));
        }
        Ok(Self {
            number,
            connection: target.connect()?,
            random: Random::new(number as u64),
            first: range.start,
            places,
            pause: rate.map(|rate| Duration::from_secs(1) / rate.max(1)),
        })
    }

    fn run(mut self, control: &Control, sender: &Sender<Window>) {
        if let Err(message) = self.work(control, sender) {
            // Nobody listens any more when the others have failed too.
            let _ = sender.send(Err(message));
        }
    }

    fn work(&mut self, control: &Control, sender: &Sender<Window>) -> Result<(), String> {
        let mut samples = Vec::with_capacity(LIKELY_SAMPLES);
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
            if let Some(pause) = self.pause {
                // When it is late, it catches up.
                std::thread::sleep(Duration::from_nanos(due.saturating_sub(now()?)));
                due += u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
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
        let address = self.first + self.random.next() % self.places * WRITE as u64;
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

/// Writes random bytes everywhere: a thread for each part.
pub(crate) fn fill(target: &Target) -> Result<(), String> {
    std::thread::scope(|scope| {
        let fill_part = |part| {
            let mut connection = target.connect()?;
            let mut random = Random::new(part as u64);
            let mut data = vec![0; usize::try_from(UNIT).map_err(|error| error.to_string())?];
            let range = target.range(part);
            let mut address = range.start;
            while address < range.end {
                // Up to the next multiple of the unit.
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
