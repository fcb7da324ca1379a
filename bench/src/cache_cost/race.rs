//! The same work on several cores at once, timed.

use std::sync::Barrier;

use diskstream_ring::clock;

/// What one thread does so many times.
pub type Work<'a> = Box<dyn FnMut(u64) + 'a>;

/// Nanoseconds per operation, the mean of all threads. `prepare` is called on each thread, before the clock starts.
pub fn race<'a>(
    threads: usize,
    operations: u64,
    prepare: &(dyn Fn(usize) -> Work<'a> + Sync),
) -> f64 {
    let barrier = Barrier::new(threads);
    let ns: Vec<f64> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    // Where it cannot be bound it runs unbound, as the spread will show.
                    core_affinity::set_for_current(core_affinity::CoreId { id: thread });
                    let mut work = prepare(thread);
                    // Once round, so that tables and lines are where they will be.
                    work(operations / 16 + 1);
                    barrier.wait();
                    let begin = clock::now();
                    work(operations);
                    clock::now().since(begin).0
                })
            })
            .collect();
        racers
            .into_iter()
            .map(|racer| {
                let ns = racer.join().expect("a racer does not panic");
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "seconds in ns, millions of operations"
                )]
                let each = ns as f64 / operations as f64;
                each
            })
            .collect()
    });
    #[expect(clippy::cast_precision_loss, reason = "a few threads")]
    let count = ns.len() as f64;
    ns.iter().sum::<f64>() / count
}
