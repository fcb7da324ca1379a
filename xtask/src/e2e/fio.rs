//! fio writes and verifies through the export: the device's write cache, in RAM and over its edge.

use std::time::Duration;

use super::export::{Export, Spec};
use super::{SEED, small_image};
use crate::image::sha256;
use crate::proc;
use crate::runner::{Job, skip};
use crate::scratch::Scratch;

/// A job of fio: a name and its own flags. Every job writes, then reads back and checks what it wrote.
const JOBS: &[(&str, &[&str])] = &[
    ("4k-random", &["--rw=randwrite", "--bs=4k", "--size=48M", "--iodepth=16"]),
    ("mixed-sizes", &["--rw=randwrite", "--bsrange=4k-128k", "--size=48M", "--iodepth=8"]),
    ("sectors", &["--rw=randwrite", "--bs=512", "--size=2M", "--offset=33M", "--iodepth=4"]),
    ("sequential", &["--rw=write", "--bs=1M", "--size=64M", "--iodepth=4"]),
    ("read-write", &["--rw=randrw", "--bs=8k", "--size=32M", "--iodepth=16"]),
];

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["fio"])?;
    let engines = job.run(proc::command("fio").arg("--enghelp"), Duration::from_secs(20))?;
    if !engines.split_whitespace().any(|engine| engine == "nbd") {
        return Err(skip("this fio was built without its nbd engine"));
    }
    let image = small_image(job)?;
    let before = sha256(job, &image)?;
    job.check("write cache in RAM", |job| {
        let export = Export::start(job, Spec { write_cache: "ram:128M", ..Spec::plain(&image) })?;
        let list: Vec<_> = JOBS.iter().collect();
        run_jobs(job, &export, &list)?;
        export.finish()
    });
    job.check("write cache that overflows into a file", |job| {
        let scratch = Scratch::under(&job.ctx.images()?)?;
        let cache = format!("ram:8M,overflow:{}", scratch.path("overflow").display());
        let export = Export::start(job, Spec { write_cache: &cache, ..Spec::plain(&image) })?;
        run_jobs(job, &export, &[&JOBS[0], &JOBS[1]])?;
        export.finish()
    });
    job.check("reads of a read-only export", |job| {
        let export = Export::start(job, Spec::plain(&image))?;
        let read = ("reads", &["--rw=randread", "--bs=4k", "--size=64M", "--iodepth=32"][..]);
        run_jobs(job, &export, &[&read])?;
        export.finish()
    });
    job.check("the image is untouched", |job| {
        let after = sha256(job, &image)?;
        anyhow::ensure!(after == before, "SHA-256 was {before}, and is {after}");
        Ok(())
    });
    Ok(())
}

fn run_jobs(job: &mut Job<'_>, export: &Export, list: &[&(&str, &[&str])]) -> anyhow::Result<()> {
    for (name, flags) in list {
        let mut command = proc::command("fio");
        command
            .arg(format!("--name={name}"))
            .arg("--ioengine=nbd")
            .arg(format!("--uri={}", export.uri()))
            .args(["--thread", "--verify_fatal=1", "--verify_state_save=0"])
            .arg(format!("--randseed={SEED}"))
            .args(*flags);
        if !flags.contains(&"--rw=randread") {
            command.args(["--verify=crc32c", "--do_verify=1"]);
        }
        let text = job.run(&mut command, Duration::from_mins(3))?;
        // The exit status alone is not trusted with this.
        anyhow::ensure!(
            !text.contains("verify failed") && text.contains("err= 0"),
            "fio job {name}: see the log"
        );
    }
    Ok(())
}
