//! The header of a file: the layout, the servers and the time of the cut. A [`Header`] is sound:
//! only checked values make one.

use super::format::{
    CHECKSUM, DEFAULT_FRAME, MAGIC, MAX_FRAME, MAX_HEADER, MAX_HOSTNAME, MAX_TOOL, NO_MASTER,
    PAGE_BYTES, PARTIAL, RawHeader, RawServer, VERSION,
};
use dsm_core::layout::{Layout, LayoutError, MAX_ADDRESS_TEXT, MAX_NAME, MAX_SERVERS, PAGE};
use std::num::NonZeroU64;
use std::ops::Range;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// A server in the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// The incarnation of its segment; `None` when the snapshot lacks the server.
    pub incarnation: Option<NonZeroU64>,
    /// The hostname of its machine; empty when it is not known.
    pub hostname: String,
}

/// The values of a header before [`Header::new`] checks them.
#[derive(Debug, Clone)]
pub struct HeaderFields {
    /// The snapshot's random id.
    pub id: [u8; 16],
    /// The time of the cut by the master's clock, in ns since 1970.
    pub cut_time: u64,
    /// k, N, the name of the system and the addresses of the servers.
    pub layout: Layout,
    /// The servers, in map order.
    pub servers: Vec<ServerInfo>,
    /// The index of the server whose machine wrote the file; none when a machine without a server
    /// did.
    pub master: Option<usize>,
    /// The most bytes of memory that a frame covers: whole pages, up to [`MAX_FRAME`].
    pub frame_size: u32,
}

/// The header of a file, whose values were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    id: [u8; 16],
    cut_time: u64,
    tool: String,
    layout: Layout,
    servers: Vec<ServerInfo>,
    master: Option<usize>,
    frame_size: u32,
}

/// Why bytes or values are not a header of a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file does not begin with the magic bytes.
    #[error("it does not begin as a snapshot does")]
    Magic,
    /// The version of the format is not supported.
    #[error(
        "it has version {0} of the format, and this program reads version {VERSION}: use the \
         release that wrote it"
    )]
    Version(u32),
    /// The file ends inside its header.
    #[error("it ends inside its header, after {0} bytes")]
    Short(usize),
    /// The checksum does not match.
    #[error("its header is damaged: the checksum is {expected:08x}, the bytes have {found:08x}")]
    Checksum {
        /// The checksum in the header.
        expected: u32,
        /// The checksum of its bytes.
        found: u32,
    },
    /// A field has a value that is not allowed.
    #[error("its header has {field} {found}: allowed is {allowed}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// k, N, the name and the addresses are not a layout.
    #[error("the layout in its header is not valid: {0}")]
    Layout(#[from] LayoutError),
}

impl HeaderError {
    fn field(
        field: &'static str,
        found: impl std::fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Field {
            field,
            found: found.to_string(),
            allowed: allowed.into(),
        }
    }
}

impl Header {
    /// Makes a header of values that it checks. The tool is this program and its version.
    ///
    /// # Errors
    /// The first value that is not allowed.
    pub fn new(fields: HeaderFields) -> Result<Self, HeaderError> {
        Self::with_tool(
            fields,
            concat!("dsm ", env!("CARGO_PKG_VERSION")).to_owned(),
        )
    }

    fn with_tool(fields: HeaderFields, tool: String) -> Result<Self, HeaderError> {
        let HeaderFields {
            id,
            cut_time,
            layout,
            servers,
            master,
            frame_size,
        } = fields;
        let n = layout.server_count();
        if servers.len() != n {
            return Err(HeaderError::field(
                "a number of servers of",
                servers.len(),
                format!("n, {n}"),
            ));
        }
        if let Some(master) = master.filter(|master| *master >= n) {
            return Err(HeaderError::field(
                "master",
                master,
                format!("0 to {}, or {NO_MASTER} for none", n - 1),
            ));
        }
        if frame_size == 0 || frame_size > MAX_FRAME || !u64::from(frame_size).is_multiple_of(PAGE)
        {
            let allowed = format!("a multiple of {PAGE} up to {MAX_FRAME}");
            return Err(HeaderError::field("frame size", frame_size, allowed));
        }
        check_text("tool", &tool, MAX_TOOL, |c| {
            c == ' ' || c.is_ascii_graphic()
        })?;
        for server in &servers {
            check_text("hostname", &server.hostname, MAX_HOSTNAME, |c| {
                c.is_ascii_graphic()
            })?;
        }
        if servers.iter().all(|server| server.incarnation.is_none()) {
            return Err(HeaderError::field(
                "incarnations",
                "of no server",
                "at least one server that is not missing",
            ));
        }
        Ok(Self {
            id,
            cut_time,
            tool,
            layout,
            servers,
            master,
            frame_size,
        })
    }

    /// The snapshot's random id.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The time of the cut by the master's clock, in ns since 1970.
    #[must_use]
    pub fn cut_time(&self) -> u64 {
        self.cut_time
    }

    /// The name and version of the program that wrote the file.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// k, N, the name of the system and the addresses of the servers at the cut.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The servers, in map order.
    #[must_use]
    pub fn servers(&self) -> &[ServerInfo] {
        &self.servers
    }

    /// The index of the server whose machine wrote the file; none when a machine without a server
    /// did.
    #[must_use]
    pub fn master(&self) -> Option<usize> {
        self.master
    }

    /// The most bytes of memory that a frame covers.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Whether the snapshot lacks a server.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.servers
            .iter()
            .any(|server| server.incarnation.is_none())
    }

    /// Whether server `index` is in the map and in the snapshot.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.servers
            .get(index)
            .is_some_and(|server| server.incarnation.is_some())
    }

    /// The addresses that server `index` of the map holds.
    #[must_use]
    pub fn addresses_of(&self, index: usize) -> Range<u64> {
        let k = self.layout.share_size();
        index as u64 * k..(index as u64 + 1) * k
    }

    /// The bytes of the header.
    #[must_use]
    // The checks bound every length below.
    #[allow(clippy::cast_possible_truncation)]
    pub fn encode(&self) -> Vec<u8> {
        let fixed = RawHeader {
            magic: MAGIC,
            version: U32::new(VERSION),
            length: U32::ZERO,
            id: self.id,
            cut_time: U64::new(self.cut_time),
            k: U64::new(self.layout.share_size()),
            n: U32::new(self.layout.server_count() as u32),
            master: U32::new(self.master.map_or(NO_MASTER, |master| master as u32)),
            frame_size: U32::new(self.frame_size),
            flags: U32::new(if self.is_partial() { PARTIAL } else { 0 }),
            name_length: U16::new(self.layout.name().len() as u16),
            tool_length: U16::new(self.tool.len() as u16),
            reserved: U32::ZERO,
        };
        let mut bytes = fixed.as_bytes().to_vec();
        bytes.extend_from_slice(self.layout.name().as_bytes());
        bytes.extend_from_slice(self.tool.as_bytes());
        for (server, address) in self.servers.iter().zip(self.layout.addresses()) {
            let entry = RawServer {
                incarnation: U64::new(server.incarnation.map_or(0, NonZeroU64::get)),
                address_length: U16::new(address.len() as u16),
                hostname_length: U16::new(server.hostname.len() as u16),
            };
            bytes.extend_from_slice(entry.as_bytes());
            bytes.extend_from_slice(address.as_bytes());
            bytes.extend_from_slice(server.hostname.as_bytes());
        }
        let length = (bytes.len() + CHECKSUM) as u32;
        bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Parses the header at the start of `bytes`, which may be longer. Also returns the length of
    /// the header in bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), HeaderError> {
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if magic != &MAGIC[..magic.len()] {
            return Err(HeaderError::Magic);
        }
        let short = HeaderError::Short(bytes.len());
        let Ok((fixed, _)) = RawHeader::read_from_prefix(bytes) else {
            return Err(short);
        };
        if fixed.version.get() != VERSION {
            return Err(HeaderError::Version(fixed.version.get()));
        }
        let length = fixed.length.get() as usize;
        if !(size_of::<RawHeader>() + CHECKSUM..=MAX_HEADER).contains(&length) {
            return Err(HeaderError::field(
                "length",
                length,
                format!("up to {MAX_HEADER}"),
            ));
        }
        let Some((covered, checksum)) = bytes.get(..length).and_then(<[u8]>::split_last_chunk)
        else {
            return Err(short);
        };
        let (expected, found) = (u32::from_le_bytes(*checksum), crc32c::crc32c(covered));
        if expected != found {
            return Err(HeaderError::Checksum { expected, found });
        }
        Ok((
            Self::parse_fields(&fixed, &covered[size_of::<RawHeader>()..])?,
            length,
        ))
    }

    fn parse_fields(fixed: &RawHeader, bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = VariablePart(bytes);
        let name = rest.text("name", fixed.name_length, MAX_NAME)?;
        let tool = rest.text("tool", fixed.tool_length, MAX_TOOL)?;
        let n = fixed.n.get() as usize;
        if n == 0 || n > MAX_SERVERS {
            return Err(HeaderError::Layout(LayoutError::Count(n)));
        }
        let (mut addresses, mut servers) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for _ in 0..n {
            let server = rest.server()?;
            addresses.push(rest.text("address", server.address_length, MAX_ADDRESS_TEXT)?);
            let hostname = rest.text("hostname", server.hostname_length, MAX_HOSTNAME)?;
            servers.push(ServerInfo {
                incarnation: NonZeroU64::new(server.incarnation.get()),
                hostname,
            });
        }
        if !rest.0.is_empty() {
            return Err(HeaderError::field(
                "bytes after its last server:",
                rest.0.len(),
                "none",
            ));
        }
        let header = Self::with_tool(
            HeaderFields {
                id: fixed.id,
                cut_time: fixed.cut_time.get(),
                layout: Layout::new(&name, fixed.k.get(), addresses)?,
                servers,
                master: Some(fixed.master.get())
                    .filter(|master| *master != NO_MASTER)
                    .map(|master| master as usize),
                frame_size: fixed.frame_size.get(),
            },
            tool,
        )?;
        let flags = if header.is_partial() { PARTIAL } else { 0 };
        if fixed.flags.get() != flags || fixed.reserved.get() != 0 {
            let found = format!("{:#x} and {:#x}", fixed.flags, fixed.reserved);
            return Err(HeaderError::field(
                "flags and reserved bits",
                found,
                format!("{flags:#x} and 0"),
            ));
        }
        Ok(header)
    }
}

impl HeaderFields {
    /// The fields of a snapshot of the servers of `layout`, with a new random id and frames of the
    /// default size. `incarnations` has one for each server, 0 for one that the snapshot lacks.
    ///
    /// # Errors
    /// When the kernel returns no random bytes.
    pub fn new(
        layout: Layout,
        cut_time: u64,
        incarnations: &[u64],
        master: Option<usize>,
    ) -> Result<Self, getrandom::Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let server = |number: &u64| ServerInfo {
            incarnation: NonZeroU64::new(*number),
            hostname: String::new(),
        };
        let servers = incarnations.iter().map(server).collect();
        Ok(Self {
            id,
            cut_time,
            layout,
            servers,
            master,
            frame_size: DEFAULT_FRAME,
        })
    }
}

/// The offset of the length field in the header.
const LENGTH_AT: usize = std::mem::offset_of!(RawHeader, length);

const _: () =
    assert!(DEFAULT_FRAME <= MAX_FRAME && (DEFAULT_FRAME as usize).is_multiple_of(PAGE_BYTES));

fn check_text(
    field: &'static str,
    text: &str,
    longest: usize,
    allowed: impl Fn(char) -> bool,
) -> Result<(), HeaderError> {
    if text.len() > longest || !text.chars().all(allowed) {
        let allowed = format!("up to {longest} printable ASCII characters");
        return Err(HeaderError::field(field, format_args!("{text:?}"), allowed));
    }
    Ok(())
}

/// The unread rest of the header's variable part.
struct VariablePart<'a>(&'a [u8]);

impl VariablePart<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8], HeaderError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| {
            HeaderError::field(
                "a length of",
                length,
                format!("up to the {} bytes left", self.0.len()),
            )
        })?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(
        &mut self,
        field: &'static str,
        length: U16,
        longest: usize,
    ) -> Result<String, HeaderError> {
        let length = usize::from(length.get());
        if length > longest {
            return Err(HeaderError::field(
                field,
                format_args!("of {length} bytes"),
                format!("up to {longest}"),
            ));
        }
        let bytes = self.take(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| HeaderError::field(field, "that is not text", "ASCII"))
    }

    fn server(&mut self) -> Result<RawServer, HeaderError> {
        let bytes = self.take(size_of::<RawServer>())?;
        RawServer::read_from_bytes(bytes).map_err(|_| HeaderError::Short(bytes.len()))
    }
}
