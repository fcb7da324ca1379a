//! iSCSI as far as reads need it (RFC 7143): one connection a session, no authentication, no digests, READ(10).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, bail, ensure};

use super::stream;
use super::wire::{Head, Wire};

/// Bytes of every PDU's header (RFC 7143, 11.2.1).
const HEADER: usize = 48;
/// Opcodes (11.2.1.2), those of requests with their immediate bit where we set it.
const LOGIN: u8 = 0x43;
const COMMAND: u8 = 0x01;
const LOGIN_RESPONSE: u8 = 0x23;
const RESPONSE: u8 = 0x21;
const DATA_IN: u8 = 0x25;
/// Login flags (11.12.1): go from operational negotiation to the full feature phase.
const TO_FULL_FEATURE: u8 = 0x80 | (1 << 2) | 3;
/// Command flags (11.3.1): the only PDU of the command, which reads; simple task.
const FINAL: u8 = 0x80;
const READS: u8 = 0x40;
const SIMPLE: u8 = 0x01;
/// Data-In flag (11.7.1): the status is in here, no response follows.
const HAS_STATUS: u8 = 0x01;
/// Data of one Data-In PDU and of one burst that we take.
const SEGMENT_BYTES_MAX: u32 = 1 << 20;
/// A logical unit's blocks, as tgt makes them of a file.
const BLOCK: u32 = 512;
/// The logical unit; tgt keeps number 0 for its controller.
const UNIT: u8 = 1;
/// The first command of a session hears of the target's reset and the like: so many such before it counts as trouble.
const ATTENTIONS_MAX: u32 = 4;

/// The codec of one session.
#[derive(Debug, Default)]
pub struct Iscsi {
    command: u32,
    expected_status: u32,
}

/// Logs in; gives the connection and the unit's size in bytes.
///
/// # Errors
/// When nobody answers, or refuses.
pub fn connect(
    server: SocketAddr,
    target: &str,
    number: usize,
) -> anyhow::Result<(TcpStream, Iscsi, u64)> {
    let mut stream = stream::connect(server)?;
    let mut session = Iscsi::default();
    let bytes = session
        .log_in(&mut stream, target, number)
        .and_then(|()| session.open_unit(&mut stream))
        .with_context(|| format!("iSCSI login at {server}"))?;
    Ok((stream, session, bytes))
}

fn word(header: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"))
}

/// Bytes of data behind a header, and of padding behind them (11.2.1.5; digests are off).
fn data_bytes(header: &[u8]) -> (usize, usize) {
    let bytes = (word(header, 4) & 0x00ff_ffff) as usize;
    (bytes, bytes.next_multiple_of(4) - bytes)
}

/// A header, and data of at most a few KiB, while the session is set up.
fn receive(stream: &mut impl Read) -> anyhow::Result<([u8; HEADER], Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let (bytes, padding) = data_bytes(&header);
    ensure!(bytes <= 64 << 10, "{bytes} bytes of data while logging in");
    let mut data = vec![0; bytes + padding];
    stream.read_exact(&mut data)?;
    data.truncate(bytes);
    Ok((header, data))
}

impl Iscsi {
    fn log_in(
        &mut self,
        stream: &mut (impl Read + Write),
        target: &str,
        number: usize,
    ) -> anyhow::Result<()> {
        let text = format!(
            "InitiatorName=iqn.2026-11.invalid.example:bench{number}\0TargetName={target}\0SessionType=Normal\0\
             HeaderDigest=None\0DataDigest=None\0MaxConnections=1\0ErrorRecoveryLevel=0\0InitialR2T=Yes\0\
             MaxRecvDataSegmentLength={SEGMENT_BYTES_MAX}\0MaxBurstLength={SEGMENT_BYTES_MAX}\0\
             DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0"
        );
        let mut header = [0; HEADER];
        header[0] = LOGIN;
        header[1] = TO_FULL_FEATURE;
        header[4..8].copy_from_slice(&u32::try_from(text.len())?.to_be_bytes());
        // ISID of the random kind (11.12.5), a qualifier for each session.
        header[8] = 0x80;
        header[10..14].copy_from_slice(&u32::try_from(number)?.to_be_bytes());
        let mut out = header.to_vec();
        out.extend(text.as_bytes());
        out.resize(HEADER + text.len().next_multiple_of(4), 0);
        stream.write_all(&out)?;
        let (answer, _) = receive(stream)?;
        ensure!(answer[0] == LOGIN_RESPONSE, "opcode {:#x} instead of a login response", answer[0]);
        let (class, detail) = (answer[36], answer[37]);
        ensure!(class == 0, "the target refuses: status class {class}, detail {detail}");
        ensure!(answer[1] == TO_FULL_FEATURE, "the target wants to negotiate further");
        self.expected_status = word(&answer, 24).wrapping_add(1);
        self.command = word(&answer, 28);
        Ok(())
    }

    /// Asks for the capacity until the target has told what it must tell first.
    fn open_unit(&mut self, stream: &mut (impl Read + Write)) -> anyhow::Result<u64> {
        for _ in 0..ATTENTIONS_MAX {
            let mut out = Vec::new();
            // READ CAPACITY(10), SBC-3.
            self.command(u32::MAX - 1, 8, &[0x25], &mut out);
            stream.write_all(&out)?;
            let mut capacity = Vec::new();
            let status = loop {
                let (header, data) = receive(stream)?;
                self.expected_status = word(&header, 24).wrapping_add(1);
                match header[0] {
                    DATA_IN => capacity = data,
                    RESPONSE => break header[3],
                    other => bail!("opcode {other:#x} instead of an answer"),
                }
                if header[1] & HAS_STATUS != 0 {
                    break header[3];
                }
            };
            if status == 0 && capacity.len() >= 8 {
                let (last, block) = (word(&capacity, 0), word(&capacity, 4));
                ensure!(block == BLOCK, "blocks of {block} bytes instead of {BLOCK}");
                return Ok((u64::from(last) + 1) * u64::from(BLOCK));
            }
        }
        bail!("the unit is not ready")
    }

    fn command(&mut self, tag: u32, bytes: u32, cdb: &[u8], out: &mut Vec<u8>) {
        let mut header = [0; HEADER];
        header[0] = COMMAND;
        header[1] = FINAL | READS | SIMPLE;
        header[9] = UNIT;
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        header[20..24].copy_from_slice(&bytes.to_be_bytes());
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.expected_status.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.command = self.command.wrapping_add(1);
        out.extend(header);
    }
}

impl Wire for Iscsi {
    const HEADER: usize = HEADER;

    fn ask(&mut self, tag: u32, offset: u64, bytes: u32, out: &mut Vec<u8>) {
        let block = u32::try_from(offset / u64::from(BLOCK)).expect("images here are below 2 TiB");
        let blocks = u16::try_from(bytes / BLOCK).expect("a read is below 32 MiB");
        let [a, b, c, d] = block.to_be_bytes();
        let [high, low] = blocks.to_be_bytes();
        // READ(10), SBC-3.
        self.command(tag, bytes, &[0x28, 0, a, b, c, d, 0, high, low, 0], out);
    }

    fn head(&mut self, header: &[u8]) -> anyhow::Result<Head> {
        let (bytes, padding) = data_bytes(header);
        let (opcode, flags, status) = (header[0], header[1], header[3]);
        let has_status = opcode == RESPONSE || flags & HAS_STATUS != 0;
        ensure!(opcode == DATA_IN || opcode == RESPONSE, "opcode {opcode:#x} instead of an answer");
        if has_status {
            self.expected_status = word(header, 24).wrapping_add(1);
            ensure!(status == 0, "the target says: SCSI status {status}");
        }
        // A response's data would be sense data; there is none with a good status.
        ensure!(opcode == DATA_IN || bytes == 0, "{bytes} bytes of data in a response");
        let at = if opcode == DATA_IN { word(header, 40) as usize } else { 0 };
        Ok(Head { tag: word(header, 16), at, bytes: Some(bytes), padding, done: has_status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_laid_out_as_the_rfc_says_and_commands_are_numbered() {
        let mut session = Iscsi { command: 9, expected_status: 4 };
        let mut out = Vec::new();
        session.ask(3, 8 << 20, 32 << 10, &mut out);
        assert_eq!(out.len(), HEADER);
        assert_eq!(out[..2], [0x01, 0xc1]);
        assert_eq!(out[8..16], [0, 1, 0, 0, 0, 0, 0, 0], "logical unit 1");
        assert_eq!((word(&out, 16), word(&out, 20)), (3, 32 << 10), "tag, bytes");
        assert_eq!((word(&out, 24), word(&out, 28)), (9, 4), "CmdSN, ExpStatSN");
        assert_eq!(out[32..42], [0x28, 0, 0, 0, 0x40, 0, 0, 0, 64, 0]);
        assert_eq!(session.command, 10);
    }

    #[test]
    fn answers_are_taken_apart() {
        let mut session = Iscsi::default();
        let mut header = [0; HEADER];
        header[0] = DATA_IN;
        header[6..8].copy_from_slice(&4098u16.to_be_bytes());
        header[16..20].copy_from_slice(&5u32.to_be_bytes());
        header[24..28].copy_from_slice(&77u32.to_be_bytes());
        header[40..44].copy_from_slice(&8192u32.to_be_bytes());
        let head = session.head(&header).unwrap();
        let expected = Head { tag: 5, at: 8192, bytes: Some(4098), padding: 2, done: false };
        assert_eq!((head, session.expected_status), (expected, 0));
        header[1] = FINAL | HAS_STATUS;
        assert!(session.head(&header).unwrap().done);
        assert_eq!(session.expected_status, 78);
        header[3] = 2;
        assert!(session.head(&header).unwrap_err().to_string().contains("SCSI status 2"));
        header[0] = 0x20;
        assert!(session.head(&header).unwrap_err().to_string().contains("opcode 0x20"));
    }
}
