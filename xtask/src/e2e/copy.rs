//! nbdcopy of the whole export, and what nbdinfo says of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::export::{Export, Spec};
use super::{LARGE_BYTES, large_image};
use crate::clock;
use crate::image::sha256;
use crate::proc;
use crate::runner::Job;
use crate::scratch::Scratch;

/// At a tenth of what is expected of the path (500 MiB/s); the machine may be busy with other things.
const COPY_WITHIN: Duration = Duration::from_mins(3);

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    job.need_tools(&["nbdcopy", "nbdinfo"])?;
    let image = large_image(job)?;
    let wanted = sha256(job, &image)?;
    let scratch = Scratch::large(&job.ctx.images()?, LARGE_BYTES)?;
    let export = Export::start(job, Spec::plain(&image))?;
    job.check("nbdinfo tells the size", |job| size(job, &export));
    job.check("block status finds the holes", |job| holes(job, &export, &image));
    job.check("nbdcopy equals the image", |job| {
        copy(job, &export, &scratch.path("copy.img"), &wanted, &[])
    });
    job.check("nbdcopy without block status equals the image", |job| {
        copy(job, &export, &scratch.path("copy.img"), &wanted, &["--no-extents"])
    });
    job.check("one connection, one request at a time", |job| {
        let few = ["--connections=1", "--requests=1", "--request-size=1048576"];
        copy(job, &export, &scratch.path("copy.img"), &wanted, &few)
    });
    job.check("everything stops when told", |_| export.finish());
    job.check("the image is untouched", |job| {
        let after = sha256(job, &image)?;
        anyhow::ensure!(after == wanted, "SHA-256 was {wanted}, and is {after}");
        Ok(())
    });
    Ok(())
}

/// One copy, compared by SHA-256.
pub fn copy(
    job: &mut Job<'_>,
    export: &Export,
    out: &Path,
    wanted: &str,
    flags: &[&str],
) -> anyhow::Result<()> {
    let _ = fs::remove_file(out);
    let mut command = proc::command("nbdcopy");
    command.args(flags).arg(export.uri()).arg(out);
    let began = clock::now();
    job.run(&mut command, COPY_WITHIN)?;
    let seconds = began.elapsed().as_secs_f64();
    let mib = (LARGE_BYTES >> 20) as f64;
    job.note(format!(
        "nbdcopy {}: {seconds:.1} s, {:.0} MiB/s of image",
        flags.join(" "),
        mib / seconds
    ));
    let got = sha256(job, out)?;
    if got != wanted {
        bail!("the copy's SHA-256 is {got}, the image's is {wanted}");
    }
    Ok(())
}

fn size(job: &mut Job<'_>, export: &Export) -> anyhow::Result<()> {
    let mut command = proc::command("nbdinfo");
    command.arg("--size").arg(export.uri());
    let text = job.run(&mut command, Duration::from_secs(30))?;
    anyhow::ensure!(text.trim() == LARGE_BYTES.to_string(), "nbdinfo --size says {text}");
    Ok(())
}

/// The holes of the file must be seen as zeros by clients: all of them that fill whole units, and nothing that is data.
fn holes(job: &mut Job<'_>, export: &Export, image: &Path) -> anyhow::Result<()> {
    let mut command = proc::command("nbdinfo");
    command.args(["--map", "--totals"]).arg(export.uri());
    let text = job.run(&mut command, Duration::from_mins(1))?;
    let mut zero_bytes = 0;
    for line in text.lines() {
        // "  BYTES  PERCENT  TYPE DESCRIPTION": bit 1 of the type says that the range reads as zeros.
        let words: Vec<_> = line.split_whitespace().collect();
        let [bytes, _, kind, ..] = words[..] else { continue };
        let kind: u32 = kind.parse().with_context(|| format!("a line of nbdinfo: {line}"))?;
        if kind & 2 != 0 {
            zero_bytes += bytes.parse::<u64>()?;
        }
    }
    let allocated = fs::metadata(image)?.blocks() * 512;
    let sparse = LARGE_BYTES.saturating_sub(allocated);
    job.note(format!(
        "{} MiB of holes in the file, {} MiB reported as zeros",
        sparse >> 20,
        zero_bytes >> 20
    ));
    // The file system's own blocks may round; what is no hole on the disk may still be known as zeros.
    anyhow::ensure!(
        zero_bytes + (1 << 20) >= sparse,
        "the file has {sparse} bytes of holes, and the export reports {zero_bytes} as zeros"
    );
    anyhow::ensure!(zero_bytes < LARGE_BYTES / 2, "more zeros ({zero_bytes}) than the image has");
    Ok(())
}
