//! What one ring did, as plain counters. A publisher copies them to wherever they are scraped.

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters of one ring since it was made. Nothing resets; all count upwards.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Stats {
            /// Every counter: name, help, value.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc,)+), self.$name),)+].into_iter()
            }
        }
    };
}

stats! {
    /// Calls of `io_uring_enter`.
    enters,
    /// Waits that found something before they would have slept.
    spins_hit,
    /// Submission entries that the kernel took.
    sqes,
    /// Completion entries reaped.
    cqes,
    /// Datagrams received, each segment of a train counted.
    datagrams_received,
    /// Receive completions with data: trains, or single datagrams.
    trains_received,
    /// Payload bytes received.
    bytes_received,
    /// Datagrams longer than a receive buffer: dropped, or for a train cut to its whole segments.
    receives_truncated,
    /// Receives that found no free buffer; the kernel keeps the datagrams in the socket's buffer meanwhile.
    receives_starved,
    /// Send plans accepted.
    sends,
    /// Datagrams handed to the network, each segment counted.
    datagrams_sent,
    /// Payload bytes handed to the network.
    bytes_sent,
    /// Send plans dropped because the socket's send buffer was full.
    sends_dropped,
    /// Send plans that failed for any other reason.
    sends_failed,
    /// Plans whose segmented send failed and went out again one datagram at a time.
    sends_downgraded,
    /// Send plans handed to the network without a copy.
    sends_zero_copy,
    /// Payload bytes of those.
    bytes_zero_copy,
    /// Notifications that the network is done with such a send; those that are missing are still under way.
    zero_copy_notified,
    /// Notifications that said that the kernel copied after all.
    zero_copy_copied,
    /// Plans that the kernel would not take without a copy, and that went out again with one.
    zero_copy_refused,
    /// Disk reads accepted.
    reads,
    /// Disk reads that failed.
    reads_failed,
    /// Bytes read from disks.
    bytes_read,
    /// Calls refused because an operation slab or a queue was full.
    refused_full,
    /// Wake-ups received.
    wakes_received,
    /// Wake-ups sent to other rings by a ring message, without a system call of their own.
    wakes_messaged,
    /// Wake-ups sent by writing to an eventfd.
    wakes_written,
    /// Completions that found the completion queue full; the sizes are chosen so that this stays zero.
    overflows,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_listed_once() {
        let stats = Stats { enters: 3, overflows: 9, ..Stats::default() };
        let names: std::collections::BTreeSet<_> = stats.fields().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), stats.fields().count());
        assert_eq!(stats.fields().map(|(.., value)| value).sum::<u64>(), 12);
        assert_eq!(size_of::<Stats>(), stats.fields().count() * 8);
    }
}
