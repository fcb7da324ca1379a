//! Opening the vDisks, with progress that people and logs can follow.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use diskstream_ring::clock;
use diskstream_vdisk::{OpenOptions, SidecarUse, Vdisk};
use diskstream_wire::Nanos;
use indicatif::{ProgressBar, ProgressStyle};

use crate::settings::Settings;

/// Opens and, where needed, hashes the images, with a progress bar on a terminal and log lines otherwise. Gives none when `stop`
/// was set meanwhile: hashing may take an hour, and who is told to stop does not finish it first.
///
/// # Errors
/// The first image that cannot be served, with its defect and the remedy.
pub fn open_vdisks(
    settings: &Settings,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Vec<Option<Vdisk>>>> {
    let sidecar = if settings.rehash { SidecarUse::Rewrite } else { SidecarUse::ReadWrite };
    let options = OpenOptions { sidecar, ..OpenOptions::default() };
    let mut vdisks = Vec::new();
    for config in &settings.vdisks {
        let Some(path) = &config.path else {
            vdisks.push(None);
            continue;
        };
        let mut progress = HashProgress::new("content id", &config.name);
        let opened = Vdisk::open_with_progress(path, &options, &mut |done, total| {
            progress.show(done, total);
            if stop.load(Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match opened {
            // Also when the last block was done before it was looked at: the next image must not begin.
            _ if stop.load(Relaxed) => return Ok(None),
            Ok(vdisk) => vdisks.push(Some(vdisk)),
            Err(error) if settings.every_vdisk_needed => return Err(error.into()),
            Err(error) => {
                tracing::error!(vdisk = config.name, "not served by this node: {error}");
                vdisks.push(None);
            }
        }
    }
    anyhow::ensure!(
        vdisks.iter().any(Option::is_some),
        "none of the farm's vDisks can be served by this node; the reasons are above"
    );
    Ok(Some(vdisks))
}

/// Progress of reading a whole image: a bar for people, a line every ten seconds for logs.
pub struct HashProgress {
    what: &'static str,
    name: String,
    bar: Option<ProgressBar>,
    said: Nanos,
}

impl HashProgress {
    /// Nothing is shown until there is something to show.
    #[must_use]
    pub fn new(what: &'static str, name: &str) -> HashProgress {
        HashProgress { what, name: name.to_owned(), bar: None, said: clock::now() }
    }

    /// So much of so many bytes is done.
    pub fn show(&mut self, done: u64, total: u64) {
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let bar =
                    ProgressBar::new(total).with_prefix(format!("{} of {}", self.what, self.name));
                let style = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                bar.with_style(ProgressStyle::with_template(style).expect("a valid template"))
            });
            bar.set_position(done);
            if done == total {
                bar.finish_and_clear();
            }
        } else if clock::now().since(self.said) >= Nanos::from_secs(10) {
            self.said = clock::now();
            tracing::info!(vdisk = self.name, "{}: {} %", self.what, done * 100 / total.max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings(image: &str) -> Settings {
        let cli = Cli::try_parse_from(["diskstream-node", "serve", image]).expect("valid flags");
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        Settings::resolve(&args).expect("an image that is there")
    }

    #[test]
    fn who_is_told_to_stop_hashes_no_further() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("disk.img");
        std::fs::write(&image, vec![7; 4 << 20]).expect("an image");
        let settings = settings(image.to_str().expect("UTF-8"));
        let stop = AtomicBool::new(true);
        assert!(open_vdisks(&settings, &stop).expect("no error").is_none());
        // Nothing was kept that a whole hash would have left.
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
        stop.store(false, Relaxed);
        let vdisks = open_vdisks(&settings, &stop).expect("no error").expect("not stopped");
        assert_eq!(vdisks.len(), 1);
    }
}
