//! The farm key, device keys, and what is derived from the farm key.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The secret that all nodes of a farm share. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct FarmKey([u8; 32]);

/// The secret that a device and the farm share. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceKey(pub(super) [u8; 32]);

/// The keys in use, each derived from the farm key for one purpose.
#[derive(Clone)]
pub struct Keys {
    pub(super) cookie: [u8; 32],
    pub(super) ticket: [u8; 32],
    pub(crate) peer: [u8; 32],
}

/// A farm key from a file.
#[derive(Debug)]
pub struct LoadedFarmKey {
    /// The key.
    pub key: FarmKey,
    /// Whether users other than the owner and the group may read the file: to be logged as a warning.
    pub world_readable: bool,
}

/// Why a text or file is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be opened or read.
    #[error("cannot read the key file {}: {source}; make one with: openssl rand -hex 32 > {}", path.display(), path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no key: {source}; make one with: openssl rand -hex 32 > {}", path.display(), path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BadKey,
    },
}

/// Why some bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Neither form.
    #[error("a key is 32 raw bytes or 64 hexadecimal digits")]
    Form,
    /// Nobody's secret.
    #[error("a key of zeros is no secret")]
    Zero,
}

impl FarmKey {
    /// A key of these bytes, e.g. 32 fresh random ones for a node without a farm.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> FarmKey {
        FarmKey(bytes)
    }

    /// Reads a key file: 32 raw bytes, or 64 hexadecimal digits with white space around them.
    ///
    /// # Errors
    /// [`KeyError`] names the file and the remedy.
    pub fn load(path: &Path) -> Result<LoadedFarmKey, KeyError> {
        let read = |source| KeyError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(read)?;
        let mode = file.metadata().map_err(read)?.mode();
        let mut bytes = Vec::new();
        // Longer than any key with its white space: a file of another kind is not swallowed whole.
        file.take(1024).read_to_end(&mut bytes).map_err(read)?;
        let key =
            parse(&bytes).map_err(|source| KeyError::InFile { path: path.to_owned(), source })?;
        Ok(LoadedFarmKey { key: FarmKey(key), world_readable: mode & 0o004 != 0 })
    }
}

impl DeviceKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> DeviceKey {
        DeviceKey(bytes)
    }

    /// What tickets carry in the key's place.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }
}

impl FromStr for DeviceKey {
    type Err = BadKey;

    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<DeviceKey, BadKey> {
        parse_hex(text.as_bytes()).and_then(not_zero).map(DeviceKey)
    }
}

impl Keys {
    /// The keys of a farm. Another purpose would be another context string: BLAKE3 makes them independent.
    #[must_use]
    pub fn derive(farm_key: &FarmKey) -> Keys {
        let derive = |context| blake3::derive_key(context, &farm_key.0);
        Keys {
            cookie: derive("diskstream 2026-10 login cookie v1"),
            ticket: derive("diskstream 2026-10 ticket v1"),
            peer: derive("diskstream 2026-11 datagrams between nodes v1"),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<[u8; 32], BadKey> {
    match bytes.try_into() {
        Ok(raw) => not_zero(raw),
        Err(_) => parse_hex(bytes.trim_ascii()).and_then(not_zero),
    }
}

fn parse_hex(text: &[u8]) -> Result<[u8; 32], BadKey> {
    let mut key = [0; 32];
    if text.len() != 2 * key.len() {
        return Err(BadKey::Form);
    }
    for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = [digit(digits[0])?, digit(digits[1])?];
        *byte = high << 4 | low;
    }
    Ok(key)
}

fn digit(c: u8) -> Result<u8, BadKey> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        b'A'..=b'F' => Ok(c - b'A' + 10),
        _ => Err(BadKey::Form),
    }
}

fn not_zero(key: [u8; 32]) -> Result<[u8; 32], BadKey> {
    if key == [0; 32] { Err(BadKey::Zero) } else { Ok(key) }
}

macro_rules! secret {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    )*};
}
secret!(FarmKey, DeviceKey, Keys);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

    fn file(bytes: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn both_forms_are_the_same_key() {
        let raw: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let raw_file = file(&raw, 0o600);
        let hex_file = file(format!(" {HEX}\n").as_bytes(), 0o644);
        let (a, b) =
            (FarmKey::load(raw_file.path()).unwrap(), FarmKey::load(hex_file.path()).unwrap());
        assert_eq!(a.key, b.key);
        assert_eq!((a.world_readable, b.world_readable), (false, true));
    }

    #[test]
    fn what_is_no_key_is_named_with_the_remedy() {
        for bytes in [&b""[..], &[0; 32], &[1; 33], &[b'g'; 64], &[b'a'; 63], &[b'a'; 2000]] {
            let file = file(bytes, 0o600);
            let error = FarmKey::load(file.path()).unwrap_err().to_string();
            assert!(
                error.contains(file.path().to_str().unwrap()) && error.contains("openssl"),
                "{error}"
            );
        }
        let error = FarmKey::load(Path::new("/nonexistent/farm.key")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/farm.key"));
    }

    #[test]
    fn secrets_do_not_show() {
        let key = FarmKey::new([7; 32]);
        let shown = format!("{key:?} {:?} {:?}", Keys::derive(&key), DeviceKey::new([7; 32]));
        assert_eq!(shown, "FarmKey(secret) Keys(secret) DeviceKey(secret)");
    }

    #[test]
    fn purposes_have_different_keys() {
        let keys = Keys::derive(&FarmKey::new([7; 32]));
        assert_ne!(keys.cookie, keys.ticket);
        assert!(keys.peer != keys.ticket && keys.peer != keys.cookie);
        assert_ne!(keys.cookie, Keys::derive(&FarmKey::new([8; 32])).cookie);
    }
}
