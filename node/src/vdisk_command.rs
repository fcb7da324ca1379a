//! `vdisk …`: work on vDisk files without serving them.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diskstream_vdisk::{OpenOptions, Scrub, ScrubFound, SidecarUse, Vdisk};

use crate::control::PARTLY;
use crate::serve::HashProgress;

/// Computes an image's content id, keeps it beside the image, and prints it as `b3sum` does.
///
/// # Errors
/// The image's defect, with the remedy.
pub fn hash(image: &Path, rehash: bool) -> anyhow::Result<()> {
    let sidecar = if rehash { SidecarUse::Rewrite } else { SidecarUse::ReadWrite };
    let options = OpenOptions { sidecar, ..OpenOptions::default() };
    let mut progress = HashProgress::new("content id", &image.display().to_string());
    let vdisk = Vdisk::open_with_progress(image, &options, &mut |done, total| {
        progress.show(done, total);
        ControlFlow::Continue(())
    })?;
    writeln!(std::io::stdout(), "{}  {}", vdisk.content_id(), image.display())?;
    Ok(())
}

/// Reads images from their disks and compares them with their kept hashes. Ends with 2 when bytes are bad.
///
/// # Errors
/// When an image cannot be scrubbed; the others are, first.
pub fn scrub(images: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let (mut code, mut failed) = (ExitCode::SUCCESS, None);
    for image in images {
        match scrub_one(image) {
            Ok(true) => {}
            Ok(false) => code = ExitCode::from(PARTLY),
            Err(error) => {
                // All but the last are said here; the last ends the program and is said there.
                if let Some(earlier) = failed.replace(error) {
                    tracing::error!("{earlier}");
                }
            }
        }
    }
    failed.map_or(Ok(code), Err)
}

fn scrub_one(image: &Path) -> anyhow::Result<bool> {
    let scrub = Scrub::of_image(image)?;
    let name = image.display().to_string();
    if let Some(stale) = scrub.stale() {
        tracing::warn!("{name}: {stale}; the kept hashes are of the state before");
    }
    let size = scrub.size_bytes();
    let mut progress = HashProgress::new("scrub", &name);
    let found = scrub.run(&mut |found| {
        progress.show(found.checked_bytes, size);
        ControlFlow::Continue(())
    });
    report(&name, &found)?;
    Ok(found.is_clean())
}

fn report(name: &str, found: &ScrubFound) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for range in &found.differing {
        writeln!(out, "{name}: bytes {}..{} differ from their hashes", range.start, range.end)?;
    }
    let because = found.unreadable_because.as_deref().unwrap_or_default();
    for range in &found.unreadable {
        writeln!(out, "{name}: bytes {}..{} cannot be read: {because}", range.start, range.end)?;
    }
    match found.bad_bytes {
        0 => writeln!(out, "{name}: {} bytes checked, all are right", found.checked_bytes),
        bad => writeln!(
            out,
            "{name}: {} bytes checked, {bad} of them in bad blocks",
            found.checked_bytes
        ),
    }
}
