//! The image in a folder of this run's own, so that the list of what its boots read, which the node keeps beside it, is this run's own
//! too: earlier runs left none, and others that use the image see none of it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// What nodes keep beside an image: its hashes, and the list of what boots read.
const HASHES: &str = "b3";
const LIST: &str = "warm";

/// A second name of the image, gone with the run.
#[derive(Debug)]
pub struct Store {
    _folder: TempDir,
    image: PathBuf,
}

impl Store {
    /// In a folder beside `image`, so that its bytes need not be copied.
    ///
    /// # Errors
    /// When the folder or the second name cannot be made.
    pub fn new(image: &Path) -> anyhow::Result<Store> {
        let beside = image.parent().context("the image is in no folder")?;
        let folder = tempfile::tempdir_in(beside)
            .with_context(|| format!("making a folder in {}", beside.display()))?;
        let name = folder.path().join(image.file_name().context("the image has no name")?);
        fs::hard_link(image, &name)
            .with_context(|| format!("linking {} to {}", name.display(), image.display()))?;
        // Without them the node makes them anew, which takes some seconds and changes nothing else.
        let _ = fs::hard_link(with(image, HASHES), with(&name, HASHES));
        Ok(Store { _folder: folder, image: name })
    }

    /// The image, by its second name.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// No boot has read anything yet.
    ///
    /// # Errors
    /// When there is a list and it cannot be removed.
    pub fn forget(&self) -> anyhow::Result<()> {
        let list = with(&self.image, LIST);
        match fs::remove_file(&list) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", list.display()))
            }
            _ => Ok(()),
        }
    }

    /// The node that has ended wrote a list.
    ///
    /// # Errors
    /// When there is none.
    pub fn ensure_list(&self) -> anyhow::Result<()> {
        let list = with(&self.image, LIST);
        ensure!(list.exists(), "the node ended without writing {}", list.display());
        Ok(())
    }
}

/// The file beside an image with this suffix.
fn with(image: &Path, suffix: &str) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_beside_the_first_name_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.img");
        fs::write(&image, "bytes").unwrap();
        fs::write(with(&image, LIST), "others'").unwrap();
        let store = Store::new(&image).unwrap();
        assert_eq!(fs::read(store.image()).unwrap(), b"bytes");
        assert!(store.ensure_list().is_err());
        store.forget().unwrap();
        fs::write(with(store.image(), LIST), "ours").unwrap();
        store.ensure_list().unwrap();
        store.forget().unwrap();
        assert!(store.ensure_list().is_err());
        let own = store.image().to_owned();
        drop(store);
        assert!(!own.exists() && image.exists());
        assert_eq!(fs::read(with(&image, LIST)).unwrap(), b"others'");
    }
}
