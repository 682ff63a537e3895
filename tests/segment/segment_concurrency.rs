//! Many threads read and write the same pages; no reader sees half of a write.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::PAGE;
use dsm_core::protocol::{AtomicOperation, Extent, Word};
use dsm_core::segment::Segment;
use std::sync::atomic::{AtomicBool, Ordering};
use support::counts::count;
use support::segment::TestMemoryName;

const K: u64 = 64 * PAGE;

fn with_segment(what: &str, body: impl FnOnce(&Segment)) {
    body(&TestMemoryName::new(what).serve(K));
}

#[test]
fn no_reader_sees_half_of_a_write_however_many_pages_it_spans() {
    with_segment("torn", |segment| {
        // A reader that does not check the versions twice fails only after some tens of thousands
        // of races.
        let rounds: u32 = count(60_000, 600_000);
        let done = AtomicBool::new(false);
        let reads = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2_u8)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut worker = segment.worker().unwrap();
                        let extent = Extent::new(3 * PAGE - 40, 5 * PAGE + 77, K).unwrap();
                        for round in 0..rounds {
                            let byte = u8::try_from(round % 100).unwrap() * 2 + writer;
                            if round % 3 == 0 {
                                worker.fill(extent, byte, None).unwrap();
                            } else {
                                worker
                                    .write(extent, &vec![byte; extent.length()], None)
                                    .unwrap();
                            }
                        }
                    })
                })
                .collect();
            let readers: Vec<_> = [8, 5 * PAGE, PAGE + 9]
                .map(|length| {
                    let done = &done;
                    scope.spawn(move || {
                        let mut worker = segment.worker().unwrap();
                        let extent = Extent::new(3 * PAGE - 12, length, K).unwrap();
                        let mut bytes = vec![0; extent.length()];
                        let mut reads = 0_u64;
                        while !done.load(Ordering::Relaxed) {
                            worker.read(extent, &mut bytes).unwrap();
                            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn read");
                            reads += 1;
                        }
                        reads
                    })
                })
                .into();
            writers
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Relaxed);
            readers
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<u64>()
        });
        println!("{reads} reads during {} writes", 2 * rounds);
        assert!(reads > 0);
    });
}

#[test]
fn no_add_is_lost_between_threads() {
    with_segment("add", |segment| {
        let word = Word::new(PAGE, K).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut worker = segment.worker().unwrap();
                    for _ in 0..10_000 {
                        worker.atomic(word, AtomicOperation::Add(3), None).unwrap();
                    }
                });
            }
        });
        let old = segment
            .worker()
            .unwrap()
            .atomic(word, AtomicOperation::Swap(0), None)
            .unwrap();
        assert_eq!(old, 8 * 10_000 * 3);
    });
}

#[test]
fn a_copy_inside_the_segment_may_overlap_itself() {
    with_segment("copy", |segment| {
        let mut worker = segment.worker().unwrap();
        let data: Vec<u8> = (0..100_000_u32)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let extent = |offset| Extent::new(offset, 100_000, K).unwrap();
        worker.write(extent(10), &data, None).unwrap();
        for (from, to) in [(10, 5000), (5000, 4999), (4999, 10)] {
            worker.copy(extent(from), extent(to), None).unwrap();
            let mut bytes = vec![0; data.len()];
            worker.read(extent(to), &mut bytes).unwrap();
            assert!(bytes == data, "{from} to {to}");
        }
    });
}

#[test]
fn the_number_of_workers_is_bounded_and_dropped_ones_are_reused() {
    with_segment("workers", |segment| {
        let workers: Vec<_> = std::iter::from_fn(|| segment.worker().ok()).collect();
        assert!(
            segment
                .worker()
                .err()
                .unwrap()
                .to_string()
                .contains("the most it can have")
        );
        drop(workers);
        assert!(segment.worker().is_ok());
    });
}
