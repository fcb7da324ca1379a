//! The client's half of the handshake.
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Client, ClientError};
use crate::front::nbd::protocol::{
    BASE_ALLOCATION, INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake_flag, info, option,
    reply,
};

/// An option reply longer than this is not one.
const REPLY_BYTES_MAX: u32 = 64 * 1024;

impl Client {
    /// Connects and negotiates. `timeout` bounds each wait for the server; `None` waits for ever.
    pub fn connect(
        socket: &Path,
        export_name: &str,
        timeout: Option<Duration>,
    ) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(timeout)?;
        Self::negotiate(stream, export_name)
    }

    /// Negotiates on a connected stream.
    pub fn negotiate(stream: UnixStream, export_name: &str) -> Result<Self, ClientError> {
        let reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
        let mut talk = Talk { writer: stream, reader };
        talk.greet()?;
        let structured = talk.ask(option::STRUCTURED_REPLY, &[], |_, _| {})?.is_ok();
        let mut block_status = false;
        if structured {
            let query = [string(export_name), 1u32.to_be_bytes().to_vec(), string(BASE_ALLOCATION)]
                .concat();
            // The context's id is the server's choice; with one context asked for, it tells nothing.
            let answer = talk.ask(option::SET_META_CONTEXT, &query, |kind, data| {
                block_status |= kind == reply::META_CONTEXT
                    && data.get(4..) == Some(BASE_ALLOCATION.as_bytes());
            })?;
            block_status &= answer.is_ok();
        }
        let (size_bytes, flags) = talk.go(export_name)?;
        let Talk { writer, reader } = talk;
        Ok(Self {
            writer,
            reader,
            size_bytes,
            flags,
            block_status,
            next_cookie: 1,
            outstanding: HashMap::new(),
        })
    }
}

struct Talk {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Talk {
    fn greet(&mut self) -> Result<(), ClientError> {
        if self.u64()? != INIT_MAGIC || self.u64()? != OPTION_MAGIC {
            return Err(ClientError::Protocol("it does not greet like an NBD server"));
        }
        let flags = u16::from_be_bytes(self.array()?);
        let wanted = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        if flags & wanted != wanted {
            return Err(ClientError::Protocol("it does not speak fixed newstyle"));
        }
        Ok(self.writer.write_all(&u32::from(wanted).to_be_bytes())?)
    }

    /// Sends an option and reads its replies up to the last; that is `Ok`, or the server's refusal.
    fn ask(
        &mut self,
        option: u32,
        data: &[u8],
        mut each: impl FnMut(u32, &[u8]),
    ) -> Result<Result<(), String>, ClientError> {
        let length = u32::try_from(data.len()).expect("our options are short");
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(data);
        self.writer.write_all(&bytes)?;
        loop {
            if self.u64()? != OPTION_REPLY_MAGIC || self.u32()? != option {
                return Err(ClientError::Protocol("a reply to another option"));
            }
            let (kind, length) = (self.u32()?, self.u32()?);
            if length > REPLY_BYTES_MAX {
                return Err(ClientError::Protocol("an option reply of absurd length"));
            }
            let mut data = vec![0; usize::try_from(length).expect("bounded")];
            self.reader.read_exact(&mut data)?;
            match kind {
                reply::ACK => return Ok(Ok(())),
                _ if kind & (1 << 31) != 0 => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    return Ok(Err(format!("{text} (reply {kind:#x})")));
                }
                _ => each(kind, &data),
            }
        }
    }

    fn go(&mut self, export_name: &str) -> Result<(u64, u16), ClientError> {
        let data = [string(export_name), 0u16.to_be_bytes().to_vec()].concat();
        let mut export = None;
        let answer = self.ask(option::GO, &data, |kind, data| {
            let fields = data.split_first_chunk::<2>();
            if let Some((found, rest)) = fields
                && kind == reply::INFO
                && u16::from_be_bytes(*found) == info::EXPORT
                && let Some((size, flags)) = rest.split_first_chunk::<8>()
                && let Ok(flags) = <[u8; 2]>::try_from(flags)
            {
                export = Some((u64::from_be_bytes(*size), u16::from_be_bytes(flags)));
            }
        })?;
        if let Err(text) = answer {
            return Err(ClientError::Refused { what: "the export", text });
        }
        export.ok_or(ClientError::Protocol("GO was answered without the export's size"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ClientError> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ClientError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ClientError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

fn string(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("names are short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}
