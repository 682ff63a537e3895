//! What holds for every request.

use super::{
    AtomicOperation, Code, Extent, HEADER, MemoryChange, MemoryOperation, Opcode, Request,
    RequestHeader, Word, split_request,
};
use crate::layout::MAX_ATOMIC;
use proptest::prelude::*;

const K: u64 = 1 << 22;

proptest! {
    #[test]
    fn no_header_makes_the_parser_panic_or_pass_the_end_of_the_segment(bytes in proptest::array::uniform32(any::<u8>()), opcode in 0_u8..32, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = bytes;
        bytes[..2].copy_from_slice(b"DQ");
        bytes[2] = opcode;
        if let Ok(Some((header, _))) = split_request(&bytes)
            && let Ok(request) = Request::parse(&header, &payload, K)
        {
            let inside = |extent: Extent| extent.end() <= K && extent.length() as u64 <= MAX_ATOMIC;
            let good = match request {
                Request::Hello(_) | Request::Status | Request::Ping(_) => true,
                Request::Memory(MemoryOperation::Read(extent)) => inside(extent),
                Request::Memory(MemoryOperation::Change(change)) => match change {
                    MemoryChange::Fill(extent, _) => inside(extent),
                    MemoryChange::Write(extent, data) => inside(extent) && data.len() == extent.length(),
                    MemoryChange::Atomic(word, _) => word.offset() % 8 == 0 && inside(word.extent()),
                    MemoryChange::Copy { from, to } => inside(from) && inside(to) && from.length() == to.length(),
                },
            };
            prop_assert!(good);
        }
    }

    #[test]
    fn an_encoded_request_parses_to_itself(id in any::<u64>(), offset in 0..K / 2, length in 0_u64..4096, value in any::<u64>(), data in proptest::collection::vec(any::<u8>(), 0..256), which in 0_usize..13) {
        let extent = Extent::new(offset, length, K).unwrap();
        let word = Word::new(offset & !7, K).unwrap();
        let atomic = |operation| MemoryChange::Atomic(word, operation).into();
        let request: Request<'_> = [
            Request::Hello(&data),
            MemoryOperation::Read(extent).into(),
            MemoryChange::Write(Extent::new(offset, data.len() as u64, K).unwrap(), &data).into(),
            MemoryChange::Fill(extent, 7).into(),
            atomic(AtomicOperation::Add(value)),
            atomic(AtomicOperation::Swap(value)),
            atomic(AtomicOperation::CompareAndSwap { expected: id, new: value }),
            atomic(AtomicOperation::And(value)),
            atomic(AtomicOperation::Or(value)),
            atomic(AtomicOperation::Xor(value)),
            MemoryChange::Copy { from: Extent::new(K / 2, length, K).unwrap(), to: extent }.into(),
            Request::Status,
            Request::Ping(&data),
        ][which];
        let mut bytes = Vec::new();
        request.append_to(id, &mut bytes);
        let (header, rest) = split_request(&bytes).unwrap().unwrap();
        prop_assert_eq!(bytes.len(), HEADER + header.payload.get() as usize);
        prop_assert_eq!(header.id.get(), id);
        prop_assert_eq!(Request::parse(&header, rest, K).unwrap(), request);
    }
}

#[test]
fn an_unused_field_must_be_zero() {
    for (opcode, change) in [
        (Opcode::Ping, 0),
        (Opcode::Status, 1),
        (Opcode::Write, 1),
        (Opcode::Read, 2),
    ] {
        let mut header = RequestHeader::new(opcode, 1);
        match change {
            0 => header.offset = 8.into(),
            1 => header.operand = 8.into(),
            _ => header.argument = 8,
        }
        assert_eq!(
            Request::parse(&header, &[], K).unwrap_err().code,
            Code::BadRequest,
            "{opcode:?}"
        );
    }
}
