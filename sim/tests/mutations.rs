//! The judges see what they are there to see. In a process of its own: panics are expected here, and not shown.

use diskstream_sim::world::{self, Planted};

#[test]
fn every_planted_mistake_is_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    for planted in Planted::ALL {
        let caught = (1..=20).any(|seed| {
            std::panic::catch_unwind(|| world::run(seed, Some(planted)).reads).is_err()
        });
        assert!(caught, "{planted:?} is not caught by 20 seeds");
    }
}
