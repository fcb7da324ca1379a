//! Every scenario, with one seed each; the simulator's command runs more.

use diskstream_sim::scenarios::{self, Cast};

/// A test for each story, and one that there is none without a test.
macro_rules! stories {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let scenario = scenarios::find(stringify!($name)).expect("a scenario of this name");
                let figures = (scenario.play)(Cast { seed: 1, devices: None, planted: None });
                println!("{figures:?}");
            }
        )*

        #[test]
        fn each_story_has_a_test() {
            let tests = [$(stringify!($name)),*];
            let stories: Vec<&str> = scenarios::all().map(|s| s.name).collect();
            assert_eq!(stories, tests);
        }
    };
}

stories! {
    kill
    kill_lossy
    kill_mid_boot
    node_paused_10s
    one_way_cut_to_node
    one_way_cut_to_devices
    cut
    partition
    peers_partition_heals
    partition_splits_devices
    all_nodes_gone
    returns
    stop_graceful
    notice_port_blocked
    stop_lossy
    stop_idle_blocked
    maintenance
    two_leave
    rolling_restart
    rebalance
    rebalance_by_itself
    quiet_60s
    lossy_60s
    very_lossy
    slow_store
    hung_store
    in_order
    lost_store
    lost_store_everywhere
    both_stores_lost
    address_change
    clock_skew
    clock_skew_beyond
    byte_differs
    byte_differs_alone
    stranger_takes_address
    only_a_stranger
    peer_takes_address
    forgeries
}

/// What a seed decides: not one figure alone differs between seeds, and the same seed gives the same run.
#[test]
fn seeds_of_a_story_are_different_runs() {
    let kill = scenarios::find("kill").expect("a scenario of this name");
    let play = |seed| (kill.play)(Cast { seed, devices: Some(8), planted: None });
    let figures: Vec<_> = (1..=8).map(play).collect();
    for (n, one) in figures.iter().enumerate() {
        for other in &figures[n + 1..] {
            assert_ne!(one.reads, other.reads);
            assert!((one.stall_ms_max - other.stall_ms_max).abs() > 0.0);
        }
    }
    assert_eq!(figures[0], play(1));
}
