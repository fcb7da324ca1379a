//! qemu's own view of the export: `qemu-img compare`, and `qemu-io` writing to it and to a plain copy alike.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::export::{Export, Spec};
use super::{SEED, SMALL_BYTES, small_image};
use crate::image::{Random, sha256};
use crate::proc;
use crate::runner::Job;
use crate::scratch::Scratch;

const WITHIN: Duration = Duration::from_mins(2);

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["qemu-img", "qemu-io"])?;
    let image = small_image(job)?;
    let before = sha256(job, &image)?;
    let scratch = Scratch::large(&job.ctx.images()?, SMALL_BYTES)?;
    job.check("qemu-img compare, read-only export", |job| {
        let export = Export::start(job, Spec::plain(&image))?;
        compare(job, &image, &export)?;
        refuses_writes(job, &export)?;
        export.finish()
    });
    job.check("qemu-io writes, qemu-img compare with a copy", |job| {
        let copy = scratch.path("copy.img");
        let mut cp = Command::new("cp");
        job.run(cp.arg("--sparse=always").arg(&image).arg(&copy), WITHIN)?;
        let script = script();
        let export = Export::start(job, Spec { write_cache: "ram:128M", ..Spec::plain(&image) })?;
        write_all(job, &script, &copy.display().to_string())?;
        write_all(job, &script, &export.uri())?;
        compare(job, &copy, &export)?;
        let copied = scratch.path("out.img");
        let mut convert = proc::command("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "raw"]).arg(export.uri()).arg(&copied);
        job.run(&mut convert, WITHIN)?;
        let (wanted, got) = (sha256(job, &copy)?, sha256(job, &copied)?);
        anyhow::ensure!(got == wanted, "qemu-img convert gave {got}, the written copy is {wanted}");
        fs::remove_file(&copied)?;
        export.finish()
    });
    job.check("the image is untouched", |job| {
        let after = sha256(job, &image)?;
        anyhow::ensure!(after == before, "SHA-256 was {before}, and is {after}");
        Ok(())
    });
    Ok(())
}

fn compare(job: &mut Job<'_>, image: &Path, export: &Export) -> anyhow::Result<()> {
    let mut command = proc::command("qemu-img");
    command.args(["compare", "-f", "raw", "-F", "raw"]).arg(image).arg(export.uri());
    let text = job.run(&mut command, WITHIN)?;
    anyhow::ensure!(text.contains("Images are identical"), "qemu-img compare: {text}");
    Ok(())
}

/// A client that ignores the read-only flag is answered with an error, and nothing else happens.
fn refuses_writes(job: &mut Job<'_>, export: &Export) -> anyhow::Result<()> {
    let mut command = proc::command("qemu-io");
    command.args(["-f", "raw", "-c", "write -P 1 0 4k"]).arg(export.uri());
    let (status, text) = proc::run(&mut command, "qemu-io", &job.log, WITHIN)?;
    let refused =
        text.contains("read-only") || text.contains("not permitted") || text.contains("denied");
    anyhow::ensure!(
        !status.success() && refused,
        "a write to a read-only export: {status}, {text}"
    );
    Ok(())
}

/// 400 writes of all kinds at random places, with sizes and offsets that fit no block; the same for both targets.
fn script() -> String {
    let mut random = Random::new(SEED);
    let mut script = String::new();
    for i in 0..400_u32 {
        let sector = if random.below(3) == 0 { 4096 } else { 512 };
        let length = (1 + random.below(256)) * sector;
        let at = random.below((SMALL_BYTES - length) / sector) * sector;
        let line = match random.below(8) {
            0 => format!("write -z {at} {length}"),
            1 => format!("write -z -u {at} {length}"),
            2 => format!("writev -P {} {at} {length} 512", 1 + random.below(255)),
            3 => format!("aio_write -P {} {at} {length}\naio_flush", 1 + random.below(255)),
            4 => format!("write -f -P {} {at} {length}", 1 + random.below(255)),
            _ => format!("write -P {} {at} {length}", 1 + random.below(255)),
        };
        writeln!(script, "{line}").expect("a String takes any text");
        if i % 50 == 49 {
            script.push_str("flush\n");
        }
    }
    // The very last sectors too, where the image ends inside a 4 KiB unit.
    writeln!(script, "write -P 77 {} 1536", SMALL_BYTES - 1536).expect("a String takes any text");
    script.push_str("flush\nquit\n");
    script
}

fn write_all(job: &mut Job<'_>, script: &str, target: &str) -> anyhow::Result<()> {
    let mut command = proc::command("qemu-io");
    command.args(["-f", "raw", target]);
    let mut qemu_io = proc::Proc::start(&mut command, "qemu-io", &job.log)?;
    qemu_io.type_in(script)?;
    // It waits for its standard input to become readable even while lines lie in its own buffer; the end of it wakes it.
    qemu_io.close_stdin();
    let status = qemu_io.wait_exit(WITHIN)?;
    let text = qemu_io.text();
    anyhow::ensure!(status.success(), "qemu-io on {target}: {status}");
    for bad in ["failed", "error", "Error", "invalid"] {
        anyhow::ensure!(!text.contains(bad), "qemu-io on {target} says {bad:?}; see the log");
    }
    Ok(())
}
