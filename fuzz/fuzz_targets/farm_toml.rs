//! A farm file of any text: a farm or a list of defects, each on one line.
#![no_main]

use std::path::Path;

use diskstream_node::farm::{Farm, FarmError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Farm::parse(text, Path::new("/etc/diskstream/farm.toml")) {
        Ok(farm) => {
            assert!(farm.devices_without_key() <= farm.device_count() || farm.admits_any_mac());
            for node in &farm.nodes {
                assert!(farm.node(&node.name).is_some(), "names are unique and found");
            }
        }
        Err(error @ FarmError::Defects { .. }) => {
            for line in error.to_string().lines() {
                assert!(
                    !line.chars().any(char::is_control),
                    "a defect shows no control characters"
                );
            }
        }
        Err(other) => panic!("parsing reads nothing: {other}"),
    }
});
