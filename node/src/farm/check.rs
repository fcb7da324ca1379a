//! What a farm file must say beyond its shape. All defects are collected, so that one run shows them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use diskstream_wire::limits::{DEVICE_NOTICE_PORT, IO_PORTS, LOGIN_PORT, PEER_PORTS};
use diskstream_wire::{ContentId, ImageMode, Mac, WriteCacheType};
use toml::Spanned;

use super::file::{RawDevice, RawFarm, RawHead, RawNode, RawStore, RawVdisk};
use super::{
    Affinity, BOOT_LIMIT_DEFAULT, Defect, Device, Devices, FARM_NODES_MAX, Farm, Node, Store,
    Subnet, Vdisk,
};
use crate::rebalance;

/// Names of vDisks travel in 64 bytes, all others in 32.
const VDISK_NAME_BYTES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 32;

pub(super) struct Check<'a> {
    text: &'a str,
    base: &'a Path,
    defects: Vec<Defect>,
}

/// Names that were seen, with where.
type Seen = HashMap<String, Range<usize>>;

impl<'a> Check<'a> {
    pub(super) fn new(text: &'a str, base: &'a Path) -> Check<'a> {
        Check { text, base, defects: Vec::new() }
    }

    /// A defect that the parser found: bad TOML, an unknown or missing key, a value of the wrong type.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> Defect {
        self.defect(&error.span().unwrap_or(0..0), error.message().replace('\n', ", "))
    }

    pub(super) fn farm(mut self, raw: RawFarm) -> Result<Farm, Vec<Defect>> {
        let stores = self.stores(&raw.store);
        let nodes = self.nodes(&raw.node, &stores);
        let vdisks = self.vdisks(&raw.vdisk, &stores, &nodes);
        let devices = self.devices(&raw.device, &vdisks, raw.farm.accept_mac_alone);
        let RawHead { name, key_file, epoch, boot_limit, rebalance, rebalance_trigger, .. } =
            raw.farm;
        let trigger = rebalance_trigger.map_or(rebalance::TRIGGER_PERCENT, |v| {
            let (least, most) = rebalance::TRIGGER_RANGE;
            self.number("rebalance_trigger", &v, i64::from(least), i64::from(most))
        });
        self.name("the farm", &name, NAME_BYTES_MAX);
        let farm = Farm {
            key_file: Some(self.path("key_file", &key_file)),
            name: name.into_inner(),
            epoch: epoch.map_or(0, |v| self.number("epoch", &v, 0, i64::MAX)),
            boot_limit: boot_limit
                .map_or(BOOT_LIMIT_DEFAULT, |v| self.number("boot_limit", &v, 0, 1_000_000)),
            rebalance: rebalance::Settings {
                enabled: rebalance.unwrap_or(false),
                trigger_percent: trigger,
            },
            nodes,
            stores,
            vdisks,
            devices: Devices::Listed(devices),
        };
        if self.defects.is_empty() { Ok(farm) } else { Err(self.defects) }
    }

    fn stores(&mut self, raw: &[RawStore]) -> Vec<Store> {
        let mut seen = Seen::new();
        raw.iter()
            .map(|store| {
                self.unique("store", &store.name, NAME_BYTES_MAX, &mut seen);
                let path = self.path("path", &store.path);
                Store { name: store.name.get_ref().clone(), path }
            })
            .collect()
    }

    fn nodes(&mut self, raw: &[Spanned<RawNode>], stores: &[Store]) -> Vec<Node> {
        if raw.is_empty() {
            self.add(0..0, "the farm has no node; add a [[node]] with name and address".to_owned());
        }
        if let Some(extra) = raw.get(FARM_NODES_MAX) {
            self.add(
                extra.span(),
                format!("{} nodes; a farm has at most {FARM_NODES_MAX}, so remove some", raw.len()),
            );
        }
        let mut seen = Seen::new();
        let mut nodes: Vec<Node> = Vec::new();
        for spanned in raw {
            let node = self.node(spanned.get_ref(), stores, &mut seen);
            let clash = nodes.iter().find(|other| overlap(other, &node));
            if let Some(other) = clash {
                let text = format!(
                    "node {:?} shares ports of {} with node {:?}; give each its own login_port and io_ports",
                    node.name, node.address, other.name
                );
                self.add(spanned.get_ref().address.span(), text);
            }
            nodes.push(node);
        }
        nodes
    }

    fn node(&mut self, raw: &RawNode, stores: &[Store], seen: &mut Seen) -> Node {
        self.unique("node", &raw.name, NAME_BYTES_MAX, seen);
        let login_port = raw.login_port.as_ref().map_or(LOGIN_PORT, |v| self.port("login_port", v));
        let peer_port = raw.peer_port.as_ref().map_or(PEER_PORTS.0, |v| self.port("peer_port", v));
        let io_ports = raw.io_ports.as_ref().map_or(IO_PORTS, |v| self.ports(v));
        let place = raw.io_ports.as_ref().map_or(raw.name.span(), Spanned::span);
        for (key, port) in [("login_port", login_port), ("peer_port", peer_port)] {
            if (io_ports.0..=io_ports.1).contains(&port) {
                let text = format!(
                    "{key} {port} of node {:?} lies inside its io_ports {}-{}; choose ports that do not overlap",
                    raw.name.get_ref(),
                    io_ports.0,
                    io_ports.1
                );
                self.add(place.clone(), text);
            }
        }
        if login_port == peer_port {
            self.add(place, format!("login_port and peer_port are both {login_port}; choose two"));
        }
        Node {
            name: raw.name.get_ref().clone(),
            address: self.address(&raw.address),
            login_port,
            io_ports,
            peer_port,
            rating: raw.power.as_ref().map_or(100, |power| self.rating(power)),
            stores: self.node_stores(raw, stores),
            subnet: raw.subnet.as_ref().and_then(|subnet| self.subnet(subnet)),
        }
    }

    fn node_stores(&mut self, raw: &RawNode, stores: &[Store]) -> Vec<usize> {
        let Some(names) = &raw.stores else { return (0..stores.len()).collect() };
        names
            .iter()
            .filter_map(|name| {
                let known = stores.iter().map(|store| store.name.as_str());
                self.reference("store", "[[store]]", name, known)
            })
            .collect()
    }

    fn vdisks(&mut self, raw: &[RawVdisk], stores: &[Store], nodes: &[Node]) -> Vec<Vdisk> {
        if raw.is_empty() {
            let text = "the farm has no vDisk; add a [[vdisk]] with name, store and file";
            self.add(0..0, text.to_owned());
        }
        let mut seen = Seen::new();
        raw.iter().map(|vdisk| self.vdisk(vdisk, stores, nodes, &mut seen)).collect()
    }

    fn vdisk(
        &mut self,
        raw: &RawVdisk,
        stores: &[Store],
        nodes: &[Node],
        seen: &mut Seen,
    ) -> Vdisk {
        self.unique("vdisk", &raw.name, VDISK_NAME_BYTES_MAX, seen);
        let known = stores.iter().map(|store| store.name.as_str());
        let store = self.reference("store", "[[store]]", &raw.store, known);
        if let Some(store) = store
            && !nodes.is_empty()
            && !nodes.iter().any(|node| node.stores.contains(&store))
        {
            let text = format!(
                "no node has the store {:?} of vdisk {:?}; name it in a node's stores",
                raw.store.get_ref(),
                raw.name.get_ref()
            );
            self.add(raw.store.span(), text);
        }
        let file = Path::new(raw.file.get_ref());
        let inside = file.components().all(|part| matches!(part, Component::Normal(_)));
        if raw.file.get_ref().is_empty() || !inside {
            let text = format!(
                "file {:?} is not a path inside the store; write it relative to the store, without ..",
                raw.file.get_ref()
            );
            self.add(raw.file.span(), text);
        }
        let write_cache_bytes = raw.write_cache_bytes.as_ref();
        let pinned = raw.node.as_ref().and_then(|name| self.pinned(name, store, nodes));
        Vdisk {
            name: raw.name.get_ref().clone(),
            store: store.unwrap_or(0),
            path: store.map_or(PathBuf::new(), |store| stores[store].path.join(file)),
            mode: self.mode(raw.mode.as_ref()),
            write_cache: self.write_cache(raw.write_cache.as_ref()),
            write_cache_bytes: write_cache_bytes
                .map_or(0, |v| self.number("write_cache_bytes", v, 0, i64::MAX)),
            cache_pinned: raw.cache_pinned,
            pinned,
            affinity: self.affinity(raw.subnet_affinity.as_ref(), nodes),
            content_id: raw.content_id.as_ref().and_then(|id| self.content_id(id)),
        }
    }

    /// The one node that is to serve a vDisk; it must have the store.
    fn pinned(
        &mut self,
        raw: &Spanned<String>,
        store: Option<usize>,
        nodes: &[Node],
    ) -> Option<usize> {
        let known = nodes.iter().map(|node| node.name.as_str());
        let node = self.reference("node", "[[node]]", raw, known)?;
        if let Some(store) = store
            && !nodes[node].stores.contains(&store)
        {
            let text = format!(
                "node {:?} does not have the vDisk's store; add the store to its stores, or name another node",
                raw.get_ref()
            );
            self.add(raw.span(), text);
        }
        Some(node)
    }

    fn affinity(&mut self, raw: Option<&Spanned<String>>, nodes: &[Node]) -> Affinity {
        let Some(raw) = raw else { return Affinity::None };
        let Some(affinity) = Affinity::of_label(raw.get_ref()) else {
            let text = format!(
                "subnet_affinity {:?} is unknown; use \"none\", \"best_effort\" or \"fixed\"",
                raw.get_ref()
            );
            self.add(raw.span(), text);
            return Affinity::None;
        };
        if affinity != Affinity::None && nodes.iter().all(|node| node.subnet.is_none()) {
            let text = format!(
                "subnet_affinity is {:?}, but no node says where it is; write subnet = \"10.0.0.0/24\" into the nodes",
                raw.get_ref()
            );
            self.add(raw.span(), text);
        }
        affinity
    }

    fn content_id(&mut self, raw: &Spanned<String>) -> Option<ContentId> {
        let id = blake3::Hash::from_hex(raw.get_ref()).ok().map(|hash| ContentId(*hash.as_bytes()));
        if id.is_none() {
            let text = format!(
                "content_id {:?} is none: write the 64 hexadecimal digits that `diskstream-node vdisk hash` shows",
                raw.get_ref()
            );
            self.add(raw.span(), text);
        }
        id
    }

    fn subnet(&mut self, raw: &Spanned<String>) -> Option<Subnet> {
        match raw.get_ref().parse() {
            Ok(subnet) => Some(subnet),
            Err(error) => {
                let text = format!("subnet {:?} is none: {error}", raw.get_ref());
                self.add(raw.span(), text);
                None
            }
        }
    }

    fn mode(&mut self, raw: Option<&Spanned<String>>) -> ImageMode {
        let Some(raw) = raw else { return ImageMode::Standard };
        match raw.get_ref().as_str() {
            "standard" => {}
            "private" | "maintenance" => self.add(
                raw.span(),
                format!("mode {:?} is not served yet; use \"standard\"", raw.get_ref()),
            ),
            other => self.add(raw.span(), format!("mode {other:?} is unknown; use \"standard\"")),
        }
        ImageMode::Standard
    }

    fn write_cache(&mut self, raw: Option<&Spanned<String>>) -> WriteCacheType {
        let Some(raw) = raw else { return WriteCacheType::Ram };
        match raw.get_ref().as_str() {
            "none" => WriteCacheType::None,
            "ram" => WriteCacheType::Ram,
            "ram_overflow" => WriteCacheType::RamOverflow,
            other => {
                let text = format!(
                    "write_cache {other:?} is unknown; use \"none\", \"ram\" or \"ram_overflow\""
                );
                self.add(raw.span(), text);
                WriteCacheType::Ram
            }
        }
    }

    fn devices(
        &mut self,
        raw: &[RawDevice],
        vdisks: &[Vdisk],
        mac_alone: bool,
    ) -> HashMap<Mac, Device> {
        let mut names = Seen::new();
        let mut macs: HashMap<Mac, Range<usize>> = HashMap::new();
        let vdisk_numbers: HashMap<&str, usize> =
            vdisks.iter().enumerate().map(|(n, vdisk)| (vdisk.name.as_str(), n)).collect();
        let mut devices = HashMap::with_capacity(raw.len());
        for device in raw {
            self.unique("device", &device.name, NAME_BYTES_MAX, &mut names);
            let Some(mac) = self.mac(&device.mac) else { continue };
            if let Some(first) = macs.insert(mac, device.mac.span()) {
                let text = format!(
                    "device {:?} has the MAC {mac} of the device at line {}; give each its own, or remove one",
                    device.name.get_ref(),
                    self.line(first.start)
                );
                self.add(device.mac.span(), text);
            }
            let device = self.device(device, mac, &vdisk_numbers, mac_alone);
            devices.insert(mac, device);
        }
        devices
    }

    fn device(
        &mut self,
        raw: &RawDevice,
        mac: Mac,
        vdisks: &HashMap<&str, usize>,
        mac_alone: bool,
    ) -> Device {
        let vdisk = raw.vdisk.as_ref().and_then(|name| {
            let number = vdisks.get(name.get_ref().as_str()).copied();
            if number.is_none() {
                self.add(name.span(), missing("vdisk", "[[vdisk]]", name.get_ref()));
            }
            number
        });
        let key = raw.key.as_ref().and_then(|key| match key.get_ref().parse() {
            Ok(key) => Some(key),
            Err(error) => {
                // The text itself is a secret and is not shown.
                let text = format!(
                    "the key of device {:?} is none: {error}; make one with: openssl rand -hex 32",
                    raw.name.get_ref()
                );
                self.add(key.span(), text);
                None
            }
        });
        if raw.key.is_none() && !mac_alone {
            let text = format!(
                "device {:?} has no key; give it one (openssl rand -hex 32), or write accept_mac_alone = true under [farm]",
                raw.name.get_ref()
            );
            self.add(raw.name.span(), text);
        }
        Device {
            mac,
            name: raw.name.get_ref().clone(),
            vdisk,
            enabled: raw.enabled.unwrap_or(true),
            key,
            notice_port: raw
                .notice_port
                .as_ref()
                .map_or(DEVICE_NOTICE_PORT, |v| self.port("notice_port", v)),
        }
    }

    fn mac(&mut self, raw: &Spanned<String>) -> Option<Mac> {
        let problem = match raw.get_ref().parse::<Mac>() {
            Ok(mac) if mac.0[0] & 1 == 0 && mac != Mac::default() => return Some(mac),
            Ok(_) => {
                "it is a group address or zero; use the address of one network card".to_owned()
            }
            Err(error) => error.to_string(),
        };
        self.add(raw.span(), format!("{:?} is no device's MAC: {problem}", raw.get_ref()));
        None
    }

    fn address(&mut self, raw: &Spanned<String>) -> IpAddr {
        match raw.get_ref().parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => ip.to_canonical(),
            _ => {
                let text = format!(
                    "address {:?} is not one that devices can reach; write an IPv4 or IPv6 address such as 10.0.0.11",
                    raw.get_ref()
                );
                self.add(raw.span(), text);
                IpAddr::from([0, 0, 0, 0])
            }
        }
    }

    fn rating(&mut self, raw: &Spanned<f64>) -> u16 {
        let power = *raw.get_ref();
        if !(0.01..=100.0).contains(&power) {
            let text =
                format!("power {power} is out of range; use 0.01 to 100, where 1.0 is usual");
            self.add(raw.span(), text);
            return 100;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1 to 10,000 after the check above"
        )]
        let rating = (power * 100.0).round() as u16;
        rating
    }

    fn port(&mut self, key: &str, raw: &Spanned<i64>) -> u16 {
        self.number(key, raw, 1, i64::from(u16::MAX))
    }

    fn ports(&mut self, raw: &Spanned<String>) -> (u16, u16) {
        let range = raw.get_ref().split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        match range {
            Some((first, last)) if 0 < first && first <= last => (first, last),
            _ => {
                let text = format!(
                    "io_ports {:?} is no range of ports; write \"FIRST-LAST\" between 1 and 65535, one port for each shard, such as \"6911-6930\"",
                    raw.get_ref()
                );
                self.add(raw.span(), text);
                IO_PORTS
            }
        }
    }

    /// A number in a range that the type holds.
    fn number<T: TryFrom<i64> + Default>(
        &mut self,
        key: &str,
        raw: &Spanned<i64>,
        least: i64,
        most: i64,
    ) -> T {
        let value = *raw.get_ref();
        let number = T::try_from(value).ok().filter(|_| (least..=most).contains(&value));
        if number.is_none() {
            let text = format!("{key} {value} is out of range; use {least} to {most}");
            self.add(raw.span(), text);
        }
        number.unwrap_or_default()
    }

    fn path(&mut self, key: &str, raw: &Spanned<String>) -> PathBuf {
        if raw.get_ref().is_empty() {
            self.add(raw.span(), format!("{key} is empty; write a path"));
        }
        self.base.join(raw.get_ref())
    }

    fn name(&mut self, what: &str, name: &Spanned<String>, bytes_max: usize) {
        let text = name.get_ref();
        if text.is_empty() || text.len() > bytes_max || text.chars().any(char::is_control) {
            let text = format!(
                "{text:?} is no name for {what}; use 1 to {bytes_max} bytes without control characters"
            );
            self.add(name.span(), text);
        }
    }

    fn unique(&mut self, what: &str, name: &Spanned<String>, bytes_max: usize, seen: &mut Seen) {
        self.name(&format!("a {what}"), name, bytes_max);
        if let Some(first) = seen.insert(name.get_ref().clone(), name.span()) {
            let text = format!(
                "a second {what} is named {:?} (the first is at line {}); rename or remove one",
                name.get_ref(),
                self.line(first.start)
            );
            self.add(name.span(), text);
        }
    }

    fn reference<'n>(
        &mut self,
        what: &str,
        table: &str,
        name: &Spanned<String>,
        mut known: impl Iterator<Item = &'n str>,
    ) -> Option<usize> {
        let found = known.position(|known| known == name.get_ref());
        if found.is_none() {
            self.add(name.span(), missing(what, table, name.get_ref()));
        }
        found
    }

    fn add(&mut self, span: Range<usize>, text: String) {
        let defect = self.defect(&span, text);
        self.defects.push(defect);
    }

    fn defect(&self, span: &Range<usize>, text: String) -> Defect {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[line_start..].chars().count() + 1;
        Defect { line: self.line(span.start), column, text }
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.bytes().filter(|&byte| byte == b'\n').count() + 1
    }
}

fn missing(what: &str, table: &str, name: &str) -> String {
    format!("there is no {what} {name:?}; add it as {table}, or correct the name")
}

/// Whether two nodes would bind a common port.
fn overlap(a: &Node, b: &Node) -> bool {
    let ranges = |n: &Node| [(n.login_port, n.login_port), (n.peer_port, n.peer_port), n.io_ports];
    let meet = |x: (u16, u16), y: (u16, u16)| x.0 <= y.1 && y.0 <= x.1;
    a.address == b.address && ranges(a).iter().any(|&x| ranges(b).iter().any(|&y| meet(x, y)))
}
