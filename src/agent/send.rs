//! Sending a cut, page by page, as frames.

use super::restore::check_in_use;
use super::session::{End, Session};
use dsm_config::{Compression, Level};
use dsm_core::layout::PAGE;
use dsm_core::segment::{CUT_RUN, Claim, Cut, CutGone, CutPages, Page, Segment};
use dsm_core::sys::priority;
use dsm_snapshot::agent_protocol::{Answer, Ask, Reason, send_frame};
use dsm_snapshot::phase::{self, Phase};
use dsm_snapshot::{FrameEncoder, Header, HeaderFields};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How much nicer a thread that sends a cut is than writers, who were made to wait for it and shall
/// not wait again for a processor. Not more: it gives saved pages back under a lock of the kernel
/// that a writer needs to save the next one, and who is much nicer is put aside while it holds it
/// (at 10, a writer on a full machine waited 40 ms, at 19 260 ms).
const NICE: i32 = 3;

impl Session<'_> {
    /// Says that the cut was made, waits for the master's turn for this server, and sends. The cut
    /// ends whatever happens.
    pub(super) fn send_cut(
        &mut self,
        claim: &mut Claim,
        cut: Cut,
        pause: Duration,
        id: &str,
    ) -> Result<(), End> {
        phase::reached(Phase::Cut);
        let segment = claim.segment();
        let done = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| segment.allocate_copies(cut, &done));
            let sent = self.send_frames(&segment, cut, pause);
            done.store(true, Ordering::Relaxed);
            sent
        });
        let copied = claim.end_cut(cut).map_err(End::failed)?;
        let bytes = sent?;
        check_in_use(&segment)?;
        if self.agent.served.opens() {
            log::info!(
                DSM_SNAPSHOT = id, DSM_SERVER = self.agent.index, DSM_PAUSE_US = micros(pause), DSM_PAGES_COPIED = copied,
                DSM_STORED_BYTES = bytes;
                "sent server {} to the master at {}: writers stood still for {} µs, {copied} pages were overwritten meanwhile",
                self.agent.index, self.peer, micros(pause)
            );
        }
        Ok(self.connection.answer(&Answer::Sent {
            pages_copied: copied,
        })?)
    }

    /// Returns the bytes sent.
    fn send_frames(&mut self, segment: &Segment, cut: Cut, pause: Duration) -> Result<u64, End> {
        self.connection.answer(&Answer::Cut {
            pause_us: micros(pause),
        })?;
        // Others may be before this one.
        let (level, frame_size) = match self.connection.control(self.long_patience())? {
            Ask::Send { level, frame_size } => (level, frame_size),
            other => return Err(End::out_of_turn(&other)),
        };
        let compression = match Level::new(level) {
            Some(level) => Compression::Zstd(level),
            None if level == 0 => Compression::None,
            None => {
                return Err(End::Refused(
                    Reason::Protocol,
                    format!("there is no compression {level}"),
                ));
            }
        };
        let encoder = self.encoder(segment, compression, frame_size)?;
        let frames = Frames {
            segment,
            cut,
            socket: self.connection.socket(),
            bytes: 0,
        };
        // A thread of its own: the end of the cut, which takes the stripes in turn, has to be as
        // fast as any writer.
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                priority::set_nice(NICE);
                frames.send(encoder)
            });
            // A panic aborts the program.
            sender
                .join()
                .unwrap_or_else(|_| Err(End::failed("the thread that sends has died")))
        })
    }

    fn encoder(
        &self,
        segment: &Segment,
        compression: Compression,
        frame_size: u32,
    ) -> Result<FrameEncoder, End> {
        let (layout, index) = (self.agent.config.layout.clone(), self.agent.index as usize);
        let mut incarnations = vec![0; layout.n()];
        incarnations[index] = segment.incarnation();
        let fields = HeaderFields::new(layout, 0, &incarnations, None).map_err(End::failed)?;
        let header = Header::new(HeaderFields {
            frame_size,
            ..fields
        })
        .map_err(|error| End::Refused(Reason::Protocol, error.to_string()))?;
        FrameEncoder::new(index, &header, compression).map_err(End::failed)
    }
}

struct Frames<'a> {
    segment: &'a Segment,
    cut: Cut,
    socket: &'a TcpStream,
    bytes: u64,
}

impl Frames<'_> {
    fn send(mut self, mut encoder: FrameEncoder) -> Result<u64, End> {
        // Of a segment that is mapped: it fits.
        #[allow(clippy::cast_possible_truncation)]
        let pages = (self.segment.k() / PAGE) as usize;
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

    fn emit(&mut self, frame: &[u8]) -> Result<(), End> {
        send_frame(&mut self.socket, frame)?;
        self.bytes += frame.len() as u64;
        phase::reached(Phase::Copying);
        Ok(())
    }
}

fn abandoned(gone: CutGone) -> End {
    let message = format!(
        "{gone}. Writers have overwritten more pages than its copy area has room for: raise snapshot.copy_area in mcomp.cfg, \
         or make room in /dev/shm"
    );
    End::Refused(Reason::Abandoned, message)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
