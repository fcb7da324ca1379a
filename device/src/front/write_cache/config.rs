//! `--write-cache none|ram:SIZE[,overflow:FILE]`.
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The smallest RAM part: one segment of the slab.
pub const RAM_BYTES_MIN: u64 = 1 << 20;
/// The largest RAM part; a table entry can name twice as much.
pub const RAM_BYTES_MAX: u64 = 4 << 40;

/// The type of a device's write cache. It is declared, shown in `status`, and never changes on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteCacheConfig {
    /// No writes: the disk is exported read-only.
    None,
    /// Written units live in RAM, past `ram_bytes` in the overflow file if there is one.
    Ram {
        /// Bytes of RAM for written units; a multiple of 4 KiB.
        ram_bytes: u64,
        /// Where new units go once the RAM is full. Without it, such writes fail with `ENOSPC`.
        overflow: Option<PathBuf>,
    },
}

/// What is wrong with a `--write-cache` value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteCacheConfigError {
    /// Neither `none` nor `ram:`.
    #[error("write cache {0:?}: unknown type; say none, ram:SIZE or ram:SIZE,overflow:FILE")]
    Type(String),
    /// `ram` without a size, or with one that is not a number.
    #[error("write cache size {0:?}: not a size; say a number with K, M or G, such as ram:512M")]
    Size(String),
    /// A size that makes no sense.
    #[error("write cache size {0:?}: out of range; choose between 1M and 4096G")]
    Range(String),
    /// Something other than `overflow:` after the size.
    #[error("write cache option {0:?}: unknown; the only option is overflow:FILE")]
    Option(String),
    /// `overflow:` without a file.
    #[error("write cache option overflow: names no file; say overflow:/path/on/a/local/disk")]
    NoFile,
}

impl FromStr for WriteCacheConfig {
    type Err = WriteCacheConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::None);
        }
        let Some(rest) = text.strip_prefix("ram:") else {
            return Err(match text {
                "ram" => WriteCacheConfigError::Size(String::new()),
                _ => WriteCacheConfigError::Type(text.to_owned()),
            });
        };
        // Everything after the first comma is one option, so a file name may hold commas.
        let (size, option) = match rest.split_once(',') {
            Some((size, option)) => (size, Some(option)),
            None => (rest, None),
        };
        let ram_bytes = parse_size(size)?;
        let overflow = match option {
            None => None,
            Some(option) => match option.strip_prefix("overflow:") {
                None => return Err(WriteCacheConfigError::Option(option.to_owned())),
                Some("") => return Err(WriteCacheConfigError::NoFile),
                Some(file) => Some(PathBuf::from(file)),
            },
        };
        Ok(Self::Ram { ram_bytes, overflow })
    }
}

/// Parses `SIZE`: digits and one of K, M, G (powers of 1024), or bytes without a suffix. Rounded down to whole units.
fn parse_size(text: &str) -> Result<u64, WriteCacheConfigError> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((end, 'K' | 'k')) => (&text[..end], 10),
        Some((end, 'M' | 'm')) => (&text[..end], 20),
        Some((end, 'G' | 'g')) => (&text[..end], 30),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(WriteCacheConfigError::Size(text.to_owned()));
    }
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| (RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(bytes))
        .map(|bytes| bytes - bytes % crate::front::source::UNIT_BYTES)
        .ok_or_else(|| WriteCacheConfigError::Range(text.to_owned()))
}

impl fmt::Display for WriteCacheConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::Ram { ram_bytes, overflow } => {
                match (ram_bytes % (1 << 30), ram_bytes % (1 << 20)) {
                    (0, _) => write!(formatter, "ram:{}G", ram_bytes >> 30)?,
                    (_, 0) => write!(formatter, "ram:{}M", ram_bytes >> 20)?,
                    _ => write!(formatter, "ram:{}K", ram_bytes >> 10)?,
                }
                match overflow {
                    Some(file) => write!(formatter, ",overflow:{}", file.display()),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood() {
        let parsed = |text: &str| text.parse::<WriteCacheConfig>().unwrap();
        assert_eq!(parsed("none"), WriteCacheConfig::None);
        let ram = |ram_bytes, overflow: Option<&str>| WriteCacheConfig::Ram {
            ram_bytes,
            overflow: overflow.map(PathBuf::from),
        };
        assert_eq!(parsed("ram:512M"), ram(512 << 20, None));
        assert_eq!(parsed("ram:2g"), ram(2 << 30, None));
        assert_eq!(parsed("ram:1500K"), ram(1500 << 10, None));
        assert_eq!(parsed("ram:1048577"), ram(1 << 20, None));
        assert_eq!(parsed("ram:1M,overflow:/a,b"), ram(1 << 20, Some("/a,b")));
        for text in ["none", "ram:3G", "ram:1500K", "ram:7M,overflow:/x"] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_refused_names_the_part() {
        use WriteCacheConfigError as E;
        let refused = |text: &str| text.parse::<WriteCacheConfig>().unwrap_err();
        assert_eq!(refused("disk"), E::Type("disk".to_owned()));
        assert_eq!(refused("ram"), E::Size(String::new()));
        assert_eq!(refused("ram:"), E::Size(String::new()));
        assert_eq!(refused("ram:12T"), E::Size("12T".to_owned()));
        assert_eq!(refused("ram:-1M"), E::Size("-1M".to_owned()));
        assert_eq!(refused("ram:é"), E::Size("é".to_owned()));
        assert_eq!(refused("ram:0"), E::Range("0".to_owned()));
        assert_eq!(
            refused("ram:99999999999999999999G"),
            E::Range("99999999999999999999G".to_owned())
        );
        assert_eq!(refused("ram:1M,spill:/x"), E::Option("spill:/x".to_owned()));
        assert_eq!(refused("ram:1M,overflow:"), E::NoFile);
    }
}
