//! What the crate's hot and long operations cost on this host. Run: `cargo bench -p
//! diskstream-vdisk`. Plain numbers, no statistics: enough to see a factor, not a percent.
mod clock;

use clock::time;
use diskstream_vdisk::{
    BlockHashes, FlatMapBuilder, ImageMap, OpenOptions, SidecarUse, UNIT_BYTES, Vdisk,
};
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

/// Time per call, over about a second.
fn per_call(mut call: impl FnMut()) -> Duration {
    let mut calls = 0;
    let mut spent = Duration::ZERO;
    while spent < Duration::from_secs(1) {
        spent += time(|| (0..1024).for_each(|_| call()));
        calls += 1024;
    }
    spent / calls
}

fn verify() {
    let content = vec![7; 16 * 65536];
    let hashes = BlockHashes::of(&content);
    for blocks in [1, 4, 16] {
        let part = &content[..blocks * 65536];
        let spent = per_call(|| assert!(black_box(hashes.verify(0, black_box(part))).is_match()));
        println!("verify {:>5} KiB: {spent:?}", blocks * 64);
    }
}

fn map() {
    for runs in [16_u64, 4096, 1_000_000] {
        let mut builder = FlatMapBuilder::new(runs * 2 * UNIT_BYTES);
        for run in 0..runs {
            builder.add_data(run * 2 * UNIT_BYTES..(run * 2 + 1) * UNIT_BYTES);
        }
        let map = builder.finish();
        let mut at = 0;
        let spent = per_call(|| {
            at = (at + 7919 * UNIT_BYTES) % map.size_bytes();
            map.visit(at, 4 * UNIT_BYTES, &mut |extent| {
                black_box(extent);
            });
        });
        println!("map 16 KiB among {runs:>7} runs: {spent:?}");
    }
}

fn open() {
    const MIB: u32 = 1024;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("image");
    let mut file = File::create(&path).expect("an image");
    let piece = vec![5; 1 << 20];
    for _ in 0..MIB {
        file.write_all(&piece).expect("room for 1 GiB");
    }
    file.sync_all().expect("synced");
    for threads in [1, 2, 4] {
        let options = OpenOptions {
            sidecar: SidecarUse::Off,
            hash_threads: NonZeroUsize::new(threads),
            ..OpenOptions::default()
        };
        let spent = open_time(&path, &options);
        let rate = f64::from(MIB) / spent.as_secs_f64();
        println!("open and hash 1 GiB, {threads} threads: {spent:?}, {rate:.0} MiB/s");
    }
    File::create(&path).and_then(|file| file.set_len(64 << 30)).expect("a sparse image");
    let options = OpenOptions { sidecar: SidecarUse::Off, ..OpenOptions::default() };
    println!("open and hash 64 GiB of hole: {:?}", open_time(&path, &options));
}

fn open_time(path: &Path, options: &OpenOptions) -> Duration {
    time(|| {
        black_box(Vdisk::open(path, options).expect("opens"));
    })
}

fn main() {
    verify();
    map();
    open();
}
