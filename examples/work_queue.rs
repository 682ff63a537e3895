//! A work queue: any number of processes take tasks with fetch-add, and put each result where all
//! of them can read it.
//!
//! ```console
//! $ dsmctl fill 2097152 8008 0                          # a queue that nothing was taken from
//! $ cargo run --example work_queue -- ADDRESS TASKS
//! $ cargo run --example work_queue -- 2097152 1000      # the same as without arguments; start it several times
//! ```
//!
//! The memory from ADDRESS on, in bytes and a multiple of 8, in 64-bit words, little-endian, all
//! zeros at first:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | the number of the next task: the process that adds 1 to it takes this task |
//! | 8 | 8 x TASKS | the result of each task; 0: there is none yet |
//!
//! A process that is killed, or a fetch-add whose outcome is unknown, leaves a task that was taken
//! and has no result. So each process looks at the end for results that are missing, and does those
//! tasks. Some are then done twice, by two processes, which does no harm: a result depends on
//! nothing but the number of the task. All use the same mcomp.cfg (`DSM_CONFIG`).

use dsm_client::{Client, Config};

/// Where the queue is unless an argument says otherwise.
const ADDRESS: u64 = 2 << 20;

/// How many tasks it has unless an argument says otherwise.
const TASKS: u64 = 1000;

/// Bytes of a word.
const WORD: u64 = 8;

/// The work: the length of the Collatz sequence from `task + 2` down to 1. At least 1, so that 0
/// can mean "no result".
fn work(task: u64) -> u64 {
    let (mut value, mut steps) = (task + 2, 0);
    while value != 1 {
        let is_even = value.is_multiple_of(2);
        value = if is_even { value / 2 } else { 3 * value + 1 };
        steps += 1;
    }
    steps
}

/// Does a task, and writes its result.
fn complete(client: &Client, address: u64, task: u64) -> Result<(), dsm_client::Error> {
    client.write(address + WORD * (1 + task), &work(task).to_le_bytes())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().map_or(Ok(ADDRESS), |text| text.parse())?;
    let tasks: u64 = arguments.next().map_or(Ok(TASKS), |text| text.parse())?;
    let client = Client::new(&Config::load(&Config::find(None))?);

    let mut taken = 0;
    loop {
        let task = client.fetch_add(address, 1)?;
        if task >= tasks {
            break;
        }
        complete(&client, address, task)?;
        taken += 1;
    }

    // A word is never seen half written; the words of a long read may be of different instants.
    let results = client.read(address + WORD, WORD * tasks)?;
    let mut missing = 0;
    for (task, result) in (0..).zip(results.chunks_exact(8)) {
        if result == [0; 8] {
            complete(&client, address, task)?;
            missing += 1;
        }
    }
    println!("took {taken} of {tasks} tasks, and did {missing} without a result: all are done");
    Ok(())
}
