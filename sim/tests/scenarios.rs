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
    partition
    peers_partition_heals
    partition_splits_devices
    all_nodes_gone
    returns
    stop_graceful
    notice_port_blocked
    stop_idle_blocked
    maintenance
    two_leave
    rolling_restart
    quiet_60s
    lossy_60s
    very_lossy
    slow_store
    lost_store
    lost_store_everywhere
    clock_skew
    clock_skew_beyond
    byte_differs
    byte_differs_alone
    stranger_takes_address
    only_a_stranger
    peer_takes_address
    forgeries
}
