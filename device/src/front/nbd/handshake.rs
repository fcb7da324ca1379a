//! The server's half of the fixed newstyle handshake (doc/proto.md, "Fixed newstyle negotiation"), over any byte stream.
//!
//! Everything the client sends is untrusted: options are bounded in number and size, and every end has a reason.
use std::io::{self, Read, Write};

use super::protocol::{
    BASE_ALLOCATION, INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, STRING_BYTES_MAX, export_flag,
    handshake_flag, info, option, reply,
};

/// An option's data: the largest legal one is a GO or a SET_META_CONTEXT with two strings of the longest kind and some
/// counts; the bound is that with room to spare.
const OPTION_BYTES_MAX: usize = 16 * 1024;
/// A client that needs more options than this is not negotiating (libnbd and qemu send fewer than 10).
const OPTIONS_MAX: usize = 64;
/// The context id we give to `base:allocation`; any nonzero number would do.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// What is exported, as the handshake announces it.
#[derive(Debug, Clone)]
pub struct ExportInfo {
    /// The export's name. The empty name, which means "the default", finds it too.
    pub name: String,
    /// For people.
    pub description: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The largest request in bytes.
    pub request_bytes_max: u32,
}

impl ExportInfo {
    /// The transmission flags. `DF` is a promise about structured replies, so it depends on them.
    pub fn flags(&self, structured: bool) -> u16 {
        use export_flag as f;
        let base = f::HAS_FLAGS | f::SEND_FLUSH | f::SEND_FUA | f::CAN_MULTI_CONN;
        let writes = if self.read_only {
            f::READ_ONLY
        } else {
            f::SEND_TRIM | f::SEND_WRITE_ZEROES | f::SEND_FAST_ZERO
        };
        base | writes | if structured { f::SEND_DF } else { 0 }
    }

    fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}

/// What was agreed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Reads are answered in chunks.
    pub structured: bool,
    /// `BLOCK_STATUS` may be asked for `base:allocation`.
    pub base_allocation: bool,
}

/// Why a handshake ended without an export.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeEnd {
    /// The client said goodbye, or hung up between two options. Not a fault: `nbdinfo --list` does it.
    #[error("the client left")]
    Left,
    /// The connection failed or was silent for too long.
    #[error("the connection failed: {0}")]
    Stream(io::Error),
    /// Unknown client flags (the protocol demands a disconnect).
    #[error("the client set unknown handshake flags {0:#x}")]
    ClientFlags(u32),
    /// The client does not speak the option format.
    #[error("an option began with {0:#018x} instead of its magic: not an NBD client?")]
    OptionMagic(u64),
    /// An option claimed more data than any needs.
    #[error("option {option} claimed {length} bytes of data")]
    OptionTooBig {
        /// The option's number.
        option: u32,
        /// What it claimed.
        length: u32,
    },
    /// Too many options.
    #[error("the client sent more than {OPTIONS_MAX} options")]
    TooManyOptions,
    /// `EXPORT_NAME` for an export that we do not have; the protocol has no error reply for it.
    #[error("the client asked for export {0:?} with EXPORT_NAME; there is no such export")]
    UnknownExport(String),
}

impl From<io::Error> for HandshakeEnd {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Left,
            _ => Self::Stream(error),
        }
    }
}

/// What follows an option.
enum Next {
    Option,
    Transmission,
    Leave,
}

/// Negotiates until the client enters transmission.
pub fn negotiate<S: Read + Write>(
    stream: &mut S,
    export: &ExportInfo,
) -> Result<Negotiated, HandshakeEnd> {
    let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(INIT_MAGIC.to_be_bytes());
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend(flags.to_be_bytes());
    stream.write_all(&greeting)?;
    let client_flags = u32::from_be_bytes(read_array(stream)?);
    if client_flags & !u32::from(flags) != 0 {
        return Err(HandshakeEnd::ClientFlags(client_flags));
    }
    let no_zeroes = client_flags & u32::from(handshake_flag::NO_ZEROES) != 0;
    let mut talk = Talk { stream, export, no_zeroes, agreed: Negotiated::default() };
    for _ in 0..OPTIONS_MAX {
        match talk.serve_option()? {
            Next::Option => {}
            Next::Transmission => return Ok(talk.agreed),
            Next::Leave => return Err(HandshakeEnd::Left),
        }
    }
    Err(HandshakeEnd::TooManyOptions)
}

struct Talk<'a, S> {
    stream: &'a mut S,
    export: &'a ExportInfo,
    no_zeroes: bool,
    agreed: Negotiated,
}

impl<S: Read + Write> Talk<'_, S> {
    fn serve_option(&mut self) -> Result<Next, HandshakeEnd> {
        let magic = u64::from_be_bytes(read_array(self.stream)?);
        if magic != OPTION_MAGIC {
            return Err(HandshakeEnd::OptionMagic(magic));
        }
        let option = u32::from_be_bytes(read_array(self.stream)?);
        let length = u32::from_be_bytes(read_array(self.stream)?);
        let mut data = match usize::try_from(length) {
            Ok(length) if length <= OPTION_BYTES_MAX => vec![0; length],
            _ => return Err(HandshakeEnd::OptionTooBig { option, length }),
        };
        self.stream.read_exact(&mut data)?;
        match option {
            option::EXPORT_NAME => return self.export_name(&data),
            option::ABORT => {
                self.reply(option, reply::ACK, &[])?;
                return Ok(Next::Leave);
            }
            option::LIST => self.list(&data)?,
            option::INFO | option::GO => return self.go(option, &data),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.agreed.structured = true;
                self.reply(option, reply::ACK, &[])?;
            }
            option::STRUCTURED_REPLY => {
                self.refuse(option, reply::ERR_INVALID, "STRUCTURED_REPLY takes no data")?;
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, &data)?,
            _ => self.refuse(option, reply::ERR_UNSUP, "option not supported")?,
        }
        Ok(Next::Option)
    }

    fn export_name(&mut self, name: &[u8]) -> Result<Next, HandshakeEnd> {
        if !self.export.is_called(name) {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(HandshakeEnd::UnknownExport(name));
        }
        let mut answer = self.export.size_bytes.to_be_bytes().to_vec();
        answer.extend(self.export.flags(self.agreed.structured).to_be_bytes());
        if !self.no_zeroes {
            answer.resize(answer.len() + 124, 0);
        }
        self.stream.write_all(&answer)?;
        Ok(Next::Transmission)
    }

    fn list(&mut self, data: &[u8]) -> Result<(), HandshakeEnd> {
        if !data.is_empty() {
            return self.refuse(option::LIST, reply::ERR_INVALID, "LIST takes no data");
        }
        let mut server = length_of(&self.export.name).to_be_bytes().to_vec();
        server.extend(self.export.name.as_bytes());
        server.extend(self.export.description.as_bytes());
        self.reply(option::LIST, reply::SERVER, &server)?;
        self.reply(option::LIST, reply::ACK, &[])
    }

    /// `GO` and `INFO`: a name, then the kinds of information that the client wants.
    fn go(&mut self, option: u32, data: &[u8]) -> Result<Next, HandshakeEnd> {
        let mut fields = Fields(data);
        let parsed = fields.string().and_then(|name| {
            let count = fields.u16()?;
            let kinds = (0..count).map(|_| fields.u16()).collect::<Option<Vec<_>>>()?;
            fields.0.is_empty().then_some((name, kinds))
        });
        let Some((name, kinds)) = parsed else {
            self.refuse(option, reply::ERR_INVALID, "malformed GO or INFO")?;
            return Ok(Next::Option);
        };
        if !self.export.is_called(name) {
            let text = format!("no such export; this server exports {:?}", self.export.name);
            self.refuse(option, reply::ERR_UNKNOWN, &text)?;
            return Ok(Next::Option);
        }
        let mut export = info::EXPORT.to_be_bytes().to_vec();
        export.extend(self.export.size_bytes.to_be_bytes());
        export.extend(self.export.flags(self.agreed.structured).to_be_bytes());
        self.reply(option, reply::INFO, &export)?;
        for (kind, payload) in [
            (info::NAME, self.export.name.as_bytes().to_vec()),
            (info::DESCRIPTION, self.export.description.as_bytes().to_vec()),
            (info::BLOCK_SIZE, self.block_sizes()),
        ] {
            if kinds.contains(&kind) {
                let mut answer = kind.to_be_bytes().to_vec();
                answer.extend(payload);
                self.reply(option, reply::INFO, &answer)?;
            }
        }
        self.reply(option, reply::ACK, &[])?;
        Ok(if option == option::GO { Next::Transmission } else { Next::Option })
    }

    /// Minimum (any byte), preferred (a unit: smaller writes read first), maximum.
    fn block_sizes(&self) -> Vec<u8> {
        [1, 4096, self.export.request_bytes_max].map(u32::to_be_bytes).concat()
    }

    /// `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<(), HandshakeEnd> {
        let setting = option == option::SET_META_CONTEXT;
        if setting {
            // A SET replaces what was set before, even when it fails.
            self.agreed.base_allocation = false;
        }
        if !self.agreed.structured {
            return self.refuse(option, reply::ERR_INVALID, "negotiate structured replies first");
        }
        let mut fields = Fields(data);
        let parsed = fields.string().and_then(|name| {
            let count = fields.u32()?;
            // Each query takes 4 bytes at least, so a lying count ends with the data.
            let mut wanted = count == 0 && !setting;
            for _ in 0..count {
                wanted |= matches(fields.string()?, setting);
            }
            fields.0.is_empty().then_some((name, wanted))
        });
        let Some((name, wanted)) = parsed else {
            return self.refuse(option, reply::ERR_INVALID, "malformed metadata context query");
        };
        if !self.export.is_called(name) {
            return self.refuse(option, reply::ERR_UNKNOWN, "no such export");
        }
        if wanted {
            // In a LIST the id is reserved: zero.
            let id = if setting { BASE_ALLOCATION_ID } else { 0 };
            let mut context = id.to_be_bytes().to_vec();
            context.extend(BASE_ALLOCATION.as_bytes());
            self.reply(option, reply::META_CONTEXT, &context)?;
            self.agreed.base_allocation |= setting;
        }
        self.reply(option, reply::ACK, &[])
    }

    fn refuse(&mut self, option: u32, kind: u32, text: &str) -> Result<(), HandshakeEnd> {
        self.reply(option, kind, text.as_bytes())
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<(), HandshakeEnd> {
        let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        let length = u32::try_from(data.len()).expect("our replies are short");
        bytes.extend(length.to_be_bytes());
        bytes.extend(data);
        Ok(self.stream.write_all(&bytes)?)
    }
}

/// Whether a context query selects `base:allocation`. A list may ask for the whole namespace.
fn matches(query: &[u8], setting: bool) -> bool {
    query == BASE_ALLOCATION.as_bytes() || (!setting && query == b"base:")
}

fn length_of(name: &str) -> u32 {
    u32::try_from(name.len()).expect("export names are bounded by the server's configuration")
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A bounded reader of an option's data.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        if length > STRING_BYTES_MAX { None } else { self.take(length) }
    }
}
