//! What a client says before the first NBD request: ends in transmission or with a reason, and answers stay bounded.
#![no_main]

use std::io::{self, Read, Write};

use diskstream_device::front::nbd::{ExportInfo, negotiate};
use libfuzzer_sys::fuzz_target;

/// The client's bytes, and how many were said back.
struct Client<'a> {
    says: &'a [u8],
    heard: usize,
}

impl Read for Client<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.says.read(out)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let export = ExportInfo {
        name: "disk".to_owned(),
        description: "a vDisk".to_owned(),
        size_bytes: 1 << 30,
        read_only: bytes.len().is_multiple_of(2),
        request_bytes_max: 32 << 20,
    };
    let mut client = Client { says: bytes, heard: 0 };
    let _ = negotiate(&mut client, &export);
    // The greeting, and for each option (16 bytes at least) a few answers of some hundred bytes.
    assert!(client.heard <= 1024 + bytes.len() / 16 * 4096, "{} bytes said", client.heard);
});
