//! Clients that lie, flood, vanish or say nothing; and servers that stop while requests wait.
#![expect(clippy::unwrap_used, reason = "tests may")]

mod nbd_support;

use std::io::{self, Cursor, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use diskstream_device::front::nbd::client::{Client, ClientError};
use diskstream_device::front::nbd::{ExportInfo, HandshakeEnd, negotiate};
use diskstream_device::front::{Disk, MemorySource, ReadOnlyDisk, WriteCache};
use nbd_support::{Export, GatedSource, MIB, PATIENCE, eventually, image};
use proptest::prelude::*;

fn small() -> Export {
    Export::new(Arc::new(ReadOnlyDisk(MemorySource::new(image(MIB)))))
}

fn connect(export: &Export) -> Client {
    Client::connect(&export.socket(), "", Some(PATIENCE)).unwrap()
}

/// Greets, and enters transmission with `EXPORT_NAME` and simple replies.
fn raw(export: &Export) -> UnixStream {
    let mut stream = UnixStream::connect(export.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(&option(1, b"")).unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    stream
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn request(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    [
        &0x2560_9513u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

/// Reads a simple reply without payload: (cookie, error).
fn reply(stream: &mut UnixStream) -> (u64, u32) {
    let mut bytes = [0; 16];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[..4], 0x6744_6698u32.to_be_bytes());
    let cookie = u64::from_be_bytes(bytes[8..].try_into().unwrap());
    (cookie, u32::from_be_bytes(bytes[4..8].try_into().unwrap()))
}

fn is_cut(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

/// A client whose bytes are known beforehand.
struct Script(Cursor<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn shake(bytes: Vec<u8>) -> Result<(), HandshakeEnd> {
    let export = ExportInfo {
        name: "vdisk".to_owned(),
        description: String::new(),
        size_bytes: 1 << 20,
        read_only: false,
        request_bytes_max: 1 << 20,
    };
    negotiate(&mut Script(Cursor::new(bytes)), &export).map(drop)
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let data = prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..64);
    (0..14u32, data, any::<Option<u32>>()).prop_map(|(number, data, lie)| {
        let mut bytes = option(number, &data);
        if let Some(lie) = lie {
            bytes[12..16].copy_from_slice(&lie.to_be_bytes());
        }
        bytes
    })
}

proptest! {
    #[test]
    fn handshakes_of_any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = shake(bytes.clone());
        let _ = shake([vec![0, 0, 0, 3], bytes].concat());
    }

    #[test]
    fn options_of_any_shape_end(options in prop::collection::vec(any_option(), 0..80)) {
        let _ = shake([vec![0, 0, 0, 3], options.concat()].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn requests_of_any_shape_leave_the_server_well(
        requests in prop::collection::vec(
            (0..12u16, any::<u16>(), any::<u64>(), prop_oneof![0..2_000_000u64, any::<u64>()],
             prop_oneof![0..9000u32, any::<u32>()]),
            1..30,
        ),
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let source = Arc::new(MemorySource::new(image(MIB)));
        let export = Export::new(Arc::new(WriteCache::new(source, 1 << 20, None).unwrap()));
        let mut stream = raw(&export);
        let mut reading = stream.try_clone().unwrap();
        let reader = thread::spawn(move || { let _ = io::copy(&mut reading, &mut io::sink()); });
        for (command, flags, cookie, offset, length) in requests {
            let mut bytes = request(command, flags & 0x1f, cookie, offset, length);
            if command == 1 {
                bytes.resize(bytes.len() + usize::try_from(length.min(9000)).unwrap(), 7);
            }
            if stream.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        reader.join().unwrap();
        // Somebody else is served as before.
        connect(&export).read(0, &mut [0; 4096]).unwrap();
    }
}

#[test]
fn handshakes_that_break_rules_are_cut() {
    assert!(matches!(shake(vec![0, 0, 0, 4]), Err(HandshakeEnd::ClientFlags(4))));
    assert!(matches!(
        shake(b"\0\0\0\x03GET / HTTP/1.1".to_vec()),
        Err(HandshakeEnd::OptionMagic(_))
    ));
    let mut huge = [&[0, 0, 0, 3][..], &option(7, b"")].concat();
    huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(shake(huge), Err(HandshakeEnd::OptionTooBig { length: u32::MAX, .. })));
    let endless = [vec![0, 0, 0, 3], option(3, b"").repeat(65)].concat();
    assert!(matches!(shake(endless), Err(HandshakeEnd::TooManyOptions)));
}

#[test]
fn a_silent_client_loses_its_place() {
    let source = MemorySource::new(image(MIB));
    let export = Export::with(Arc::new(ReadOnlyDisk(source)), |config| {
        config.handshake_timeout = Duration::from_millis(50);
    });
    let mut silent = UnixStream::connect(export.socket()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.read_exact(&mut [0; 18]).unwrap();
    assert!(is_cut(&mut silent));
    assert_eq!(export.server.counters().handshakes_failed_total.load(Ordering::Relaxed), 1);
}

#[test]
fn requests_that_break_rules_get_errors_and_the_stream_stays_in_step() {
    let export = small();
    let mut stream = raw(&export);
    let cases = [
        (0, 0, u64::MAX, u32::MAX, 22), // a read larger than allowed
        (0, 0, u64::MAX, 1, 22),        // a read whose end overflows
        (0, 0x10, 0, 1, 22),            // FAST_ZERO on a read
        (0, 0x8000, 0, 1, 22),          // an unknown flag
        (99, 0, 0, 1, 22),              // an unknown command
        (5, 0, 0, 1, 22),               // CACHE, which we do not announce
        (4, 0, 0, u32::MAX, 1),         // a trim of a read-only export
        (7, 0, 0, 1, 22),               // block status that was not negotiated
    ];
    for (cookie, (command, flags, offset, length, errno)) in (1u64..).zip(cases) {
        stream.write_all(&request(command, flags, cookie, offset, length)).unwrap();
        assert_eq!(reply(&mut stream), (cookie, errno), "case {cookie}");
    }
    stream.write_all(&request(0, 0, 77, 0, 4)).unwrap();
    assert_eq!(reply(&mut stream), (77, 0));
    stream.read_exact(&mut [0; 4]).unwrap();
    // A write that announces more than a request may carry ends it: nobody skips 4 GiB.
    stream.write_all(&request(1, 0, 1, 0, u32::MAX)).unwrap();
    assert!(is_cut(&mut stream));
    let mut stream = raw(&export);
    stream.write_all(b"this is no request, it is long enough though").unwrap();
    assert!(is_cut(&mut stream));
    let counters = export.server.counters();
    assert_eq!(counters.protocol_errors_total.load(Ordering::Relaxed), 2);
    assert_eq!(counters.error_replies_total.load(Ordering::Relaxed), 8);
}

#[test]
fn a_flood_is_held_back_at_the_bounds() {
    let bytes = image(MIB);
    let source = GatedSource::new(&bytes);
    let export = Export::with(Arc::new(ReadOnlyDisk(Arc::clone(&source))), |config| {
        config.limits.requests_max = 8;
        config.limits.bytes_max = 64 * 1024;
    });
    let mut many = raw(&export);
    for cookie in 0..100 {
        many.write_all(&request(0, 0, cookie, 0, 512)).unwrap();
    }
    source.wait_for(8);
    let mut large = raw(&export);
    for cookie in 0..10 {
        large.write_all(&request(0, 0, cookie, 0, 20_000)).unwrap();
    }
    source.wait_for(8 + 3); // a fourth would pass 64 KiB
    let waits = &export.server.counters().backpressure_waits_total;
    eventually("back-pressure on both", || waits.load(Ordering::Relaxed) == 2);
    assert_eq!(source.held(), 11);
    source.open();
    for (stream, count, length) in [(&mut many, 100, 512), (&mut large, 10, 20_000)] {
        let mut seen: Vec<u64> = (0..count)
            .map(|_| {
                let (cookie, errno) = reply(stream);
                let mut data = vec![0; length];
                stream.read_exact(&mut data).unwrap();
                assert!(errno == 0 && data == bytes[..length]);
                cookie
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..count).collect::<Vec<u64>>());
    }
    // One request larger than the bound of bytes passes when it is alone.
    connect(&export).read(0, &mut vec![0; 100_000]).unwrap();
}

#[test]
fn replies_leave_as_their_bytes_come() {
    let source = GatedSource::new(&image(MIB));
    let export = Export::new(Arc::new(ReadOnlyDisk(Arc::clone(&source))));
    let mut stream = raw(&export);
    for cookie in 0..3 {
        stream.write_all(&request(0, 0, cookie, cookie * 10, 1)).unwrap();
    }
    source.wait_for(3);
    for expected in [2, 1, 0] {
        source.answer_newest();
        assert_eq!(reply(&mut stream), (expected, 0));
        stream.read_exact(&mut [0]).unwrap();
    }
}

/// While all nodes are away: reads wait, clients come and go, and what they left behind stays bounded.
#[test]
fn clients_that_vanish_keep_their_places_until_their_reads_are_answered() {
    let source = GatedSource::new(&image(MIB));
    let export = Export::with(Arc::new(ReadOnlyDisk(Arc::clone(&source))), |config| {
        config.connections_max = 2;
    });
    for round in 1..=2 {
        let mut stream = raw(&export);
        stream.write_all(&request(0, 0, 1, 0, 4096)).unwrap();
        source.wait_for(round);
        drop(stream);
    }
    let mut third = UnixStream::connect(export.socket()).unwrap();
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(is_cut(&mut third));
    let counters = export.server.counters();
    assert_eq!(counters.connections_refused_total.load(Ordering::Relaxed), 1);
    source.open();
    eventually("places come back", || counters.connections_open.load(Ordering::Relaxed) == 0);
    connect(&export).read(0, &mut [0; 10]).unwrap();
}

#[test]
fn a_stopping_server_answers_what_waits_and_removes_its_socket() {
    let source = GatedSource::new(&image(MIB));
    let export = Export::new(Arc::new(ReadOnlyDisk(Arc::clone(&source))));
    let socket = export.socket();
    let mut stream = raw(&export);
    stream.write_all(&request(0, 0, 5, 0, 4096)).unwrap();
    source.wait_for(1);
    let idle = UnixStream::connect(&socket).unwrap(); // in the middle of its handshake
    export.server.shutdown(Duration::from_millis(50));
    assert_eq!(reply(&mut stream), (5, 108));
    assert!(is_cut(&mut stream));
    assert!(!socket.exists());
    drop(idle);
    source.open(); // the late answer finds nobody, and nothing breaks
}

#[test]
fn a_stopping_server_gives_grace_to_what_still_comes() {
    let bytes = image(MIB);
    let source = GatedSource::new(&bytes);
    let export = Export::new(Arc::new(ReadOnlyDisk(Arc::clone(&source))));
    let mut stream = raw(&export);
    stream.write_all(&request(0, 0, 5, 0, 4096)).unwrap();
    source.wait_for(1);
    let server = export.server;
    let stopping = thread::spawn(move || server.shutdown(PATIENCE));
    thread::sleep(Duration::from_millis(20));
    source.open();
    stopping.join().unwrap();
    assert_eq!(reply(&mut stream), (5, 0));
    let mut data = vec![0; 4096];
    stream.read_exact(&mut data).unwrap();
    assert!(data == bytes[..4096]);
}

#[test]
fn connections_share_one_cache() {
    let source = Arc::new(MemorySource::new(image(MIB)));
    let cache: Arc<dyn Disk> = Arc::new(WriteCache::new(source, 1 << 20, None).unwrap());
    let export = Export::new(cache);
    let (mut one, mut other) = (connect(&export), connect(&export));
    one.write(5000, b"hello").unwrap();
    one.flush().unwrap();
    let mut seen = [0; 5];
    other.read(5000, &mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    other.write_zeroes(0, 65_536, false).unwrap();
    let extents = one.block_status(0, 65_536).unwrap();
    assert!(extents.len() == 1 && extents[0].zero && extents[0].length == 65_536);
    assert!(matches!(one.read(MIB as u64, &mut [0]), Err(ClientError::Server { errno: 22, .. })));
    one.disconnect().unwrap();
}

/// The kernel's side of a socket pair: no handshake, simple replies.
#[test]
fn a_socket_pair_can_be_served_in_transmission() {
    let export = small();
    let (ours, mut kernels) = UnixStream::pair().unwrap();
    export.server.adopt_in_transmission(ours).unwrap();
    kernels.set_read_timeout(Some(PATIENCE)).unwrap();
    kernels.write_all(&request(0, 0, 9, 0, 16)).unwrap();
    assert_eq!(reply(&mut kernels), (9, 0));
    let mut data = [0; 16];
    kernels.read_exact(&mut data).unwrap();
    assert!(data == image(MIB)[..16]);
}
