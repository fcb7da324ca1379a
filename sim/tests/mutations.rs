//! The judges see what they are there to see. In a process of its own: panics are expected here, and not shown.

use diskstream_sim::planted::Planted;

#[test]
fn every_planted_mistake_is_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    for planted in Planted::ALL {
        assert!(planted.caught(1, 20).is_some(), "{planted:?} is not caught by 20 seeds");
    }
}
