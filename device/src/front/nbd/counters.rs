//! What an NBD server counts.
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident: $help:literal,)*) => {
        /// Counters of one server, shared by its connections. They only grow, except `connections_open`.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: AtomicU64,)*
        }

        impl Counters {
            /// (name, help, value) of each.
            pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
                // Relaxed: each is a number for people, nothing is published through them.
                vec![$((stringify!($name), $help, self.$name.load(Ordering::Relaxed)),)*]
            }

            /// For `status`: one number for each name.
            pub fn json(&self) -> serde_json::Value {
                self.snapshot().into_iter().map(|(name, _, value)| (name, value)).collect()
            }
        }
    };
}

counters! {
    connections_open: "Connections that live, or whose requests are still unanswered",
    connections_total: "Connections accepted",
    connections_refused_total: "Connections closed at once because too many were open",
    handshakes_failed_total: "Handshakes that broke the protocol or fell silent",
    protocol_errors_total: "Connections cut in transmission because the client broke the protocol",
    reads_total: "Read requests",
    read_bytes_total: "Bytes asked for by read requests",
    writes_total: "Write requests",
    write_bytes_total: "Bytes of write requests",
    zeroes_total: "Trim and write-zeroes requests",
    flushes_total: "Flush requests",
    block_status_total: "Block status requests",
    error_replies_total: "Requests answered with an error",
    backpressure_waits_total: "Times a connection stopped reading its socket because too much was in flight",
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
