//! Bugs that are planted on purpose; each must be caught by some world.

use diskstream_device::session::mutations::Mutation as DeviceMutation;
use diskstream_node::shard::Mutation as NodeMutation;

use crate::runner::attempt;
use crate::scenarios::{self, Cast};
use crate::swarm;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// One in the device.
    Device(DeviceMutation),
    /// One in the node.
    Node(NodeMutation),
}

impl Planted {
    /// All that must be caught.
    pub const ALL: [Planted; 12] = [
        Planted::Device(DeviceMutation::DropSumCheck),
        Planted::Device(DeviceMutation::AcceptForeignTag),
        Planted::Device(DeviceMutation::MoveAfterTwoProbes),
        Planted::Device(DeviceMutation::HedgeWithoutTokens),
        Planted::Device(DeviceMutation::UseOtherContent),
        Planted::Node(NodeMutation::UnpinTwice),
        Planted::Node(NodeMutation::AcceptForeignTag),
        Planted::Node(NodeMutation::AnswerBeforeCookie),
        Planted::Node(NodeMutation::ForgetWaiter),
        Planted::Node(NodeMutation::ForgetPromoted),
        Planted::Node(NodeMutation::NameLeaving),
        Planted::Node(NodeMutation::RebalanceAtOnce),
    ];

    /// The scenario that shows it, where drawn worlds are not the place to look.
    fn scenario(self) -> Option<&'static str> {
        match self {
            Planted::Device(DeviceMutation::AcceptForeignTag) => Some("forgeries"),
            Planted::Device(DeviceMutation::MoveAfterTwoProbes) => Some("lossy_60s"),
            Planted::Device(DeviceMutation::HedgeWithoutTokens) => Some("very_lossy"),
            Planted::Device(DeviceMutation::UseOtherContent) => Some("only_a_stranger"),
            Planted::Node(NodeMutation::ForgetPromoted) => Some("kill"),
            Planted::Node(NodeMutation::NameLeaving) => Some("two_leave"),
            Planted::Node(NodeMutation::RebalanceAtOnce) => Some("rebalance"),
            _ => None,
        }
    }

    /// Looks for a world that catches it: its name, and the words of the judge. An assert of the product counts only when no
    /// judge spoke in any of them.
    #[must_use]
    pub fn caught(self, first: u64, seeds: u64) -> Option<(String, String)> {
        let story = self.scenario().and_then(scenarios::find);
        let mut caught = None;
        for seed in first..first + seeds {
            let (name, result) = match story {
                Some(story) => {
                    let cast = Cast { seed, devices: None, planted: Some(self) };
                    (story.name, attempt(|| (story.play)(cast)).map(|_| ()))
                }
                None => ("a drawn world", attempt(|| swarm::run(seed, Some(self))).map(|_| ())),
            };
            let Err(words) = result else { continue };
            let judged = words.contains("judge of ");
            if judged || caught.is_none() {
                caught = Some((format!("{name}, seed {seed}"), words));
            }
            if judged {
                break;
            }
        }
        caught
    }

    /// What to plant in devices.
    pub(crate) fn in_device(planted: Option<Planted>) -> DeviceMutation {
        match planted {
            Some(Planted::Device(mutation)) => mutation,
            _ => DeviceMutation::None,
        }
    }

    /// What to plant in nodes.
    pub(crate) fn in_node(planted: Option<Planted>) -> Option<NodeMutation> {
        match planted {
            Some(Planted::Node(mutation)) => Some(mutation),
            _ => None,
        }
    }
}
