//! `vdisk …`: work on vDisk files without serving them.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use diskstream_vdisk::{OpenOptions, SidecarUse, Vdisk};

use crate::serve::HashProgress;

/// Computes an image's content id, keeps it beside the image, and prints it as `b3sum` does.
///
/// # Errors
/// The image's defect, with the remedy.
pub fn hash(image: &Path, rehash: bool) -> anyhow::Result<()> {
    let sidecar = if rehash { SidecarUse::Rewrite } else { SidecarUse::ReadWrite };
    let options = OpenOptions { sidecar, ..OpenOptions::default() };
    let mut progress = HashProgress::new(&image.display().to_string());
    let vdisk = Vdisk::open_with_progress(image, &options, &mut |done, total| {
        progress.show(done, total);
        ControlFlow::Continue(())
    })?;
    writeln!(std::io::stdout(), "{}  {}", vdisk.content_id(), image.display())?;
    Ok(())
}
