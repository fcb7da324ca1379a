//! ATA over Ethernet as far as reads need it (AoE revision 11), and the pair of interfaces that it needs: READ DMA EXT in frames that
//! carry as many whole sectors as the MTU holds; a read is as many requests as it takes. What gets lost is asked for again.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, ensure};
use diskstream_ring::clock;
use diskstream_wire::Nanos;

use super::process::{Place, ServerProcess};
use super::servers::Peer;
use crate::book::{Asked, Book, Step};
use crate::fleet::{Job, Tally};
use crate::net::Namespace;
use crate::{stop, sys};

/// The EtherType that AoE has (revision 11, 2.1), shelf and slot of our blade.
const ETHER_TYPE: u16 = 0x88a2;
const BLADE: (u16, u8) = (0, 0);
/// Bytes of a sector; of the Ethernet header; of what AoE and ATA put before the data.
const SECTOR: usize = 512;
const ETHERNET: usize = 14;
const HEADERS: usize = ETHERNET + 22;
/// The shortest frame.
const FRAME_MIN: usize = 60;
/// Flags of the AoE header: version 1; an answer; an error. Of the ATA part: 48-bit addresses. READ DMA EXT is 0x25, and
/// READ SECTORS EXT 0x24 what initiators use (ATA/ATAPI-6).
const VERSION: u8 = 0x10;
const ANSWER: u8 = 0x08;
const ERROR: u8 = 0x04;
const EXTENDED: u8 = 0x40;
const READ_EXT: u8 = 0x24;
/// Addresses and names of the two ends: locally administered, ours to choose, in namespaces of our own.
const SERVER_MAC: [u8; 6] = [0x02, 0xd5, 0xae, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [0x02, 0xd5, 0xae, 0, 0, 2];
const INTERFACE: &str = "eth0";
/// What was not answered for so long is asked for again. Guessed: a hundred times what a read takes here.
const LOST_AFTER: Nanos = Nanos::from_millis(100);
/// Room for frames that wait, ours and (`-b`, in frames) the server's.
const RECEIVE_BYTES: i32 = 16 << 20;
const SERVER_FRAMES: &str = "128";
/// Bits of a tag that name the request; the others count its use, so that a late answer is not taken for the next.
const REQUEST_BITS: u32 = 12;

/// A blade and the network to it.
pub struct Blade {
    /// Dropped first: the server ends before its network.
    pub process: ServerProcess,
    client: Namespace,
    _server: Namespace,
    mtu: u16,
    image_bytes: u64,
}

/// Starts vblade at one end of a pair of interfaces with this MTU.
///
/// # Errors
/// Without the right to make namespaces, or when it cannot be started.
pub fn start(
    image: &Path,
    folder: &Path,
    core: Option<usize>,
    mtu: u16,
) -> anyhow::Result<(Blade, String)> {
    let image_bytes = std::fs::metadata(image)?.len();
    let (server, client) = (Namespace::new()?, Namespace::new()?);
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    server.ip(&format!(
        "link add {INTERFACE} address {} type veth peer name {INTERFACE} address {} netns {}\n\
         link set {INTERFACE} mtu {mtu} up\n",
        mac(SERVER_MAC),
        mac(CLIENT_MAC),
        client.path()
    ))?;
    client.ip(&format!("link set {INTERFACE} mtu {mtu} up\n"))?;
    let log = folder.join("vblade.log");
    let mut command = Command::new(Peer::Vblade.find().context("vblade is not installed")?);
    command.args(["-r", "-b", SERVER_FRAMES]).args([BLADE.0.to_string(), BLADE.1.to_string()]);
    command.arg(INTERFACE).arg(image);
    let line = format!("vblade -r -b {SERVER_FRAMES} 0 0 {INTERFACE} {}", image.display());
    let place = Place { core, network: Some(&server) };
    let mut process = ServerProcess::start(command, &log, place)?;
    // It announces itself on standard output when it listens.
    process.wait_ready(&log, || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("pid ")).then_some(())
    })?;
    Ok((Blade { process, client, _server: server, mtu, image_bytes }, line))
}

impl Blade {
    /// Does a job with one device. `edge` is called when the window opens and when it closes.
    ///
    /// # Errors
    /// When the blade answers with an error or falls silent, or `stop` is set.
    pub fn run(
        &self,
        job: Job,
        stop: &AtomicBool,
        mut edge: impl FnMut() -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<(Tally, u64)> {
        self.client.run(|| {
            let mut client = Client::new(&job, self.mtu)?;
            let mut book = Book::new(job, self.image_bytes, clock::now()).with_samples();
            for _ in 0..book.at_once() {
                client.ask(&mut book, clock::now())?;
            }
            loop {
                client.receive(&mut book)?;
                let now = clock::now();
                match book.step(now)? {
                    Step::On => {}
                    Step::Edge => edge()?,
                    Step::Over => break,
                }
                client.ask_again(now)?;
                stop::go_on(stop)?;
            }
            let left = client.reads.iter().filter_map(|read| read.asked);
            Ok((book.close(left, clock::now()), client.lost))
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Whole {
    asked: Option<Asked>,
    missing: usize,
}

/// A request: a part of a read.
#[derive(Clone, Copy, Default)]
struct Part {
    used: u32,
    sent: Option<Nanos>,
}

struct Client {
    socket: std::fs::File,
    /// Data bytes of a frame.
    part_bytes: usize,
    parts_of_read: usize,
    reads: Vec<Whole>,
    free: Vec<usize>,
    parts: Vec<Part>,
    size: usize,
    lost: u64,
    looked: Nanos,
    frame: Vec<u8>,
}

impl Client {
    fn new(job: &Job, mtu: u16) -> anyhow::Result<Client> {
        let socket = sys::open_packets(INTERFACE, ETHER_TYPE, RECEIVE_BYTES)
            .context("opening a packet socket")?;
        let room = (usize::from(mtu) + ETHERNET - HEADERS) / SECTOR * SECTOR;
        let part_bytes = room.min(job.size);
        let parts_of_read = job.size.div_ceil(part_bytes);
        let parts = parts_of_read * job.depth;
        ensure!(parts <= 1 << REQUEST_BITS, "{parts} requests at once are too many");
        Ok(Client {
            socket: socket.into(),
            part_bytes,
            parts_of_read,
            reads: vec![Whole::default(); job.depth],
            free: (0..job.depth).collect(),
            parts: vec![Part::default(); parts],
            size: job.size,
            lost: 0,
            looked: clock::now(),
            frame: vec![0; usize::from(mtu) + ETHERNET],
        })
    }

    fn ask(&mut self, book: &mut Book, since: Nanos) -> anyhow::Result<()> {
        let Some(asked) = book.ask(0, since) else { return Ok(()) };
        let slot = self.free.pop().expect("no more reads than slots are outstanding");
        self.reads[slot] = Whole { asked: Some(asked), missing: self.parts_of_read };
        for number in 0..self.parts_of_read {
            self.send(slot * self.parts_of_read + number, since)?;
        }
        Ok(())
    }

    /// Where in its read a part begins, and its bytes.
    fn part(&self, index: usize) -> (usize, usize) {
        let at = index % self.parts_of_read * self.part_bytes;
        (at, self.part_bytes.min(self.size - at))
    }

    fn send(&mut self, index: usize, now: Nanos) -> anyhow::Result<()> {
        let Some(asked) = self.reads[index / self.parts_of_read].asked else { return Ok(()) };
        let (at, bytes) = self.part(index);
        let part = &mut self.parts[index];
        part.used = part.used.wrapping_add(1);
        part.sent = Some(now);
        let tag = part.used << REQUEST_BITS | u32::try_from(index).expect("bounded above");
        let frame = request(tag, asked.offset + at as u64, bytes);
        match self.socket.write(&frame) {
            // A full queue drops it, as a switch would: it is asked for again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                Ok(())
            }
            done => done.map(drop).context("sending a request"),
        }
    }

    /// Takes all that has arrived, or waits a little for the first of it.
    fn receive(&mut self, book: &mut Book) -> anyhow::Result<()> {
        sys::is_readable(self.socket.as_fd(), Duration::from_millis(10)).context("waiting")?;
        loop {
            let mut frame = std::mem::take(&mut self.frame);
            let got = self.socket.read(&mut frame);
            let taken = match got {
                Ok(bytes) => self.take(&frame[..bytes], book),
                Err(ref error) if error.kind() == ErrorKind::Interrupted => Ok(()),
                Err(_) => Ok(()),
            };
            self.frame = frame;
            taken?;
            match got {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(error).context("receiving answers");
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, frame: &[u8], book: &mut Book) -> anyhow::Result<()> {
        let Some((tag, error)) = answer(frame) else { return Ok(()) };
        let index = (tag & ((1 << REQUEST_BITS) - 1)) as usize;
        // The upper bits of the tag count up to 2^20 and begin anew.
        let current = |part: &Part| {
            part.sent.is_some() && part.used << REQUEST_BITS >> REQUEST_BITS == tag >> REQUEST_BITS
        };
        let Some(part) = self.parts.get_mut(index).filter(|part| current(part)) else {
            return Ok(());
        };
        part.sent = None;
        let (at, bytes) = self.part(index);
        ensure!(error == 0, "the blade says: error {error}");
        let data = frame.get(HEADERS..HEADERS + bytes).context("an answer that is too short")?;
        let slot = index / self.parts_of_read;
        let Some(asked) = self.reads[slot].asked else { return Ok(()) };
        book.check(asked, at, data);
        self.reads[slot].missing -= 1;
        if self.reads[slot].missing > 0 {
            return Ok(());
        }
        self.reads[slot].asked = None;
        self.free.push(slot);
        match book.ended(0, asked, clock::now()) {
            Some(since) => self.ask(book, since),
            None => Ok(()),
        }
    }

    fn ask_again(&mut self, now: Nanos) -> anyhow::Result<()> {
        if now.since(self.looked) < LOST_AFTER {
            return Ok(());
        }
        self.looked = now;
        for index in 0..self.parts.len() {
            if self.parts[index].sent.is_some_and(|sent| now.since(sent) >= LOST_AFTER) {
                self.lost += 1;
                self.send(index, now)?;
            }
        }
        Ok(())
    }
}

/// A request's frame.
fn request(tag: u32, offset: u64, bytes: usize) -> [u8; FRAME_MIN] {
    let mut frame = [0; FRAME_MIN];
    frame[..6].copy_from_slice(&SERVER_MAC);
    frame[6..12].copy_from_slice(&CLIENT_MAC);
    frame[12..14].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    frame[14] = VERSION;
    frame[16..18].copy_from_slice(&BLADE.0.to_be_bytes());
    frame[18] = BLADE.1;
    // 19: command 0, ATA.
    frame[20..24].copy_from_slice(&tag.to_be_bytes());
    frame[24] = EXTENDED;
    frame[26] = u8::try_from(bytes / SECTOR).expect("a frame holds few sectors");
    frame[27] = READ_EXT;
    let sector = offset / SECTOR as u64;
    frame[28..34].copy_from_slice(&sector.to_le_bytes()[..6]);
    frame
}

/// Tag and error of an answer; none of anything else.
fn answer(frame: &[u8]) -> Option<(u32, u8)> {
    let flags = *frame.get(14)?;
    let tag = frame.get(20..24)?.first_chunk::<4>()?;
    if flags & ANSWER == 0 {
        return None;
    }
    let error = if flags & ERROR == 0 { 0 } else { (*frame.get(15)?).max(1) };
    Some((u32::from_be_bytes(*tag), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_protocol_says() {
        let frame = request(0x0102_0304, 0x12_3456_7800, 4096);
        assert_eq!(frame[..12], [2, 0xd5, 0xae, 0, 0, 1, 2, 0xd5, 0xae, 0, 0, 2]);
        assert_eq!(frame[12..20], [0x88, 0xa2, 0x10, 0, 0, 0, 0, 0]);
        assert_eq!(frame[20..28], [1, 2, 3, 4, 0x40, 0, 8, 0x24]);
        // 0x12_3456_7800 / 512 = 0x91A_2B3C, the lowest byte first.
        assert_eq!(frame[28..34], [0x3c, 0x2b, 0x1a, 0x09, 0, 0]);
    }

    #[test]
    fn answers_are_told_from_requests_and_errors() {
        let mut frame = request(7, 0, 512);
        assert_eq!(answer(&frame), None);
        frame[14] |= ANSWER;
        assert_eq!(answer(&frame), Some((7, 0)));
        frame[14] |= ERROR;
        frame[15] = 2;
        assert_eq!(answer(&frame), Some((7, 2)));
        assert_eq!(answer(&frame[..20]), None);
    }
}
