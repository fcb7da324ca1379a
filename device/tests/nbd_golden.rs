//! The wire, byte by byte, laid out by hand from NetworkBlockDevice/nbd `doc/proto.md`.
#![expect(clippy::unwrap_used, reason = "tests may")]

mod nbd_support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use diskstream_device::front::{MemorySource, ReadOnlyDisk, WriteCache};
use nbd_support::{Export, PATIENCE};

/// Hex with blanks and comments after `;` to bytes.
fn hex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .map(|line| line.split(';').next().unwrap_or_default())
        .flat_map(str::chars)
        .filter(|character| !character.is_whitespace())
        .collect();
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(digit).collect()
}

struct Wire(UnixStream);

impl Wire {
    fn open(export: &Export) -> Self {
        let stream = UnixStream::connect(export.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(&hex(text)).unwrap();
    }

    #[track_caller]
    fn expect(&mut self, text: &str) {
        let wanted = hex(text);
        let mut bytes = vec![0; wanted.len()];
        self.0.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, wanted);
    }

    #[track_caller]
    fn expect_end(&mut self) {
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }

    /// The greeting and flags both ways, with NO_ZEROES.
    fn greet(&mut self) {
        self.expect(
            "4e42444d41474943  ; NBDMAGIC
             49484156454f5054  ; IHAVEOPT
             0003              ; FIXED_NEWSTYLE | NO_ZEROES",
        );
        self.send("00000003");
    }

    fn structured(&mut self) {
        self.send("49484156454f5054 00000008 00000000");
        self.expect("0003e889045565a9 00000008 00000001 00000000");
    }

    /// GO for the default export, no information asked for; the export's flags are `flags`.
    fn go(&mut self, flags: &str) {
        self.send("49484156454f5054 00000007 00000006 00000000 0000");
        self.expect(&format!(
            "0003e889045565a9 00000007 00000003 0000000c ; INFO
             0000 0000000000004000 {flags}               ; EXPORT: 16384 bytes
             0003e889045565a9 00000007 00000001 00000000 ; ACK"
        ));
    }
}

/// 16 KiB: a unit of 01, a unit of zeroes, two units of 03.
fn bytes() -> Vec<u8> {
    [[1u8; 4096], [0; 4096], [3; 4096], [3; 4096]].concat()
}

fn read_only() -> Export {
    Export::new(Arc::new(ReadOnlyDisk(MemorySource::new(bytes()))))
}

fn writable() -> Export {
    let source = Arc::new(MemorySource::new(bytes()));
    Export::new(Arc::new(WriteCache::new(source, 1 << 20, None).unwrap()))
}

#[test]
fn export_name_with_and_without_padding() {
    let export = writable();
    let mut wire = Wire::open(&export);
    wire.greet();
    wire.send("49484156454f5054 00000001 00000005 766469736b"); // "vdisk"
    // HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES CAN_MULTI_CONN FAST_ZERO; no DF without structured replies
    wire.expect("0000000000004000 096d");
    let mut wire = Wire::open(&export);
    wire.0.read_exact(&mut [0; 18]).unwrap();
    wire.send("00000001"); // FIXED_NEWSTYLE only
    wire.send("49484156454f5054 00000001 00000000");
    wire.expect(&format!("0000000000004000 096d {}", "00".repeat(124)));
    let mut wire = Wire::open(&export);
    wire.greet();
    wire.send("49484156454f5054 00000001 00000001 78"); // no such export
    wire.expect_end();
}

#[test]
fn options_and_their_refusals() {
    let export = read_only();
    let mut wire = Wire::open(&export);
    wire.greet();
    // LIST
    wire.send("49484156454f5054 00000003 00000000");
    wire.expect(
        "0003e889045565a9 00000003 00000002 00000019 ; SERVER, 25 bytes
         00000005 766469736b                         ; vdisk
         4469736b73747265616d20764469736b            ; Diskstream vDisk
         0003e889045565a9 00000003 00000001 00000000",
    );
    // An option nobody knows
    wire.send("49484156454f5054 00001234 00000002 ffff");
    wire.expect("0003e889045565a9 00001234 80000001 00000014");
    wire.expect("6f7074696f6e206e6f7420737570706f72746564"); // "option not supported"
    // SET_META_CONTEXT before structured replies: ERR_INVALID
    wire.send("49484156454f5054 0000000a 00000008 00000000 00000000");
    wire.expect("0003e889045565a9 0000000a 80000003 00000022");
    wire.0.read_exact(&mut [0; 0x22]).unwrap();
    wire.structured();
    // LIST_META_CONTEXT, everything: id 0
    wire.send("49484156454f5054 00000009 00000008 00000000 00000000");
    wire.expect(
        "0003e889045565a9 00000009 00000004 00000013
         00000000 626173653a616c6c6f636174696f6e      ; base:allocation
         0003e889045565a9 00000009 00000001 00000000",
    );
    // SET_META_CONTEXT with two queries, one unknown
    wire.send(
        "49484156454f5054 0000000a 00000027
         00000000 00000002
         00000004 783a797a                            ; x:yz
         00000014 626173653a616c6c6f636174696f6e ffffffff ; a length that lies past the end",
    );
    wire.expect("0003e889045565a9 0000000a 80000003 00000020");
    wire.0.read_exact(&mut [0; 0x20]).unwrap();
    // INFO with NAME and BLOCK_SIZE
    wire.send("49484156454f5054 00000006 0000000a 00000000 0002 0001 0003");
    wire.expect(
        "0003e889045565a9 00000006 00000003 0000000c
         0000 0000000000004000 018f                   ; READ_ONLY FLUSH FUA DF CAN_MULTI_CONN
         0003e889045565a9 00000006 00000003 00000007
         0001 766469736b
         0003e889045565a9 00000006 00000003 0000000e
         0003 00000001 00001000 02000000              ; 1, 4096, 32 MiB
         0003e889045565a9 00000006 00000001 00000000",
    );
    // ABORT
    wire.send("49484156454f5054 00000002 00000000");
    wire.expect("0003e889045565a9 00000002 00000001 00000000");
    wire.expect_end();
}

#[test]
fn simple_replies() {
    let export = writable();
    let mut wire = Wire::open(&export);
    wire.greet();
    wire.go("096d");
    // WRITE 2 bytes at 4097, FUA
    wire.send("25609513 0001 0001 0000000000000001 0000000000001001 00000002 abcd");
    wire.expect("67446698 00000000 0000000000000001");
    // READ 4 bytes at 4096
    wire.send("25609513 0000 0000 0000000000000002 0000000000001000 00000004");
    wire.expect("67446698 00000000 0000000000000002 00abcd00");
    // READ past the end: EINVAL, and no payload
    wire.send("25609513 0000 0000 0000000000000003 0000000000003fff 00000002");
    wire.expect("67446698 00000016 0000000000000003");
    // WRITE past the end: ENOSPC; its payload is skipped
    wire.send("25609513 0000 0001 0000000000000004 0000000000003fff 00000002 ffff");
    wire.expect("67446698 0000001c 0000000000000004");
    // BLOCK_STATUS without a context: EINVAL
    wire.send("25609513 0000 0007 0000000000000005 0000000000000000 00001000");
    wire.expect("67446698 00000016 0000000000000005");
    // FAST_ZERO together with NO_HOLE: ENOTSUP
    wire.send("25609513 0012 0006 0000000000000006 0000000000000000 00001000");
    wire.expect("67446698 0000005f 0000000000000006");
    // FLUSH, then DISC
    wire.send("25609513 0000 0003 0000000000000007 0000000000000000 00000000");
    wire.expect("67446698 00000000 0000000000000007");
    wire.send("25609513 0000 0002 0000000000000008 0000000000000000 00000000");
    wire.expect_end();
}

#[test]
fn structured_replies() {
    let export = read_only();
    let mut wire = Wire::open(&export);
    wire.greet();
    wire.structured();
    wire.send("49484156454f5054 0000000a 0000001b 00000000 00000001 0000000f 626173653a616c6c6f636174696f6e");
    wire.expect(
        "0003e889045565a9 0000000a 00000004 00000013
         00000001 626173653a616c6c6f636174696f6e
         0003e889045565a9 0000000a 00000001 00000000",
    );
    wire.go("018f");
    // READ 4098 bytes at 4095: a byte of data, the hole, a byte of data
    wire.send("25609513 0000 0000 00000000000000c1 0000000000000fff 00001002");
    wire.expect(
        "668e33ef 0000 0001 00000000000000c1 00000009 0000000000000fff 01
         668e33ef 0000 0002 00000000000000c1 0000000c 0000000000001000 00001000
         668e33ef 0001 0001 00000000000000c1 00000009 0000000000002000 03",
    );
    // The same with DF: one chunk
    wire.send("25609513 0004 0000 00000000000000c2 0000000000000fff 00001002");
    wire.expect(&format!(
        "668e33ef 0001 0001 00000000000000c2 0000100a 0000000000000fff 01 {} 03",
        "00".repeat(4096)
    ));
    // BLOCK_STATUS of everything
    wire.send("25609513 0000 0007 00000000000000c3 0000000000000000 00004000");
    wire.expect(
        "668e33ef 0001 0005 00000000000000c3 0000001c
         00000001                                     ; context id
         00001000 00000000  00001000 00000003  00002000 00000000",
    );
    // REQ_ONE
    wire.send("25609513 0008 0007 00000000000000c4 0000000000001001 00002000");
    wire.expect(
        "668e33ef 0001 0005 00000000000000c4 0000000c
         00000001 00000fff 00000003",
    );
    // WRITE to a read-only export: EPERM with a text, and the stream stays in step
    wire.send("25609513 0000 0001 00000000000000c5 0000000000000000 00000003 616263");
    wire.expect("668e33ef 0001 8001 00000000000000c5 00000042 00000001 003c");
    wire.0.read_exact(&mut [0; 0x3c]).unwrap();
    // A zero-length read: the NONE chunk
    wire.send("25609513 0000 0000 00000000000000c6 0000000000000000 00000000");
    wire.expect("668e33ef 0001 0000 00000000000000c6 00000000");
}
