//! The shape of a farm file. Values keep their place in the text, for messages.

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFarm {
    pub(super) farm: RawHead,
    #[serde(default)]
    pub(super) node: Vec<Spanned<RawNode>>,
    #[serde(default)]
    pub(super) store: Vec<RawStore>,
    #[serde(default)]
    pub(super) vdisk: Vec<RawVdisk>,
    #[serde(default)]
    pub(super) device: Vec<RawDevice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHead {
    pub(super) name: Spanned<String>,
    pub(super) key_file: Spanned<String>,
    pub(super) epoch: Option<Spanned<i64>>,
    pub(super) boot_limit: Option<Spanned<i64>>,
    pub(super) rebalance: Option<bool>,
    pub(super) rebalance_trigger: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) accept_mac_alone: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub(super) name: Spanned<String>,
    pub(super) address: Spanned<String>,
    pub(super) login_port: Option<Spanned<i64>>,
    pub(super) io_ports: Option<Spanned<String>>,
    pub(super) peer_port: Option<Spanned<i64>>,
    pub(super) power: Option<Spanned<f64>>,
    pub(super) stores: Option<Vec<Spanned<String>>>,
    pub(super) subnet: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) name: Spanned<String>,
    pub(super) path: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVdisk {
    pub(super) name: Spanned<String>,
    pub(super) store: Spanned<String>,
    pub(super) file: Spanned<String>,
    pub(super) mode: Option<Spanned<String>>,
    pub(super) write_cache: Option<Spanned<String>>,
    pub(super) write_cache_bytes: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) cache_pinned: bool,
    pub(super) node: Option<Spanned<String>>,
    pub(super) subnet_affinity: Option<Spanned<String>>,
    pub(super) content_id: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevice {
    pub(super) mac: Spanned<String>,
    pub(super) name: Spanned<String>,
    pub(super) vdisk: Option<Spanned<String>>,
    pub(super) enabled: Option<bool>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) notice_port: Option<Spanned<i64>>,
}

pub(super) fn parse(text: &str) -> Result<RawFarm, toml::de::Error> {
    toml::from_str(text)
}
