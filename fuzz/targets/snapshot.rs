//! Any bytes whatever lie in a snapshot file. Nothing panics, memory stays bounded, and a file that
//! is sound can be read from end to end.

use dsm_snapshot::{Frame, FrameBuffer, Header, SnapshotFile};
use std::path::Path;

/// Bytes that are read at once where a file says that there is memory.
const AT_ONCE: u64 = 1 << 16;

/// One input, as the bytes of the file.
///
/// # Panics
/// When the reader breaks a promise.
pub fn run(bytes: &[u8]) {
    if let Ok((header, length)) = Header::parse(bytes) {
        assert_eq!(
            header.encode(),
            bytes[..length],
            "what was understood is encoded to other bytes"
        );
        let _ = Frame::parse(&bytes[length..], &header);
    }
    let Ok(file) = SnapshotFile::from_source(Path::new("fuzzed"), bytes) else {
        return;
    };
    let sound = file.verify(|_, _| {});
    let mut buffer = FrameBuffer::new().expect("memory for a decompressor");
    let mut end = 0;
    for extent in file
        .extents(0..u64::MAX)
        .expect("an index that was checked")
    {
        let extent = extent.expect("an index that was checked");
        let addresses = extent.addresses();
        assert!(addresses.start >= end && addresses.end <= file.header().layout().size());
        end = addresses.end;
        let read = file.read_frame(&extent, &mut buffer).map(<[u8]>::len);
        assert!(
            read.is_ok() || sound.is_err(),
            "verify passes a frame that cannot be read: {read:?}"
        );
        assert!(
            read.is_err() || read.ok() == usize::try_from(addresses.end - addresses.start).ok()
        );
    }
    let size = file.header().layout().size();
    for address in [0, size / 2, size - size.min(AT_ONCE)] {
        let length = usize::try_from(AT_ONCE.min(size - address)).expect("small");
        let read = file.read_range(address, &mut vec![0xa5; length]);
        assert!(
            read.is_ok() || sound.is_err() || file.header().is_partial(),
            "{read:?}"
        );
    }
    assert!(file.read_range(size, &mut [0]).is_err());
}
