//! docs/protocol.md and the code agree: every example is decoded, compared with its meaning, and
//! encoded again to the same bytes; every table is compared with the constants of the code.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::Layout;
use dsm_core::protocol::{
    AtomicOperation as Atomic, Code, Extent, HEADER, HelloReply, HelloRequest, MAX_HELLO,
    MemoryChange, MemoryOperation, MemoryRange, OPERATIONS, Opcode, OperationEntry, PayloadShape,
    Refusal, ReplyHeader, Request, RequestHeader, RequiredRole, Status, VERSION, Word, split_reply,
    split_request,
};
use support::examples;
use support::examples::{Example, Token};
use zerocopy::{FromBytes, IntoBytes};

/// The memory that the examples use.
const K: u64 = 65536;
const SESSION: [u8; 16] = [
    0xd5, 0xdc, 0x0c, 0x0a, 0x4e, 0x1b, 0x4c, 0x6f, 0x9a, 0x3e, 0x5b, 0x70, 0x81, 0xf2, 0xc6, 0xd4,
];

/// The incarnation that replaces `??` in the document.
const INCARNATION: u64 = 0x6f1d_2a9c_03b7_e458;

fn layout(k: u64) -> Layout {
    Layout::new("dsm", k, vec!["127.0.0.1:7411".to_owned()]).unwrap()
}

/// A request of an example and its reply: value and payload, or the refusal.
struct Exchange {
    request: Result<Vec<u8>, RequestHeader>,
    reply: Result<(u64, Vec<u8>), Refusal>,
}

fn good<'a>(id: u64, request: impl Into<Request<'a>>, value: u64, payload: &[u8]) -> Exchange {
    Exchange {
        request: Ok(encoded(id, request)),
        reply: Ok((value, payload.to_vec())),
    }
}

/// A well-formed request that the checked types cannot express.
fn bad(opcode: u8, id: u64, offset: u64, operand: u64, code: Code) -> Exchange {
    let mut header = RequestHeader::new(Opcode::Ping, id);
    (header.opcode, header.offset, header.operand) = (opcode, offset.into(), operand.into());
    let refusal = Request::parse(&header, &[], K).unwrap_err();
    assert_eq!(refusal.code, code);
    Exchange {
        request: Err(header),
        reply: Err(refusal),
    }
}

fn encoded<'a>(id: u64, request: impl Into<Request<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.into().append_to(id, &mut bytes);
    bytes
}

fn hello(hello: &HelloRequest, layout: &Layout) -> Vec<u8> {
    [hello.as_bytes(), layout.canonical().as_bytes()].concat()
}

fn greeting(incarnation: u64, resume: bool, last_executed: u64) -> Exchange {
    let payload = hello(
        &HelloRequest::new(0, SESSION, incarnation, resume),
        &layout(K),
    );
    let reply = HelloReply::new(0, INCARNATION, K, last_executed, resume);
    good(0, Request::Hello(&payload), 0, reply.as_bytes())
}

fn refused_greeting(mut request: HelloRequest, version: u32, k: u64, code: Code) -> Exchange {
    request.version = version.into();
    let payload = hello(&request, &layout(k));
    let refusal = HelloRequest::parse(&payload, &layout(K), 0).unwrap_err();
    assert_eq!(refusal.code, code);
    Exchange {
        request: Ok(encoded(0, Request::Hello(&payload))),
        reply: Err(refusal),
    }
}

fn refused<'a>(id: u64, request: impl Into<Request<'a>>, code: Code, message: &str) -> Exchange {
    Exchange {
        request: Ok(encoded(id, request)),
        reply: Err(Refusal::new(code, message)),
    }
}

/// What the example of this name means.
fn meaning(name: &str) -> Vec<Exchange> {
    let extent = |offset, length| Extent::new(offset, length, K).unwrap();
    let atomic = |operation| MemoryChange::Atomic(Word::new(8, K).unwrap(), operation);
    let compare = |new| atomic(Atomic::CompareAndSwap { expected: 42, new });
    let hello = || HelloRequest::new(0, SESSION, 0, false);
    match name {
        "hello" => vec![greeting(0, false, 0)],
        "ping" => vec![good(1, Request::Ping(b"dsm?"), 0, b"dsm?")],
        "write" => vec![good(
            2,
            MemoryChange::Write(extent(4096, 13), b"hello, memory"),
            0,
            b"",
        )],
        "read" => vec![good(
            3,
            MemoryOperation::Read(extent(4096, 13)),
            0,
            b"hello, memory",
        )],
        "fill" => vec![good(4, MemoryChange::Fill(extent(4101, 3), b'.'), 0, b"")],
        "fetch-add" => vec![good(5, atomic(Atomic::Add(41)), 0, b"")],
        "pipeline" => {
            vec![
                good(6, atomic(Atomic::Add(1)), 41, b""),
                good(7, compare(7), 42, b""),
                good(8, compare(9), 7, b""),
            ]
        }
        "bits" => vec![
            good(9, atomic(Atomic::Swap(0xff)), 7, b""),
            good(10, atomic(Atomic::And(0x3c)), 0xff, b""),
            good(11, atomic(Atomic::Or(0x100)), 0x3c, b""),
            good(12, atomic(Atomic::Xor(0x13c)), 0x13c, b""),
        ],
        "copy" => vec![
            good(
                13,
                MemoryChange::Copy {
                    from: extent(4096, 13),
                    to: extent(8192, 13),
                },
                0,
                b"",
            ),
            good(
                14,
                MemoryOperation::Read(extent(8192, 13)),
                0,
                b"hello...emory",
            ),
        ],
        "status" => vec![good(15, Request::Status, 0, b"")],
        "unaligned" => vec![bad(5, 16, 12, 1, Code::Unaligned)],
        "out-of-range" => vec![bad(2, 17, 65530, 10, Code::OutOfRange)],
        "too-long" => vec![bad(4, 18, 0, u64::MAX, Code::TooLong)],
        "unknown-opcode" => vec![bad(99, 19, 0, 0, Code::UnknownOpcode)],
        "bad-request" => vec![bad(12, 20, 0, 8, Code::BadRequest)],
        "bad-sequence" => {
            let message = "request id 3 came after 20: ids must increase";
            vec![refused(3, Request::Ping(b""), Code::BadSequence, message)]
        }
        "resume" => vec![greeting(INCARNATION, true, 13)],
        "resend" => vec![
            good(7, compare(7), 42, b""),
            good(14, MemoryOperation::Read(extent(8, 8)), 0, &[0; 8]),
            good(21, atomic(Atomic::Add(1)), 0, b""),
        ],
        "version" => vec![refused_greeting(hello(), 2, K, Code::Version)],
        "layout-differs" => vec![refused_greeting(
            hello(),
            VERSION,
            2 * K,
            Code::LayoutDiffers,
        )],
        "wrong-server" => {
            vec![refused_greeting(
                HelloRequest::new(1, SESSION, 0, false),
                VERSION,
                K,
                Code::WrongServer,
            )]
        }
        "hello-expected" => {
            vec![refused(
                1,
                Request::Ping(b""),
                Code::HelloExpected,
                "the first request must be hello",
            )]
        }
        _ => panic!("the example {name:?} has no meaning here: add it to the table"),
    }
}

fn check_request<'a>(bytes: &'a [u8], exchange: &Exchange) -> (RequestHeader, &'a [u8]) {
    let (header, rest) = split_request(bytes).unwrap().expect("a whole header");
    let (payload, rest) = rest.split_at(header.payload.get() as usize);
    match &exchange.request {
        Ok(expected) => {
            let request = Request::parse(&header, payload, K).unwrap();
            assert_eq!(encoded(header.id.get(), request), *expected);
            assert_eq!(&bytes[..HEADER + payload.len()], expected);
        }
        Err(expected) => {
            assert_eq!(header, *expected);
            assert_eq!(&bytes[..HEADER], expected.as_bytes());
        }
    }
    (header, rest)
}

fn check_reply<'a>(bytes: &'a [u8], request: &RequestHeader, exchange: &Exchange) -> &'a [u8] {
    let (header, rest) = split_reply(bytes).unwrap().expect("a whole header");
    let (payload, rest) = rest.split_at(header.payload.get() as usize);
    let (id, length) = (request.id.get(), header.payload.get());
    let expected = match &exchange.reply {
        Ok((value, expected)) => {
            assert_eq!(payload, expected);
            ReplyHeader::new(request.opcode, id, length, *value)
        }
        Err(refusal) => {
            assert_eq!(String::from_utf8_lossy(payload), refusal.message);
            ReplyHeader::refusal(request.opcode, id, refusal.code, length)
        }
    };
    assert_eq!(header, expected);
    assert_eq!(&bytes[..HEADER], expected.as_bytes());
    rest
}

fn replay(example: &Example) {
    let mut request = &examples::fill(&example.request, INCARNATION.to_le_bytes())[..];
    let open_ended = example.reply.contains(&Token::Rest);
    // Where the document leaves the length of a payload open, this uses an empty payload.
    let filler = if open_ended {
        [0; 8]
    } else {
        INCARNATION.to_le_bytes()
    };
    let mut reply = &examples::fill(&example.reply, filler)[..];
    for exchange in meaning(&example.name) {
        let header;
        (header, request) = check_request(request, &exchange);
        reply = check_reply(reply, &header, &exchange);
    }
    assert!(
        request.is_empty() && reply.is_empty(),
        "bytes are left over"
    );
}

#[test]
fn every_example_decodes_to_its_meaning_and_encodes_to_the_same_bytes() {
    let examples = examples::examples();
    assert!(
        examples.len() > 20,
        "only {} examples were found",
        examples.len()
    );
    for example in examples
        .iter()
        .filter(|example| example.name != "bad-frame")
    {
        println!("{}", example.name);
        replay(example);
    }
}

#[test]
fn bytes_that_are_no_frame_are_refused_as_the_document_shows() {
    let example = examples::examples()
        .into_iter()
        .find(|example| example.name == "bad-frame")
        .unwrap();
    let refusal = split_request(&examples::fill(&example.request, [0; 8])).unwrap_err();
    assert_eq!(refusal.code, Code::BadFrame);
    let text = refusal.message.as_bytes();
    let header = ReplyHeader::refusal(1, 0, Code::BadFrame, u32::try_from(text.len()).unwrap());
    assert_eq!(
        examples::fill(&example.reply, [0; 8]),
        [header.as_bytes(), text].concat()
    );
}

#[test]
fn the_hello_of_the_example_passes_the_checks_of_the_server() {
    let example = examples::examples()
        .into_iter()
        .find(|example| example.name == "hello")
        .unwrap();
    let bytes = examples::fill(&example.request, [0; 8]);
    let (parsed, text) = HelloRequest::parse(&bytes[HEADER..], &layout(K), 0).unwrap();
    assert_eq!((parsed.session, parsed.resume.get()), (SESSION, 0));
    assert_eq!(text, layout(K).canonical());
    let reply = examples::fill(&example.reply, INCARNATION.to_le_bytes());
    let reply = HelloReply::read_from_bytes(&reply[HEADER..]).unwrap();
    assert_eq!(reply, HelloReply::new(0, INCARNATION, K, 0, false));
}

#[test]
fn the_table_of_operations_is_that_of_the_code() {
    let rows = examples::rows("4. Operations");
    let found: Vec<_> = rows.iter().map(|row| described(row)).collect();
    let expected: Vec<_> = OPERATIONS.iter().map(row_of).collect();
    assert_eq!(found, expected);
}

/// What a row of the document says of an operation: its first four cells, and for each of argument,
/// offset, operand and payload whether a request has it.
fn described(row: &[String]) -> String {
    let uses = |column: usize, unused: &str| row[column] != unused;
    let payload = match row[7].as_str() {
        "none" => PayloadShape::Empty,
        text if text.starts_with("8 bytes: ") => PayloadShape::Number,
        _ => PayloadShape::Bytes,
    };
    let fields = (uses(4, "0"), uses(5, "0"), uses(6, "0"));
    format!("{} {fields:?} {payload:?}", row[..4].join(" "))
}

/// What the code says of it, in the same form.
fn row_of(entry: &OperationEntry) -> String {
    let role = match entry.role {
        RequiredRole::None => "none",
        RequiredRole::Monitor => "monitor",
        RequiredRole::Read => "read",
        RequiredRole::Write => "write",
    };
    let (offset, operand) = match entry.range {
        MemoryRange::None => (false, false),
        MemoryRange::Payload => (true, false),
        MemoryRange::Operand | MemoryRange::Word => (true, true),
    };
    format!(
        "{} {} {} {role} {:?} {:?}",
        entry.opcode as u8,
        entry.name,
        if entry.mutates { "yes" } else { "no" },
        (entry.uses_argument, offset, operand),
        entry.payload
    )
}

#[test]
fn every_code_has_its_row() {
    let codes: Vec<_> = examples::rows("5. Refusals")
        .iter()
        .map(|row| row[..3].join(" "))
        .collect();
    let closes = |code: Code| if code.closes() { "yes" } else { "no" };
    let expected: Vec<_> = Code::ALL
        .iter()
        .map(|code| format!("{} {code:?} {}", *code as u16, closes(*code)))
        .collect();
    assert_eq!(codes, expected);
}

#[test]
fn the_status_in_the_document_has_exactly_the_keys_of_the_code() {
    let blocks = examples::blocks("json");
    let [(_, text)] = &blocks[..] else {
        panic!("one status is shown, not {}", blocks.len())
    };
    let shown: serde_json::Value = serde_json::from_str(text).unwrap();
    let status: Status = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_value(&status).unwrap(), shown);
}

#[test]
fn the_longest_hello_of_the_document_is_that_of_the_code() {
    let stated = examples::cell("8. Limits", "longest payload of hello");
    let stated = stated.split(' ').next().unwrap().replace(',', "");
    assert_eq!(stated, MAX_HELLO.to_string());
    let refusal = HelloRequest::parse(&vec![0; MAX_HELLO + 1], &layout(K), 0).unwrap_err();
    assert_eq!(refusal.code, Code::BadFrame, "{refusal}");
    assert!(refusal.message.contains(&stated), "{refusal}");
}
