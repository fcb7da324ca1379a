//! A boot as recorded, and boots that vary from it.

use std::path::Path;

use anyhow::{Context, ensure};
use diskstream_wire::limits::READ_BYTES_MAX;

use crate::random::Random;

/// One read of a boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Since the boot began.
    pub time_ms: f64,
    /// Where in the image.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Reads the columns `time_ms,offset,length`, with a heading.
///
/// # Errors
/// When the file cannot be read or a line is not three numbers.
pub fn read_trace(path: &Path) -> anyhow::Result<Vec<Request>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--trace {}: cannot be read", path.display()))?;
    let requests: Vec<Request> = text
        .lines()
        .enumerate()
        .skip(1)
        .map(|(at, line)| {
            parse(line).with_context(|| {
                let place = format!("--trace {}, line {}", path.display(), at + 1);
                format!("{place}: wanted time_ms,offset,length, found {line:?}")
            })
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(!requests.is_empty(), "--trace {}: no requests in it", path.display());
    Ok(requests)
}

fn parse(line: &str) -> Option<Request> {
    let mut fields = line.split(',');
    let request = Request {
        time_ms: fields.next()?.trim().parse().ok()?,
        offset: fields.next()?.trim().parse().ok()?,
        length: fields.next()?.trim().parse().ok()?,
    };
    let sound = request.time_ms >= 0.0 && request.length > 0 && request.length <= 1 << 30;
    (fields.next().is_none() && sound).then_some(request)
}

/// How boots of one image differ. Guessed: no two traces of one image are at hand. The same for every policy.
mod variation {
    /// Requests that a boot leaves out, because another driver or service came first.
    pub const LEFT_OUT: f64 = 0.02;
    /// Requests that come later than recorded, because boots run many things at once; and by how many ms at most.
    pub const LATE: (f64, u64) = (0.10, 1_000);
    /// Additional requests as a share of the recorded: what only this device reads, of 4 KiB, anywhere in the image.
    pub const OWN: f64 = 0.05;
    /// Speed of the device, in percent of the recorded one's.
    pub const SPEED_PERCENT: (u64, u64) = (80, 125);
}

/// A boot like `recorded`, as another device or another day would make it: appended to `out` as (time in ms, block).
pub fn vary(
    recorded: &[Request],
    start_ms: f64,
    block_bytes: u64,
    random: &mut Random,
    out: &mut Vec<(f64, u64)>,
) {
    let (low, high) = variation::SPEED_PERCENT;
    let pace = 100.0 / as_f64(low + random.below(high - low));
    let image = recorded.iter().map(|r| r.offset + r.length).max().unwrap_or(1);
    for request in recorded {
        if random.chance(variation::LEFT_OUT) {
            continue;
        }
        let mut at = start_ms + request.time_ms * pace;
        if random.chance(variation::LATE.0) {
            at += as_f64(random.below(variation::LATE.1));
        }
        blocks(request.offset, request.length, block_bytes, |block| out.push((at, block)));
        if random.chance(variation::OWN) {
            out.push((at, random.below(image) / block_bytes));
        }
    }
}

/// The lookups of a read: one for each block of each request on the wire, which is at most [`READ_BYTES_MAX`] long.
fn blocks(offset: u64, length: u64, block_bytes: u64, mut lookup: impl FnMut(u64)) {
    let mut from = offset;
    while from < offset + length {
        let end = (offset + length).min(from + READ_BYTES_MAX as u64);
        (from / block_bytes..=(end - 1) / block_bytes).for_each(&mut lookup);
        from = end;
    }
}

/// For times and shares: far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "milliseconds and counts, far below 2^53")]
pub fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_three_numbers() {
        assert_eq!(
            parse("25.6,4096,512"),
            Some(Request { time_ms: 25.6, offset: 4096, length: 512 })
        );
        for bad in ["", "1,2", "1,2,3,4", "1,2,0", "-1,2,3", "x,2,3", "1,2,99999999999"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_read_looks_each_block_of_each_request_up() {
        let lookups = |offset, length| {
            let mut found = Vec::new();
            blocks(offset, length, 65_536, |block| found.push(block));
            found
        };
        assert_eq!(lookups(0, 4096), [0]);
        assert_eq!(lookups(61_440, 8192), [0, 1]);
        // Two requests of 64 KiB, each over two blocks.
        assert_eq!(lookups(4096, 131_072), [0, 1, 1, 2]);
    }

    #[test]
    fn boots_vary_but_stay_alike() {
        let recorded: Vec<_> = (0..1_000u32)
            .map(|n| Request { time_ms: f64::from(n), offset: u64::from(n) << 16, length: 4096 })
            .collect();
        let boot = |seed| {
            let mut out = Vec::new();
            vary(&recorded, 0.0, 65_536, &mut Random::new(seed), &mut out);
            out
        };
        assert_eq!(boot(1), boot(1));
        let (one, other) = (boot(1), boot(2));
        assert_ne!(one, other);
        let shared = one.iter().filter(|(_, b)| other.iter().any(|(_, o)| o == b)).count();
        assert!(shared > 900, "{shared} of {}", one.len());
    }
}
