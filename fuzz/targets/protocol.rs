//! The network delivers any bytes. The parsers do not panic and accept no range outside the memory,
//! and encoding a parsed request gives the same bytes.

use dsm_core::layout::{Layout, MAX_ATOMIC};
use dsm_core::protocol::{
    Code, Extent, HEADER, HelloReply, HelloRequest, MemoryChange, MemoryOperation, Refusal,
    Request, split_reply, split_request,
};
use zerocopy::FromBytes;

/// The size of the memory: small, so that ranges are often near its end.
const K: u64 = 1 << 16;

/// Tests one input as the bytes that a server receives, and as those that a client receives.
///
/// # Panics
/// When the protocol breaks a promise.
pub fn run(bytes: &[u8]) {
    as_requests(bytes);
    as_replies(bytes);
    // A fuzzer takes long to find the magic numbers.
    if bytes.len() >= HEADER {
        let mut bytes = bytes.to_vec();
        bytes[..2].copy_from_slice(b"DQ");
        bytes[2] %= 32;
        as_requests(&bytes);
        bytes[..2].copy_from_slice(b"DR");
        as_replies(&bytes);
    }
}

fn as_requests(mut bytes: &[u8]) {
    let layout = Layout::new("fuzz", K, vec!["127.0.0.1:7411".to_owned()]).expect("a valid layout");
    loop {
        let (header, rest) = match split_request(bytes) {
            Ok(Some(frame)) => frame,
            Ok(None) => return assert!(bytes.len() < HEADER),
            Err(refusal) => return check_refusal(&refusal, Some(Code::BadFrame)),
        };
        let Some((payload, next)) = rest.split_at_checked(header.payload.get() as usize) else {
            return;
        };
        match Request::parse(&header, payload, K) {
            Ok(request) => {
                let frame = &bytes[..HEADER + payload.len()];
                check_request(header.id.get(), &request, frame, &layout);
            }
            Err(refusal) => {
                check_refusal(&refusal, None);
                assert!(
                    !refusal.code.closes(),
                    "a bad request closes the connection: {refusal:?}"
                );
            }
        }
        bytes = next;
    }
}

fn check_request(id: u64, request: &Request<'_>, frame: &[u8], layout: &Layout) {
    let inside =
        |extent: Extent| assert!(extent.end() <= K && extent.length() as u64 <= MAX_ATOMIC);
    match *request {
        Request::Hello(payload) => match HelloRequest::parse(payload, layout, 0) {
            Ok((hello, text)) => {
                assert_eq!(text, layout.canonical());
                assert_ne!(hello.session, [0; 16]);
            }
            Err(refusal) => check_refusal(&refusal, None),
        },
        Request::Status | Request::Ping(_) => {}
        Request::Memory(MemoryOperation::Read(extent)) => inside(extent),
        Request::Memory(MemoryOperation::Change(change)) => match change {
            MemoryChange::Fill(extent, _) => inside(extent),
            MemoryChange::Write(extent, data) => {
                inside(extent);
                assert_eq!(extent.length(), data.len());
            }
            MemoryChange::Atomic(word, _) => {
                inside(word.extent());
                assert!(word.offset().is_multiple_of(8));
            }
            MemoryChange::Copy { from, to } => {
                inside(from);
                inside(to);
                assert_eq!(from.length(), to.length());
            }
        },
    }
    let mut again = Vec::with_capacity(frame.len());
    request.append_to(id, &mut again);
    assert_eq!(again, frame, "encoding a parsed request gives other bytes");
}

fn as_replies(bytes: &[u8]) {
    match split_reply(bytes) {
        Ok(Some((header, rest))) => {
            let payload = rest.get(..header.payload.get() as usize).unwrap_or(rest);
            let _ = HelloReply::read_from_bytes(payload);
            let _ = Code::from_number(header.code.get());
        }
        Ok(None) => assert!(bytes.len() < HEADER),
        Err(refusal) => check_refusal(&refusal, Some(Code::BadFrame)),
    }
}

fn check_refusal(refusal: &Refusal, code: Option<Code>) {
    assert!(
        !refusal.message.is_empty() && code.is_none_or(|code| refusal.code == code),
        "{refusal:?}"
    );
    assert_eq!(Code::from_number(refusal.code as u16), Some(refusal.code));
}
