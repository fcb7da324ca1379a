use std::path::Path;

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn settings(image: &Path, flags: &[&str]) -> Settings {
    let image = image.to_str().expect("UTF-8");
    let args = ["diskstream-node", "serve", image].into_iter().chain(flags.iter().copied());
    let cli = Cli::try_parse_from(args).expect("valid flags");
    let Command::Serve(args) = cli.command else { panic!("not serve") };
    Settings::resolve(&args).expect("an image that is there")
}

fn open(image: &Path) -> Vdisk {
    Vdisk::open(image, &diskstream_vdisk::OpenOptions::default()).expect("opens")
}

/// An image of 64 blocks.
fn image(folder: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    let image = folder.path().join(name);
    std::fs::write(&image, vec![7; 4 << 20]).expect("an image");
    image
}

/// What is wrong when so many frames less than the cache's can hold a block.
fn error(image: &Path, reserved: usize, flags: &[&str]) -> String {
    let settings = settings(image, flags);
    let frames = settings.cache_bytes / settings.block_bytes - reserved;
    match provide(&settings, &[Some(open(image))], frames) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_cache_that_cannot_hold_what_it_must_is_refused_with_the_sum() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = image(&folder, "disk.img");
    let small = error(&image, 0, &["--cores", "0", "--cache", "4M"]);
    assert!(small.contains("--cache 4M") && small.contains("at least 8M"), "{small}");
    assert_eq!(error(&image, 0, &["--cores", "0", "--cache", "8M"]), "");
    let pinned = error(&image, 0, &["--cores", "0", "--cache", "19M", "--cache-pinned"]);
    assert!(pinned.contains("64 blocks") && pinned.contains("at least 20M"), "{pinned}");
    assert_eq!(error(&image, 0, &["--cores", "0", "--cache", "20M", "--cache-pinned"]), "");
    // What holds headers holds no blocks.
    let pinned = error(&image, 16, &["--cores", "0", "--cache", "20M", "--cache-pinned"]);
    assert!(pinned.contains("holds 304") && pinned.contains("at least 21M"), "{pinned}");
    assert_eq!(error(&image, 16, &["--cores", "0", "--cache", "21M", "--cache-pinned"]), "");
}

#[test]
fn what_is_pinned_is_loaded_whole_and_what_boots_read_comes_from_the_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = image(&folder, "disk.img");
    let mut list = WarmList::default();
    list.learn(&[5, 1, 64]);
    list.save(&image, open(&image).content_id(), 64 << 10).expect("written");
    let entry = |flags: &[&str]| {
        let settings = settings(&image, flags);
        let provided = provide(&settings, &[Some(open(&image))], 1000).expect("fits");
        let known = &provided.known;
        assert_eq!((known.lists.len(), known.ignored), (1, 0));
        let limits = provided.limits;
        assert!(limits.stores == 1 && limits.store_depths.iter().all(|&depth| depth >= 1));
        provided.entries.into_iter().next().expect("one")
    };
    let pinned = entry(&["--cache-pinned"]);
    assert!(pinned.kept && pinned.feed.is_active() && pinned.recorder.is_none());
    assert_eq!(pinned.feed.blocks(), 64);
    let usual = entry(&[]);
    assert!(!usual.kept && !usual.feed.is_active() && usual.recorder.is_some());
    assert_eq!(usual.feed.blocks(), 2, "what is past the end is left out");
    let off = entry(&["--warm-up", "off"]);
    assert!(off.feed.blocks() == 0 && off.recorder.is_none());
}

#[test]
fn a_list_of_no_use_is_counted_by_the_node_that_met_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = image(&folder, "disk.img");
    std::fs::write(folder.path().join("disk.img.warm"), b"nonsense").expect("written");
    for _ in 0..2 {
        let provided = provide(&settings(&image, &[]), &[Some(open(&image))], 1000).expect("fits");
        assert_eq!((provided.known.ignored, provided.known.lists[0].is_empty()), (1, true));
    }
}

#[test]
fn lists_share_half_of_what_nothing_is_pinned_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(&image(&folder, "disk.img"), &[]);
    let parts = |lengths: &[u32], frames: usize| -> Vec<u32> {
        let blocks = |&length: &u32| {
            let mut list = WarmList::default();
            list.learn(&(0..length).collect::<Vec<u32>>());
            list
        };
        let lists: Vec<WarmList> = lengths.iter().map(blocks).collect();
        let map = Arc::new(FlatMap::dense(64 << 20));
        let entry = |_| VdiskEntry::new("disk", ContentId::default(), map.clone(), None);
        let mut entries: Vec<VdiskEntry> = lists.iter().map(entry).collect();
        feed(&mut entries, &lists, &settings, frames);
        entries.iter().map(|entry| entry.feed.blocks()).collect()
    };
    assert_eq!(parts(&[100], 1000), [100]);
    assert_eq!(parts(&[100, 0, 100], 200), [50, 0, 50], "not half of the cache for each");
    assert_eq!(parts(&[500, 10, 80], 200), [45, 10, 45], "what one leaves is for the others");
    assert_eq!(parts(&[7, 7, 7], 3), [0, 0, 1]);
    assert_eq!(parts(&[7], 0), [0]);
}

/// Two disks, and no more: a fast one and a slow one.
fn sysfs(root: &tempfile::TempDir) -> Sysfs {
    for (device, depth) in [("259:0", "1023\n"), ("8:0", "32\n")] {
        let queue = root.path().join("dev/block").join(device).join("queue");
        std::fs::create_dir_all(&queue).expect("made");
        std::fs::write(queue.join("nr_requests"), depth).expect("written");
    }
    Sysfs::at(root.path())
}

#[test]
fn an_interface_that_is_not_there_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let disk = image(&root, "disk.img");
    std::fs::create_dir_all(root.path().join("class/net/lo")).expect("made");
    let node = |flags: &[&str]| node_by(&settings(&disk, flags), &Sysfs::at(root.path()));
    assert_eq!(node(&["--cores", "0", "--numa-node", "nic:lo"]).expect("is there"), None);
    for (flag, words) in
        [("nic:eno1", "nic:eno1: this host has no such interface"), ("7", "no such memory node")]
    {
        let error =
            node(&["--cores", "0", "--numa-node", flag]).expect_err("is not there").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn each_store_is_asked_for_what_its_own_device_takes() {
    let root = tempfile::tempdir().expect("a folder");
    let sysfs = sysfs(&root);
    let disk = image(&root, "disk.img");
    let (fuse, slow, fast) = (54, 8 << 8, 259 << 8);
    let stores = Stores { devices: vec![fuse, slow, fast], fuse: [fuse].into() };
    let depths = |flags: &[&str]| stores.depths(&settings(&disk, flags), &sysfs)[..3].to_vec();
    assert_eq!(depths(&["--cores", "0"]), [12, 32, 256], "at most what a shard can wait for");
    assert_eq!(depths(&["--cores", "0", "--store-depth", "40"]), [40, 40, 40]);
    assert_eq!(depths(&["--cores", "0", "--store-depth", "1"]), [1, 1, 1]);
    let of_shards = |shards: usize| {
        let mut settings = settings(&disk, &["--cores", "0"]);
        settings.cores = vec![0; shards];
        stores.depths(&settings, &sysfs)[..3].to_vec()
    };
    assert_eq!(of_shards(5), [2, 6, 204], "all of them together no more than the device takes");
    assert_eq!(of_shards(64), [1, 1, 15], "but each at least one");
    // Stores that share the last number are asked as the weakest of them can be.
    let devices = (0..20).map(|minor| 300 << 8 | minor).chain([slow]);
    let many = Stores { devices: devices.collect(), fuse: HashSet::new() };
    assert_eq!((many.count(), many.number(slow), many.number(300 << 8 | 19)), (16, 15, 15));
    let depths = many.depths(&settings(&disk, &["--cores", "0"]), &sysfs);
    assert_eq!((depths[..15].to_vec(), depths[15]), (vec![256; 15], 32), "what no device bounds");
}

#[test]
fn the_same_bytes_under_two_names_are_pinned_once_and_for_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (image(&folder, "one.img"), image(&folder, "two.img"));
    let mut settings = settings(&one, &["--cores", "0", "--cache", "20M", "--cache-pinned"]);
    let twin = VdiskSetting { name: "two".to_owned(), path: Some(two.clone()), kept: false };
    settings.vdisks.push(twin);
    let vdisks = [Some(open(&one)), Some(open(&two))];
    let frames = settings.cache_bytes / settings.block_bytes;
    let provided = provide(&settings, &vdisks, frames).expect("64 blocks, once");
    let entries = &provided.entries;
    assert!(entries.iter().all(|entry| entry.kept && entry.recorder.is_none()));
    assert_eq!((entries[0].feed.blocks(), entries[1].feed.blocks()), (64, 0));
    settings.vdisks[1].kept = true;
    assert!(provide(&settings, &vdisks, frames).is_ok(), "not twice as many either");
}
