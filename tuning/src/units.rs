//! Byte counts as people write them.

const KIB: u64 = 1024;
const SUFFIXES: [(char, u64); 4] =
    [('K', KIB), ('M', KIB * KIB), ('G', KIB * KIB * KIB), ('T', KIB * KIB * KIB * KIB)];

/// Reads "512M", "2g" or "4096": powers of 1024, no fractions.
///
/// # Errors
/// A text that says what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is not a size; write a number and K, M, G or T, e.g. 512M");
    let suffix = text.chars().last().map(|c| c.to_ascii_uppercase());
    let found = SUFFIXES.iter().find(|(letter, _)| Some(*letter) == suffix);
    let (digits, factor) =
        found.map_or((text, 1), |(_, factor)| (&text[..text.len() - 1], *factor));
    let count: u64 = digits.parse().map_err(|_| expected())?;
    let bytes = count.checked_mul(factor).ok_or_else(expected)?;
    if bytes == 0 { Err(expected()) } else { Ok(bytes) }
}

/// Writes the count with the largest suffix that keeps it whole.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let fits = |(_, factor): &&(char, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    match SUFFIXES.iter().rev().find(fits) {
        Some((letter, factor)) => format!("{}{letter}", bytes / factor),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("64K", 65536),
            ("512m", 512 << 20),
            ("2G", 2 << 30),
            ("3T", 3 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for text in ["", "M", "0", "0G", "-1", "1.5G", "1GB", "é", "99999999999999T", "+"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for (bytes, text) in
            [(1, "1"), (1024, "1K"), (1536, "1536"), (1 << 40, "1T"), (512 << 20, "512M")]
        {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
