//! The agent's part of a snapshot: sends the pages of a cut as frames, and ends the cut.

use super::master_handler::{HandlerError, MasterHandler};
use super::restore::check_in_use;
use dsm_config::{Compression, CompressionLevel};
use dsm_core::layout::PAGE;
use dsm_core::net::Stream;
use dsm_core::segment::{CUT_RUN, Cut, CutEnded, CutPages, Page, Segment, SnapshotLock};
use dsm_core::sys::priority;
use dsm_snapshot::agent_protocol::{AgentRequest, AgentResponse, RefusalReason, send_frame};
use dsm_snapshot::phase::{self, SnapshotPhase};
use dsm_snapshot::{FrameEncoder, Header, HeaderFields};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The nice value of the thread that sends a cut: lower priority than the writers, which waited for
/// the freeze and must not wait again for a processor. A higher value makes writers wait longer:
/// the thread frees saved pages under a kernel lock that a writer needs to save the next page, and
/// a thread with a high nice value is preempted while it holds the lock (on a busy machine, a
/// writer waited 40 ms at 10, and 260 ms at 19).
const NICE: i32 = 3;

impl MasterHandler<'_> {
    /// Answers that the cut was made, waits until the master asks for the pages, and sends them.
    /// Ends the cut, also after an error.
    pub(super) fn send_cut(
        &mut self,
        lock: &mut SnapshotLock,
        cut: Cut,
        pause: Duration,
        id: &str,
    ) -> Result<(), HandlerError> {
        phase::reached(SnapshotPhase::Cut);
        let segment = lock.segment();
        let done = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let allocator = scope.spawn(|| segment.allocate_copies(cut, &done));
            let sent = self.send_frames(&segment, cut, pause);
            done.store(true, Ordering::Relaxed);
            allocator.thread().unpark();
            sent
        });
        let copied = lock.end_cut(cut).map_err(HandlerError::failed)?;
        let bytes = sent?;
        check_in_use(&segment)?;
        if self.agent.served.allows() {
            log::info!(
                DSM_SNAPSHOT = id, DSM_SERVER = self.agent.index, DSM_PAUSE_US = micros(pause), DSM_PAGES_COPIED = copied,
                DSM_STORED_BYTES = bytes;
                "sent server {} to the master at {}: writers were kept out for {} µs and overwrote \
                 {copied} pages before they were sent",
                self.agent.index, self.peer, micros(pause)
            );
        }
        Ok(self.stream.send_response(&AgentResponse::Sent {
            pages_copied: copied,
        })?)
    }

    /// Returns the number of bytes sent.
    fn send_frames(
        &mut self,
        segment: &Segment,
        cut: Cut,
        pause: Duration,
    ) -> Result<u64, HandlerError> {
        self.stream.send_response(&AgentResponse::Cut {
            pause_us: micros(pause),
        })?;
        // The master may receive from other servers first.
        let (level, frame_size) = match self.stream.control(self.transfer_wait())? {
            AgentRequest::Send { level, frame_size } => (level, frame_size),
            other => return Err(HandlerError::out_of_turn(&other)),
        };
        let compression = match CompressionLevel::new(level) {
            Some(level) => Compression::Zstd(level),
            None if level == 0 => Compression::None,
            None => {
                return Err(HandlerError::Refused(
                    RefusalReason::Protocol,
                    format!("the compression level is {level}: allowed is 0 to 19"),
                ));
            }
        };
        let encoder = self.encoder(segment, compression, frame_size)?;
        let frames = Frames {
            segment,
            cut,
            socket: self.stream.socket(),
            bytes: 0,
        };
        // A separate thread, because this one ends the cut at normal priority: while it does, it
        // takes the stripes that writers wait for.
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                priority::set_nice(NICE);
                frames.send(encoder)
            });
            // The thread cannot have panicked: a panic aborts the program.
            sender
                .join()
                .unwrap_or_else(|_| Err(HandlerError::failed("the sending thread has panicked")))
        })
    }

    fn encoder(
        &self,
        segment: &Segment,
        compression: Compression,
        frame_size: u32,
    ) -> Result<FrameEncoder, HandlerError> {
        let (layout, index) = (self.agent.config.layout.clone(), self.agent.index as usize);
        let mut incarnations = vec![0; layout.server_count()];
        incarnations[index] = segment.incarnation();
        let fields =
            HeaderFields::new(layout, 0, &incarnations, None).map_err(HandlerError::failed)?;
        let header = Header::new(HeaderFields {
            frame_size,
            ..fields
        })
        .map_err(|error| HandlerError::Refused(RefusalReason::Protocol, error.to_string()))?;
        FrameEncoder::new(index, &header, compression).map_err(HandlerError::failed)
    }
}

struct Frames<'a> {
    segment: &'a Segment,
    cut: Cut,
    socket: &'a Stream,
    bytes: u64,
}

impl Frames<'_> {
    fn send(mut self, mut encoder: FrameEncoder) -> Result<u64, HandlerError> {
        // It fits: the segment is mapped.
        #[allow(clippy::cast_possible_truncation)]
        let pages = (self.segment.share_size() / PAGE) as usize;
        let mut buffer = vec![0; CUT_RUN * size_of::<Page>()];
        for first in (0..pages).step_by(CUT_RUN) {
            let run = first..pages.min(first + CUT_RUN);
            let bytes = &mut buffer[..run.len() * size_of::<Page>()];
            match self
                .segment
                .read_cut(self.cut, run, bytes)
                .map_err(abandoned)?
            {
                CutPages::Zeros => {}
                CutPages::Bytes => encoder.add(first as u64, bytes, |frame| self.emit(frame))?,
            }
        }
        encoder.flush(|frame| self.emit(frame))?;
        Ok(self.bytes)
    }

    fn emit(&mut self, frame: &[u8]) -> Result<(), HandlerError> {
        send_frame(&mut self.socket, frame)?;
        self.bytes += frame.len() as u64;
        phase::reached(SnapshotPhase::Copying);
        Ok(())
    }
}

fn abandoned(gone: CutEnded) -> HandlerError {
    let message = format!(
        "{gone}. Writers have overwritten more pages than its copy area has room for: raise \
         snapshot.copy_area in mcomp.cfg, or make room in /dev/shm"
    );
    HandlerError::Refused(RefusalReason::Abandoned, message)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
