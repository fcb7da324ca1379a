//! NBD as far as reads need it (github.com/NetworkBlockDevice/nbd, doc/proto.md): fixed newstyle handshake, export by name,
//! simple replies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, bail, ensure};

use super::stream;
use super::wire::{Head, Wire};

/// "NBDMAGIC" and "IHAVEOPT" (proto.md, "Newstyle negotiation").
const GREETING: [u8; 16] = *b"NBDMAGICIHAVEOPT";
/// Handshake flags that we share with the server: fixed newstyle, no zeroes behind the export's size.
const FLAGS: u16 = 0b11;
/// The second of them.
const NO_ZEROES: u16 = 0b10;
/// Zeroes behind the export's size, where the server insists on them.
const ZEROES: usize = 124;
/// Option `NBD_OPT_EXPORT_NAME`: after its answer, reads begin.
const EXPORT_NAME: u32 = 1;
/// Magic numbers of a request and of a simple reply.
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

/// The codec. It has no state: offset and length are in the request, and the tag in the reply.
#[derive(Debug)]
pub struct Nbd;

/// Opens a connection; gives it and the export's size in bytes.
///
/// # Errors
/// When nobody answers, or not in this protocol.
pub fn connect(server: SocketAddr, export: &str) -> anyhow::Result<(TcpStream, Nbd, u64)> {
    let mut stream = stream::connect(server)?;
    let bytes =
        greet(&mut stream, export).with_context(|| format!("NBD handshake with {server}"))?;
    Ok((stream, Nbd, bytes))
}

fn greet(stream: &mut (impl Read + Write), export: &str) -> anyhow::Result<u64> {
    let mut hello = [0; 18];
    stream.read_exact(&mut hello)?;
    ensure!(hello[..16] == GREETING, "no NBD server of the newstyle kind");
    let shared = u16::from_be_bytes([hello[16], hello[17]]) & FLAGS;
    let mut out = u32::from(shared).to_be_bytes().to_vec();
    out.extend(b"IHAVEOPT");
    out.extend(EXPORT_NAME.to_be_bytes());
    out.extend(u32::try_from(export.len()).context("the export's name")?.to_be_bytes());
    out.extend(export.as_bytes());
    stream.write_all(&out)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).with_context(|| format!("is there an export {export:?}?"))?;
    if shared & NO_ZEROES == 0 {
        stream.read_exact(&mut [0; ZEROES])?;
    }
    let (size, _) = answer.split_first_chunk::<8>().expect("ten bytes");
    Ok(u64::from_be_bytes(*size))
}

impl Wire for Nbd {
    const HEADER: usize = 16;

    fn ask(&mut self, tag: u32, offset: u64, bytes: u32, out: &mut Vec<u8>) {
        out.extend(REQUEST.to_be_bytes());
        // No flags; command 0 is a read.
        out.extend([0; 4]);
        out.extend(u64::from(tag).to_be_bytes());
        out.extend(offset.to_be_bytes());
        out.extend(bytes.to_be_bytes());
    }

    fn head(&mut self, header: &[u8]) -> anyhow::Result<Head> {
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        ensure!(word(0) == SIMPLE_REPLY, "a reply begins with {:#x}", word(0));
        if word(4) != 0 {
            bail!("the server says: error {}", word(4));
        }
        ensure!(word(8) == 0, "a reply to no request of ours");
        Ok(Head { tag: word(12), at: 0, bytes: None, padding: 0, done: true })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Answers from a script, and keeps what it is told.
    struct Script {
        says: Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.heard.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn greeted(flags: u16, zeroes: usize) -> (anyhow::Result<u64>, Vec<u8>) {
        let mut says = GREETING.to_vec();
        says.extend(flags.to_be_bytes());
        says.extend((1u64 << 30).to_be_bytes());
        says.extend([0, 3]);
        says.extend(vec![0; zeroes]);
        let mut script = Script { says: Cursor::new(says), heard: Vec::new() };
        let size = greet(&mut script, "vd");
        (size, script.heard)
    }

    #[test]
    fn the_handshake_asks_for_the_export_and_gets_its_size() {
        let (size, heard) = greeted(3, 0);
        assert_eq!(size.unwrap(), 1 << 30);
        assert_eq!(heard, b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x02vd");
        assert!(greeted(1, ZEROES).0.is_ok());
        assert!(
            greeted(1, ZEROES - 1).0.is_err(),
            "zeroes are awaited where the server sends them"
        );
    }

    #[test]
    fn a_request_and_its_reply_are_laid_out_as_the_protocol_says() {
        let mut out = Vec::new();
        Nbd.ask(7, 0x1234_5000, 4096, &mut out);
        let expected = [
            &[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 0, 0, 0, 0x12, 0x34, 0x50, 0],
            &[0, 0, 0x10, 0],
        ];
        assert_eq!(out, expected.concat());
        let reply = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let head = Nbd.head(&reply).unwrap();
        assert_eq!((head.tag, head.bytes, head.done), (7, None, true));
        for (at, words) in [(0, "begins with"), (7, "error 1"), (8, "no request of ours")] {
            let mut bad = reply;
            bad[at] ^= 1;
            assert!(Nbd.head(&bad).unwrap_err().to_string().contains(words), "{at}");
        }
    }
}
