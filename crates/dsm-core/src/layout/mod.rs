//! The layout: k, N and the ordered addresses of the servers, and the split of a range into pieces.
//!
//! Pure arithmetic, no I/O. Server i holds the addresses `i*k .. (i+1)*k`.

mod difference;

use std::fmt;

/// The unit of optimistic reads and dirty tracking, in bytes.
pub const PAGE: u64 = 4096;

/// The longest request that one server executes atomically, in bytes.
pub const MAX_ATOMIC: u64 = 1 << 20;

/// The largest memory, in bytes: every address also fits an `i64`, for file offsets.
pub const MAX_MEMORY: u64 = 1 << 63;

/// The most servers in one network map. It bounds the text that a handshake carries.
pub const MAX_SERVERS: usize = 1024;

/// The longest address text (`host:port`): a 253-byte DNS name, a colon, five digits, two brackets.
pub const MAX_ADDRESS_TEXT: usize = 261;

/// The longest name of a system: shared-memory names contain it and must stay under `NAME_MAX`.
pub const MAX_NAME: usize = 64;

/// The longest text that [`Layout::canonical`] returns, in bytes: the most servers, with the
/// longest name and addresses. A longer text from a peer is no layout, and need not be received.
pub const MAX_LAYOUT_TEXT: usize = {
    let mut length =
        "name=".len() + MAX_NAME + "\nk=".len() + digits(MAX_MEMORY / MAX_SERVERS as u64);
    length += "\nn=".len() + digits(MAX_SERVERS as u64) + "\n".len();
    let mut index = 0;
    while index < MAX_SERVERS {
        length +=
            "server.".len() + digits(index as u64) + "=".len() + MAX_ADDRESS_TEXT + "\n".len();
        index += 1;
    }
    length
};

/// The number of decimal digits of a number.
const fn digits(number: u64) -> usize {
    match number.checked_ilog10() {
        Some(log) => log as usize + 1,
        None => 1,
    }
}

/// Why a set of values is not a layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The system's name cannot be part of a file name.
    #[error("name is {0:?}: allowed are 1 to {MAX_NAME} characters of a-z, A-Z, 0-9, '-' and '_'")]
    Name(String),
    /// k is zero, or not a multiple of the page size.
    #[error("k is {0} bytes: it must be a multiple of {PAGE}, and at least {PAGE}")]
    ShareSize(u64),
    /// There is no server, or there are too many.
    #[error("the network map has {0} servers: allowed are 1 to {MAX_SERVERS}")]
    Count(usize),
    /// k times N is more than the largest memory.
    #[error("k times n is {k} times {n}, more than 2^63 bytes: make k or n smaller")]
    TooLarge {
        /// Bytes that each server shares.
        k: u64,
        /// Number of servers.
        n: usize,
    },
    /// Two servers have the same address.
    #[error(
        "server {second} has the address {address:?} of server {first}: each server needs its own"
    )]
    Duplicate {
        /// The index of the server that has it first.
        first: usize,
        /// The index of the server that repeats it.
        second: usize,
        /// The repeated address.
        address: String,
    },
    /// An address is empty, too long, or contains characters that are not printable.
    #[error(
        "server {index} has the address {address:?}: it must be 1 to {MAX_ADDRESS_TEXT} printable characters"
    )]
    Address {
        /// The server's index.
        index: usize,
        /// What was found.
        address: String,
    },
}

/// A range that is not inside the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("address {address} length {length} is outside the memory, which has {size} bytes (addresses 0 to {})", .size - 1)]
#[non_exhaustive]
pub struct OutsideMemory {
    /// The first address of the range.
    pub address: u64,
    /// The length of the range in bytes.
    pub length: u64,
    /// The size of the memory in bytes.
    pub size: u64,
}

/// A short hash of a layout: layouts with equal fingerprints are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    fn of(text: &str) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
        Self(short)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The part of a request that falls on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// Index of the server that holds it.
    pub server: usize,
    /// First byte, as an offset into that server's segment.
    pub offset: u64,
    /// First byte, as an address.
    pub address: u64,
    /// Bytes; never zero.
    pub length: u64,
}

/// A valid layout: k, N and the ordered addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    name: String,
    k: u64,
    addresses: Vec<String>,
}

impl Layout {
    /// Checks the values and returns a layout. `k` is in bytes; `addresses` are `host:port` in the
    /// order of the network map.
    ///
    /// # Errors
    /// The first invalid value; see [`LayoutError`].
    pub fn new(name: &str, k: u64, addresses: Vec<String>) -> Result<Self, LayoutError> {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(letter) {
            return Err(LayoutError::Name(name.to_owned()));
        }
        if k == 0 || !k.is_multiple_of(PAGE) {
            return Err(LayoutError::ShareSize(k));
        }
        let n = addresses.len();
        if n == 0 || n > MAX_SERVERS {
            return Err(LayoutError::Count(n));
        }
        if k.checked_mul(n as u64).is_none_or(|size| size > MAX_MEMORY) {
            return Err(LayoutError::TooLarge { k, n });
        }
        let mut seen = std::collections::HashMap::new();
        for (second, address) in addresses.iter().enumerate() {
            let printable = address.chars().all(|c| c.is_ascii_graphic());
            if address.is_empty() || address.len() > MAX_ADDRESS_TEXT || !printable {
                return Err(LayoutError::Address {
                    index: second,
                    address: address.clone(),
                });
            }
            if let Some(first) = seen.insert(address.as_str(), second) {
                return Err(LayoutError::Duplicate {
                    first,
                    second,
                    address: address.clone(),
                });
            }
        }
        Ok(Self {
            name: name.to_owned(),
            k,
            addresses,
        })
    }

    /// The name of the system, part of every shared-memory name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that each server shares.
    #[must_use]
    pub fn share_size(&self) -> u64 {
        self.k
    }

    /// Number of servers, N.
    #[must_use]
    pub fn server_count(&self) -> usize {
        self.addresses.len()
    }

    /// Bytes of the whole memory, N times k; at most 2^63.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.k * self.addresses.len() as u64
    }

    /// The servers' addresses, `host:port`, in the order of the network map.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The layout as text, which a handshake carries; equal for equal layouts. `docs/protocol.md`
    /// specifies it.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = format!(
            "name={}\nk={}\nn={}\n",
            self.name,
            self.k,
            self.server_count()
        );
        self.write_servers(&mut text, self.server_count());
        text
    }

    /// A short hash of [`Layout::canonical`], for storage and display.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.canonical())
    }

    /// A short hash of what places the segment of server `index` in the memory: the name, k and the
    /// servers up to this one. Servers that are added after it do not change it.
    #[must_use]
    pub fn segment_fingerprint(&self, index: u32) -> Fingerprint {
        let mut text = format!("name={}\nk={}\n", self.name, self.k);
        let count = usize::try_from(index).map_or(usize::MAX, |index| index.saturating_add(1));
        self.write_servers(&mut text, count);
        Fingerprint::of(&text)
    }

    /// Appends the lines of the first `count` servers.
    fn write_servers(&self, text: &mut String, count: usize) {
        use fmt::Write;
        for (index, address) in self.addresses.iter().take(count).enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "server.{index}={address}");
        }
    }

    /// Lists the fields in which a peer's canonical text differs from this layout, as `field: ours
    /// …, theirs …`: at most 20, and then the number of the others. Empty when the texts are equal.
    #[must_use]
    pub fn differences(&self, theirs: &str) -> Vec<String> {
        difference::differences(&self.canonical(), theirs)
    }

    /// The server that holds `address`, and the offset into its segment.
    ///
    /// # Errors
    /// When the address is not inside the memory.
    pub fn locate(&self, address: u64) -> Result<(usize, u64), OutsideMemory> {
        self.check(address, 1)?;
        Ok((self.server_of(address), address % self.k))
    }

    /// Splits a range into its pieces, in address order, one for each server it touches. An empty
    /// range has none.
    ///
    /// # Errors
    /// When a part of the range is not inside the memory.
    pub fn pieces(
        &self,
        address: u64,
        length: u64,
    ) -> Result<impl Iterator<Item = Piece> + use<>, OutsideMemory> {
        self.check(address, length)?;
        let (k, end) = (self.k, address + length);
        let mut next = address;
        Ok(std::iter::from_fn(move || {
            if next == end {
                return None;
            }
            let offset = next % k;
            // The quotient is a server's index, below MAX_SERVERS.
            #[allow(clippy::cast_possible_truncation)]
            let server = (next / k) as usize;
            let piece = Piece {
                server,
                offset,
                address: next,
                length: (k - offset).min(end - next),
            };
            next += piece.length;
            Some(piece)
        }))
    }

    fn check(&self, address: u64, length: u64) -> Result<(), OutsideMemory> {
        match address.checked_add(length) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(OutsideMemory {
                address,
                length,
                size: self.size(),
            }),
        }
    }

    // The quotient is a server's index, below MAX_SERVERS, for every checked address.
    #[allow(clippy::cast_possible_truncation)]
    fn server_of(&self, address: u64) -> usize {
        (address / self.k) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(k: u64, n: usize) -> Layout {
        Layout::new(
            "test",
            k,
            (0..n).map(|i| format!("10.0.0.{i}:7411")).collect(),
        )
        .unwrap()
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_once_and_in_order(pages in 1_u64..5, n in 1_usize..9, a in any::<u64>(), l in any::<u64>()) {
            let layout = layout(pages * PAGE, n);
            let address = a % (layout.size() + 1);
            let length = l % (layout.size() - address + 1);
            let mut next = address;
            for piece in layout.pieces(address, length).unwrap() {
                prop_assert_eq!(piece.address, next);
                prop_assert!(piece.length > 0);
                prop_assert!(piece.offset + piece.length <= layout.share_size());
                prop_assert_eq!(piece.server as u64 * layout.share_size() + piece.offset, next);
                prop_assert_eq!(layout.locate(next).unwrap(), (piece.server, piece.offset));
                next += piece.length;
            }
            prop_assert_eq!(next, address + length);
        }
    }

    #[test]
    fn a_range_outside_the_memory_is_refused() {
        let layout = layout(PAGE, 3);
        for (address, length) in [
            (3 * PAGE, 1),
            (0, 3 * PAGE + 1),
            (u64::MAX, 2),
            (1, u64::MAX),
        ] {
            assert!(
                layout.pieces(address, length).is_err(),
                "{address} {length}"
            );
        }
        assert!(layout.locate(3 * PAGE).is_err());
        assert_eq!(layout.pieces(3 * PAGE, 0).unwrap().count(), 0);
    }

    #[test]
    fn the_longest_layout_has_the_longest_text() {
        let address = |index: usize| format!("{index:0>MAX_ADDRESS_TEXT$}");
        let addresses = (0..MAX_SERVERS).map(address).collect();
        let longest = Layout::new(
            &"n".repeat(MAX_NAME),
            MAX_MEMORY / MAX_SERVERS as u64,
            addresses,
        )
        .unwrap();
        assert_eq!(longest.canonical().len(), MAX_LAYOUT_TEXT);
        let one = Layout::new(&"n".repeat(MAX_NAME), MAX_MEMORY, vec![address(0)]).unwrap();
        assert!(one.canonical().len() < MAX_LAYOUT_TEXT);
    }

    #[test]
    fn a_difference_names_the_field() {
        let (ours, theirs) = (layout(PAGE, 3), layout(2 * PAGE, 3));
        assert_eq!(
            ours.differences(&theirs.canonical()),
            ["k: ours 4096, theirs 8192"]
        );
        let more = layout(PAGE, 4);
        assert_eq!(
            ours.differences(&more.canonical()),
            [
                "n: ours 3, theirs 4",
                "server.3: ours nothing, theirs 10.0.0.3:7411"
            ]
        );
        assert_eq!(
            more.differences(&ours.canonical()),
            [
                "n: ours 4, theirs 3",
                "server.3: ours 10.0.0.3:7411, theirs nothing"
            ]
        );
        assert!(ours.differences(&ours.canonical()).is_empty());
        assert_ne!(ours.fingerprint(), theirs.fingerprint());
        let reversed: String = ours
            .canonical()
            .lines()
            .rev()
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(
            ours.differences(&reversed),
            ["the order or the ends of the lines"]
        );
        let twice = ours.canonical() + "k=1\nx=1\x1b\n";
        assert_eq!(
            ours.differences(&twice),
            ["x: ours nothing, theirs 1\\u{1b}"]
        );
    }

    #[test]
    fn many_or_long_differences_are_cut_and_counted() {
        let ours = layout(PAGE, 3);
        let name = |index: usize| format!("{index}{}=v", "x".repeat(1000));
        let mut theirs: String = (0..100)
            .map(|index| name(index) + &"y".repeat(1000) + "\n")
            .collect();
        theirs = ours.canonical() + &theirs;
        let found = ours.differences(&theirs);
        assert_eq!((found.len(), found[20].as_str()), (21, "and 80 more"));
        assert!(found.iter().all(|text| text.len() < 150), "{found:?}");
    }

    #[test]
    fn an_impossible_text_of_a_layout_is_refused_with_little_work() {
        let ours = layout(PAGE, 1000);
        // As many fields as fit, in texts of every length up to that of a frame. Comparing pair by
        // pair took seconds for the first one; all of them together must not take that long.
        let began = std::time::Instant::now();
        for length in [160_000, MAX_LAYOUT_TEXT, MAX_LAYOUT_TEXT + 1, 1 << 20] {
            let mut theirs = String::with_capacity(length);
            while theirs.len() < length {
                theirs += "f";
                theirs += &theirs.len().to_string();
                theirs += "\n";
            }
            theirs.truncate(length);
            for _ in 0..50 {
                assert_eq!(ours.differences(&theirs).len(), 1);
            }
        }
        let lines: String = (0..1027).map(|index| format!("{index}=\n")).collect();
        assert_eq!(ours.differences(&lines).len(), 21);
        println!("{:?}", began.elapsed());
        assert!(
            began.elapsed() < std::time::Duration::from_secs(30),
            "{:?}",
            began.elapsed()
        );
    }
}
