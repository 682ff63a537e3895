//! Self-describing blocks: a reader can tell a whole write from half a write.
//!
//! A block is writer, sequence, length (three little-endian `u64`), then bytes derived from those
//! three. A mix of two blocks, or of a block and older bytes, fails the check.

/// Bytes of the shortest block.
pub const SHORTEST: usize = 24;

/// The three fields at the start of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The number of the writer.
    pub writer: u64,
    /// The writer's count of blocks, from 1.
    pub sequence: u64,
    /// Bytes of the block.
    pub length: u64,
}

/// The bytes of a block.
pub fn make(label: Label) -> Vec<u8> {
    let Label {
        writer,
        sequence,
        length,
    } = label;
    let length = usize::try_from(length).expect("a block fits the memory");
    let mut bytes: Vec<u8> = [writer, sequence, label.length]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let mut word = (writer << 48) ^ (sequence << 20) ^ label.length;
    while bytes.len() < length {
        // A step of a linear congruential generator (Knuth's MMIX): no two blocks share a word at
        // the same place.
        word = word
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The label of the block at the start of `region`; `None` where every byte is zero.
///
/// # Errors
/// The block is not whole; the text says how.
pub fn check(region: &[u8]) -> Result<Option<Label>, String> {
    let word = |at: usize| u64::from_le_bytes(region[at..at + 8].try_into().expect("eight bytes"));
    let label = Label {
        writer: word(0),
        sequence: word(8),
        length: word(16),
    };
    if label
        == (Label {
            writer: 0,
            sequence: 0,
            length: 0,
        })
    {
        return match region.iter().position(|&byte| byte != 0) {
            None => Ok(None),
            Some(at) => Err(format!(
                "half a write: the start is empty, byte {at} is not"
            )),
        };
    }
    let length = usize::try_from(label.length).unwrap_or(usize::MAX);
    if length < SHORTEST || length > region.len() {
        return Err(format!(
            "half a write: the start claims {label:?} in a region of {} bytes",
            region.len()
        ));
    }
    match make(label)
        .iter()
        .zip(region)
        .position(|(expected, found)| expected != found)
    {
        None => Ok(Some(label)),
        Some(at) => Err(format!(
            "half a write: {label:?} is broken from byte {at} on"
        )),
    }
}
