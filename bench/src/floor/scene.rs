//! Where datagrams go: interfaces in network namespaces of this run's own, gone with it however it ends.

use std::net::SocketAddr;

use anyhow::Context;
use serde::Serialize;

use crate::net::{Namespace, lan_address};

/// A way from a sender to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Loopback.
    Loopback,
    /// Two interfaces that are joined, each in a namespace of its own.
    Veth,
    /// An interface that drops everything: no receiver's cost is charged to the sender, as a sending card charges none.
    Sink,
}

/// A way that is set up.
#[derive(Debug)]
pub struct Scene {
    /// Where the sender is.
    pub near: Namespace,
    /// Where the receiver is, if elsewhere.
    far: Option<Namespace>,
    /// The sender's address.
    pub from: SocketAddr,
    /// The receiver's; nobody's where there is none.
    pub to: SocketAddr,
}

impl Scene {
    /// Sets up a way; addresses have port 0.
    ///
    /// # Errors
    /// When namespaces or interfaces cannot be made.
    pub fn new(way: Way, mtu: u16) -> anyhow::Result<Scene> {
        let near = Namespace::new()?;
        let at = |number| SocketAddr::new(lan_address(number), 0);
        let (from, to) = (at(0), at(1));
        let address = |number, link| {
            format!("address add {}/24 dev {link}\nlink set {link} up\n", lan_address(number))
        };
        match way {
            Way::Loopback => {
                near.ip(&format!("link set lo mtu {mtu}\n"))?;
                let here = SocketAddr::from(([127, 0, 0, 1], 0));
                Ok(Scene { near, far: None, from: here, to: here })
            }
            Way::Veth => {
                let far = Namespace::new()?;
                near.ip(&format!(
                    "link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n{}",
                    far.path(),
                    address(0, "eth0")
                ))?;
                far.ip(&address(1, "eth0"))?;
                Ok(Scene { near, far: Some(far), from, to })
            }
            Way::Sink => {
                // It looks like a card with segmentation offload that takes all that is sent; a dummy would do as well, where
                // the kernel has one.
                near.ip(&format!(
                    "link add sink0 mtu {mtu} type ifb\n{}neigh replace {} lladdr 02:00:00:00:00:02 dev sink0 nud permanent\n",
                    address(0, "sink0"),
                    lan_address(1)
                ))
                .context("making an interface that drops what is sent (kernel module ifb)")?;
                Ok(Scene { near, far: None, from, to })
            }
        }
    }

    /// Where the receiver is.
    #[must_use]
    pub fn far(&self) -> &Namespace {
        self.far.as_ref().unwrap_or(&self.near)
    }
}
