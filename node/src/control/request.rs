//! What can be asked of a node, and how it answers: the lines of the control socket.

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// A request: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The farm as this node sees it.
    Status,
    /// Counts since the start, for rates.
    Figures,
    /// Move the devices away.
    Drain {
        /// True: stay, in maintenance. False: end when they have moved, as with SIGTERM.
        #[serde(default)]
        stay: bool,
        /// Patience; none: what `--drain-seconds` says.
        #[serde(default)]
        seconds: Option<u32>,
    },
    /// End of maintenance: take devices again.
    Resume,
    /// Even out sessions between nodes.
    Rebalance {
        /// Only this vDisk.
        #[serde(default)]
        vdisk: Option<String>,
        /// Say what would be done, and do nothing.
        #[serde(default)]
        dry_run: bool,
    },
}

/// An answer: one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Figures`].
    Figures(Figures),
    /// A drain goes on.
    Draining {
        /// Sessions still here.
        left: u32,
        /// Sessions when it began.
        of: u32,
        /// Seconds since then.
        seconds: f64,
        /// Seconds until it gives up.
        patience: f64,
    },
    /// A drain is over; for a node that stops the last line.
    Drained {
        /// Sessions that were still here: none, or the deadline had passed.
        left: u32,
        /// Sessions when it began.
        of: u32,
        /// Seconds that it took.
        seconds: f64,
        /// Whether the node goes on, in maintenance.
        stays: bool,
    },
    /// The node takes devices again.
    Resumed,
    /// What a rebalance did, vDisk by vDisk.
    Rebalanced {
        /// True when nothing was done.
        dry_run: bool,
        /// Each vDisk that was looked at.
        vdisks: Vec<Rebalanced>,
    },
    /// The request was not granted.
    Refused {
        /// Why, and the remedy.
        reason: String,
    },
}

/// What a rebalance did with one vDisk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalanced {
    /// Its name.
    pub vdisk: String,
    /// Sessions that were, or would be, told to move.
    pub sessions: u32,
    /// Where to, or why none.
    pub why: String,
}

/// Counts since the node's start, and what is at this moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Seconds since the node's start, on its own clock: two answers' difference is the time between them.
    pub at: f64,
    /// Valid reads received.
    pub reads: u64,
    /// Bytes of vDisk data sent.
    pub data_bytes: u64,
    /// Lookups that found their block in the cache.
    pub cache_hits: u64,
    /// Lookups of blocks.
    pub cache_lookups: u64,
    /// Disk reads started.
    pub disk_reads: u64,
    /// Sessions that are served.
    pub sessions: u32,
    /// Standby sessions.
    pub standbys: u32,
    /// Devices that are booting.
    pub boot_slots_in_use: u32,
    /// Notices sent.
    pub notices: u64,
    /// The devices whose reads took longest by their own last word, the slowest first.
    pub slowest: Vec<SlowDevice>,
}

/// A device and its longest read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowDevice {
    /// Its MAC.
    pub mac: String,
    /// Its longest read between its last two keep-alives, in microseconds.
    pub read_us_max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_documented_lines() {
        let parse = |line: &str| serde_json::from_str::<Request>(line).map_err(|e| e.to_string());
        assert_eq!(parse(r#"{"do":"status"}"#), Ok(Request::Status));
        let drain = Request::Drain { stay: true, seconds: Some(30) };
        assert_eq!(parse(r#"{"do":"drain","stay":true,"seconds":30}"#), Ok(drain));
        assert_eq!(parse(r#"{"do":"drain"}"#), Ok(Request::Drain { stay: false, seconds: None }));
        let rebalance = Request::Rebalance { vdisk: Some("debian-13".to_owned()), dry_run: false };
        assert_eq!(parse(r#"{"do":"rebalance","vdisk":"debian-13"}"#), Ok(rebalance));
        // A misspelt key must not turn maintenance into a stop.
        assert!(parse(r#"{"do":"drain","stey":true}"#).is_err());
        for garbage in ["", "{", "[]", "7", "\"status\"", r#"{"do":"explode"}"#, r#"{"do":7}"#] {
            assert!(parse(garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn answers_survive_the_line() {
        let answers = [
            Answer::Draining { left: 3, of: 9, seconds: 1.0, patience: 14.0 },
            Answer::Drained { left: 0, of: 9, seconds: 1.5, stays: true },
            Answer::Resumed,
            Answer::Refused { reason: "no".to_owned() },
            Answer::Figures(Figures { reads: 7, ..Figures::default() }),
        ];
        for answer in answers {
            let line = serde_json::to_string(&answer).expect("plain data");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Answer>(&line).expect("its own line"), answer);
        }
    }
}
