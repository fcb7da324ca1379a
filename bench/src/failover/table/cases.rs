//! The cases, their bounds, and what is shown elsewhere.

/// A figure of a report and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Key of the report.
    pub key: &'static str,
    /// Unit of the bounds and the figure; empty: a count.
    pub unit: &'static str,
    /// At most this, or the case failed.
    pub must: f64,
    /// At most this is wanted.
    pub aim: f64,
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// As the table calls it, and `--only` finds it.
    pub name: &'static str,
    /// Flags of `failover`.
    pub flags: &'static str,
    /// Length of the measurement in seconds.
    pub seconds: u32,
    /// The same with --quick.
    pub quick_seconds: u32,
    /// What is held against what.
    pub bounds: &'static [Bound],
}

const fn stall(must: f64, aim: f64) -> Bound {
    Bound { key: "stall_ms_max", unit: "ms", must, aim }
}

/// The longest stall of a death, with any number of devices.
pub const DEATH: Bound = stall(1000.0, 250.0);

/// What no case may do. Reports with such a fault fail by themselves too.
pub const NEVER: [Bound; 2] = [
    Bound { key: "reads_failed", unit: "", must: 0.0, aim: 0.0 },
    Bound { key: "wrong_bytes", unit: "", must: 0.0, aim: 0.0 },
];
const UNNEEDED: Bound = Bound { key: "unneeded_moves", unit: "", must: 0.0, aim: 0.0 };

/// The cases (issue 3, "What it must show").
pub const CASES: [Case; 12] = [
    Case {
        name: "kill",
        flags: "--mode kill",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[DEATH, UNNEEDED],
    },
    Case {
        name: "kill, refusals get through",
        flags: "--mode kill --refusals",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[DEATH, UNNEEDED],
    },
    Case {
        name: "cut",
        flags: "--mode cut",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[DEATH, UNNEEDED],
    },
    // Long enough for the node to go on within the measurement; every byte that it then says is compared like any other.
    Case {
        name: "pause, resumed after 10 s",
        flags: "--mode pause",
        seconds: 30,
        quick_seconds: 24,
        bounds: &[DEATH, UNNEEDED],
    },
    Case {
        name: "kill at 5 % loss and 20 ms jitter",
        flags: "--mode kill --loss 5% --jitter-ms 20",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(2000.0, 500.0), UNNEEDED],
    },
    Case {
        name: "stop",
        flags: "--mode stop",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(100.0, 20.0), UNNEEDED],
    },
    Case {
        name: "stop, 6902 blocked",
        flags: "--mode stop --block-notice-port",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[stall(100.0, 20.0), UNNEEDED],
    },
    Case {
        name: "stop, idle devices, 6902 blocked",
        flags: "--mode stop --block-notice-port --idle",
        seconds: 30,
        // Six seconds are left for what is to take one.
        quick_seconds: 12,
        bounds: &[
            Bound { key: "left_at_exit", unit: "devices", must: 0.0, aim: 0.0 },
            Bound { key: "all_moved_ms", unit: "ms", must: 15_000.0, aim: 1000.0 },
        ],
    },
    Case {
        name: "nothing happens, 5 % loss and 20 ms jitter",
        flags: "--mode none --loss 5% --jitter-ms 20",
        seconds: 60,
        quick_seconds: 15,
        bounds: &[UNNEEDED, Bound { key: "hedged_percent", unit: "%", must: 2.0, aim: 1.0 }],
    },
    Case {
        name: "all nodes gone for 30 s, re-login",
        flags: "--mode kill --all --gone-seconds 30",
        seconds: 20,
        quick_seconds: 14,
        bounds: &[Bound { key: "all_reading_ms", unit: "ms", must: 3000.0, aim: 1000.0 }],
    },
    Case {
        name: "kill, and a third node's image differs by one byte",
        flags: "--mode kill --nodes 3 --odd-node",
        seconds: 10,
        quick_seconds: 6,
        bounds: &[
            Bound { key: "devices_at_odd_node", unit: "devices", must: 0.0, aim: 0.0 },
            DEATH,
        ],
    },
    // Forty seconds of forgeries, and some for those that come late.
    Case {
        name: "1,000,000 forged datagrams from off the path",
        flags: "--mode none --forged 1000000",
        seconds: 44,
        quick_seconds: 44,
        bounds: &[
            UNNEEDED,
            Bound { key: "devices_moved", unit: "devices", must: 0.0, aim: 0.0 },
            Bound { key: "forged.sessions_lost", unit: "", must: 0.0, aim: 0.0 },
            Bound { key: "forged.not_sent", unit: "", must: 0.0, aim: 0.0 },
            Bound { key: "forged.missing_percent", unit: "%", must: 5.0, aim: 0.1 },
            DEATH,
        ],
    },
];

/// Cases of the issue that this command does not run, and the command that does.
pub const ELSEWHERE: [(&str, &str); 2] = [
    (
        "a store that answers after 2 s, for 30 s: 0 moves, other vDisks not slowed",
        "cargo xtask test --only e2e-slow-store",
    ),
    (
        "a virtual machine whose node is killed in the middle of its boot",
        "cargo xtask test --only e2e-vm",
    ),
];

/// Fleets that grow, smallest first: the longest stall of a kill should not grow with them.
pub const FLEETS: [u16; 3] = [250, 1000, 4000];
/// What `--only` calls them.
pub const GROWING: &str = "devices: 250, 1000, 4000";
/// The longest stall of the largest fleet is flat up to this many times the smallest one's ... Guessed: what single runs of one
/// size differ by.
pub const FLAT_TIMES: f64 = 2.0;
/// ... and so many milliseconds: eight probes of 20 ms are most of a move, and one try more or less is no trend. Guessed.
pub const FLAT_PLUS_MS: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_flags_that_parse_and_bounds_in_order() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: crate::failover::FailoverArgs,
        }
        for case in &CASES {
            let seconds = case.quick_seconds.to_string();
            let words = ["failover", "--seconds", &seconds].into_iter();
            let words = words.chain(case.flags.split_whitespace());
            let line = Line::try_parse_from(words).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            line.args.check().unwrap();
            assert!(case.bounds.iter().all(|bound| bound.aim <= bound.must), "{}", case.name);
            assert!(case.quick_seconds <= case.seconds, "{}", case.name);
        }
    }

    #[test]
    fn the_loss_alone_is_measured_for_a_minute() {
        let lossy = CASES.iter().find(|case| case.name.starts_with("nothing happens")).unwrap();
        assert_eq!(lossy.seconds, 60);
    }
}
