//! What the flags of all commands have in common.

use std::fmt::Display;
use std::ops::RangeInclusive;

use anyhow::ensure;

/// A flag's value must be within this range; what is no number is not.
///
/// # Errors
/// Names the flag, its value and the range.
pub fn within<T: Copy + PartialOrd + Display>(
    flag: &str,
    value: T,
    range: RangeInclusive<T>,
) -> anyhow::Result<()> {
    let (from, to) = (range.start(), range.end());
    ensure!(range.contains(&value), "{flag} {value}: must be from {from} to {to}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_is_refused_with_its_flag() {
        assert!(within("--rounds", 1, 1..=100).is_ok());
        let error = |value| within("--seconds", value, 0.1..=86_400.0).unwrap_err().to_string();
        assert_eq!(error(f64::NAN), "--seconds NaN: must be from 0.1 to 86400");
        assert_eq!(error(0.0), "--seconds 0: must be from 0.1 to 86400");
    }
}
