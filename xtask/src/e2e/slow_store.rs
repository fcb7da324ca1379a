//! A store that answers after two seconds, for half a minute: nobody moves, and another vDisk of the same nodes is not slowed. And one
//! that does not answer at all, for longer than a node waits for a disk: its own vDisk's reads fail and come back, the other's go on.
//!
//! The slow store is a real file for the node: a FUSE mount (nbdfuse) of a server (nbdkit) that sleeps as long as a file says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::farm::{Device, Disk, Farm, NODES};
use super::{large_image, small_image};
use crate::proc::{self, Proc};
use crate::runner::Job;
use crate::scratch::Scratch;

/// How long the store is slow, and how slow (issue: 2 s, for 30 s).
const SLOW_FOR: u64 = 30;
const STORE_DELAY: &str = "2";
/// How long the store hangs: longer than the node's deadline for disk reads (10 s).
const HUNG_FOR: Duration = Duration::from_secs(15);
/// No read of the other vDisk may take as long as half the store's delay: it would have waited for the store.
const OTHER_MAX_MS: f64 = 1000.0;

/// The mounted store. Dropping it unmounts it.
struct SlowStore {
    server: Proc,
    file: PathBuf,
    delay: PathBuf,
    _scratch: Scratch,
}

impl SlowStore {
    fn mount(job: &mut Job<'_>, image: &Path) -> anyhow::Result<SlowStore> {
        job.need_tools(&["nbdkit", "nbdfuse", "fusermount3"])?;
        if !Path::new("/dev/fuse").exists() {
            return Err(crate::runner::skip("this kernel has no FUSE"));
        }
        let scratch = Scratch::small()?;
        let (folder, delay) = (scratch.path("mnt"), scratch.path("delay"));
        fs::create_dir(&folder)?;
        let file = folder.join("slow.img");
        fs::write(&file, "").context("making the mount point")?;
        fs::write(&delay, "0")?;
        let size = fs::metadata(image)?.len();
        let read = format!(
            "pread=sleep $(cat {}); dd if={} skip=$4 count=$3 iflag=skip_bytes,count_bytes status=none",
            delay.display(),
            image.display()
        );
        let mut command = proc::command("nbdfuse");
        // Several connections and a parallel server: one request at a time would let the delays add up.
        command.args(["-r", "-C", "16"]).arg(&file);
        command.args(["--socket-activation", "nbdkit", "-f", "-r", "-t", "32", "eval"]);
        command.args(["thread_model=echo parallel", "can_multi_conn=exit 0"]);
        command.arg(format!("get_size=echo {size}")).arg(read);
        let server = Proc::start(&mut command, "nbdfuse", &job.log)?;
        let store = SlowStore { server, file, delay, _scratch: scratch };
        super::farm::poll("the mounted store", Duration::from_secs(10), || {
            let there = fs::metadata(&store.file).is_ok_and(|file| file.len() == size);
            Ok(there.then_some(()))
        })?;
        Ok(store)
    }

    fn set_delay(&self, seconds: &str) -> anyhow::Result<()> {
        // Replaced as a whole: a reader never finds half a number.
        let next = self.delay.with_extension("next");
        fs::write(&next, seconds)?;
        fs::rename(&next, &self.delay).context("setting the store's delay")
    }
}

impl Drop for SlowStore {
    fn drop(&mut self) {
        let _ =
            std::process::Command::new("fusermount3").args(["-u", "-z"]).arg(&self.file).status();
        let _ = self.server.wait_exit(Duration::from_secs(5));
    }
}

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["fio"])?;
    let (slow, fast) = (small_image(job)?, large_image(job)?);
    job.check("nobody moves, and the other vDisk is not slowed", |job| {
        let store = SlowStore::mount(job, &slow)?;
        let disks =
            [Disk { name: "slow", image: &store.file }, Disk { name: "fast", image: &fast }];
        let mut farm = Farm::new(job, &disks)?;
        for which in 0..NODES.len() {
            farm.start_node(job, which)?;
        }
        // Device n reads vDisk n modulo 2.
        let (on_fast, on_slow) = (farm.attach(job, 1, &[0, 1])?, farm.attach(job, 2, &[0, 1])?);
        let moves_before = [moves(job, &on_fast)?, moves(job, &on_slow)?];
        store.set_delay(STORE_DELAY)?;
        let mut reader = read_slowly(job, &on_slow)?;
        let (worst, reads) = longest_read(job, &on_fast)?;
        let ended = reader.wait_exit(Duration::from_mins(1))?;
        anyhow::ensure!(ended.success(), "reads from the slow store failed: {ended}");
        store.set_delay("0")?;
        let moves_after = [moves(job, &on_fast)?, moves(job, &on_slow)?];
        anyhow::ensure!(moves_after == moves_before, "moves: {moves_before:?}, then {moves_after:?}");
        anyhow::ensure!(worst < OTHER_MAX_MS, "a read of the other vDisk took {worst:.0} ms");
        let pending = on_slow.status(job)?.counter("pending");
        anyhow::ensure!(pending > 0, "no read waited for the slow store: this proves nothing");
        job.note(format!(
            "{SLOW_FOR} s at {STORE_DELAY} s a store read: 0 moves, {pending} signs of life; the other vDisk: {reads} reads, longest {worst:.0} ms"
        ));
        on_fast.stop()?;
        on_slow.stop()
    });
    job.check("a store that hangs stops its own vDisk, and no other", |job| {
        hung(job, &slow, &fast)
    });
    Ok(())
}

fn hung(job: &mut Job<'_>, slow: &Path, fast: &Path) -> anyhow::Result<()> {
    let store = SlowStore::mount(job, slow)?;
    let disks = [Disk { name: "slow", image: &store.file }, Disk { name: "fast", image: fast }];
    let mut farm = Farm::new(job, &disks)?;
    for which in 0..NODES.len() {
        farm.start_node(job, which)?;
    }
    let (on_fast, on_hung) = (farm.attach(job, 1, &[0, 1])?, farm.attach(job, 2, &[0, 1])?);
    let moves_before = moves(job, &on_fast)?;
    store.set_delay(&HUNG_FOR.as_secs().to_string())?;
    let mut command = fio("hung", &on_hung);
    // As many reads as a device may have outstanding; they may fail, and it does not matter when fio gives up.
    command.args(["--iodepth=64", "--continue_on_error=all"]);
    let mut reader = Proc::start(&mut command, "fio-hung", &job.log)?;
    let (worst, reads) = longest_read(job, &on_fast)?;
    store.set_delay("0")?;
    let _ = reader.wait_exit(Duration::from_mins(2))?;
    let moved = moves(job, &on_fast)? - moves_before;
    anyhow::ensure!(moved == 0, "the other vDisk's device moved {moved} times");
    anyhow::ensure!(worst < OTHER_MAX_MS, "a read of the other vDisk took {worst:.0} ms");
    let pending = on_hung.status(job)?.counter("pending");
    anyhow::ensure!(pending > 0, "no read waited for the hung store: this proves nothing");
    let errors = on_hung.status(job)?.counter("store_errors");
    anyhow::ensure!(
        errors > 0,
        "no read of the hung store was refused: the node's deadline for disk reads does nothing"
    );
    // The store is back: so is its vDisk.
    let mut again = proc::command("qemu-io");
    again.args(["-r", "-f", "raw", "-c", "read 0 1M"]).arg(on_hung.uri());
    super::farm::poll("the vDisk on the store that hung", Duration::from_secs(60), || {
        Ok(job.run(&mut again, Duration::from_secs(30)).is_ok().then_some(()))
    })?;
    job.note(format!("the other vDisk: {reads} reads, longest {worst:.0} ms; {pending} signs of life and {errors} refusals from the hung one"));
    on_fast.stop()?;
    on_hung.stop()
}

fn moves(job: &mut Job<'_>, device: &Device) -> anyhow::Result<u64> {
    Ok(device.status(job)?.counter("moves"))
}

fn fio(name: &str, device: &Device) -> std::process::Command {
    let mut command = proc::command("fio");
    command
        .args([&format!("--name={name}"), "--ioengine=nbd", &format!("--uri={}", device.uri())])
        .args(["--thread", "--rw=randread", "--bs=4k", "--time_based", "--output-format=json"])
        .arg(format!("--runtime={SLOW_FOR}"));
    command
}

fn read_slowly(job: &Job<'_>, device: &Device) -> anyhow::Result<Proc> {
    let mut command = fio("slow", device);
    command.args(["--iodepth=4", "--rate_iops=10"]);
    Proc::start(&mut command, "fio-slow", &job.log)
}

/// Reads from the other vDisk all the while: its longest read in milliseconds, and how many there were.
fn longest_read(job: &mut Job<'_>, device: &Device) -> anyhow::Result<(f64, u64)> {
    let mut command = fio("fast", device);
    command.args(["--iodepth=4", "--rate_iops=200"]);
    let text = job.run(&mut command, Duration::from_mins(2))?;
    let start = text.find('{').context("fio said no JSON")?;
    let said: serde_json::Value = serde_json::from_str(&text[start..])?;
    let read = &said["jobs"][0]["read"];
    let longest = read["clat_ns"]["max"].as_f64().context("fio told no longest read")?;
    Ok((longest / 1e6, read["total_ios"].as_u64().unwrap_or(0)))
}
