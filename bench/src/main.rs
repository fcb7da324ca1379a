//! `diskstream-bench`: load for nodes, and figures that can be trusted.
//!
//! `read` drives a fleet of devices, each the real session machine on a socket of its own, against a node that it starts
//! (node on core 0, fleet on core 1) or against running ones. `storm` lets a fleet boot as a recorded machine did. `failover`
//! starts a farm and makes a node go away under the fleet's reads. `cores` compares one shard with two. `hit-rate` and
//! `cache-cost` look at the node's cache alone. `floor` compares the node with what the machine can do at best. `peers` compares a node with other servers of disk images. `relay` loses and delays datagrams
//! on purpose.
#![deny(unsafe_code)]

mod book;
mod cache_cost;
mod cores;
mod failover;
mod flags;
mod fleet;
mod floor;
mod forge;
mod hit_rate;
mod idle;
mod image;
mod net;
mod node_process;
mod open_loop;
mod peers;
mod plot;
mod random;
mod read;
mod relay;
mod report;
mod spread;
mod steal;
mod stop;
mod storm;
#[expect(unsafe_code, reason = "system calls that std does not offer; each block says why")]
mod sys;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load for Diskstream nodes.
#[derive(Debug, Parser)]
#[command(name = "diskstream-bench", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Devices read a vDisk as fast as it comes; rates, latencies and the node's processor time.
    Read(read::ReadCommand),
    /// A fleet boots at once: what the disk reads for it, and how long it takes.
    Storm(storm::StormArgs),
    /// Sessions that do nothing but live: what they cost their node.
    Idle(idle::IdleArgs),
    /// A node goes away while devices read: what each device notices of it.
    Failover(failover::FailoverArgs),
    /// All cases of `failover`, several times each, against what they must reach.
    FailoverTable(failover::table::TableArgs),
    /// What a hit of the node's cache costs, alone and while another core hits too.
    CacheCost(cache_cost::CacheCostArgs),
    /// What a read costs a node with two shards, beside the same with one.
    Cores(cores::CoresArgs),
    /// How often the node's cache has what is asked, beside other policies on the same lookups.
    HitRate(hit_rate::HitRateArgs),
    /// What this machine can do at best, now, and how near to it the node is.
    Floor(floor::FloorArgs),
    /// Be the bare responder of a run of `floor`; started by it.
    #[command(hide = true)]
    FloorResponder(floor::responder::ResponderArgs),
    /// Our node beside other servers of disk images, on the same image and under the same loads.
    Peers(peers::PeersArgs),
    /// Stand between devices and a node, and lose or delay what passes.
    Relay(relay::RelayArgs),
    /// Join the namespaces of a run of `failover`; started by it.
    #[command(hide = true)]
    LanRelay(net::relay::LanRelayArgs),
    /// Be the stranger of a run of `failover --forged`; started by it.
    #[command(hide = true)]
    LanForge,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Read(args) => read::run(&args),
        Command::Storm(args) => storm::run(&args),
        Command::Idle(args) => idle::run(&args),
        Command::Failover(args) => failover::run(&args),
        Command::FailoverTable(args) => failover::table::run(&args),
        Command::CacheCost(args) => cache_cost::run(&args),
        Command::Cores(args) => cores::run(&args),
        Command::HitRate(args) => hit_rate::run(&args),
        Command::Floor(args) => floor::run(&args),
        Command::FloorResponder(args) => floor::responder::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Relay(args) => relay::run(args),
        Command::LanRelay(args) => net::relay::run(&args),
        Command::LanForge => forge::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "diskstream-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
