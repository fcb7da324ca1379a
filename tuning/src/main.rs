//! `diskstream-tune`: see the library's header.
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use diskstream_tune::{Facts, Goal, inspect, parse_bytes, plan, render};
use std::path::PathBuf;

/// Inspects a host and says what to tune for streaming. Changes nothing.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print what this host is like: cores, memory, limits, interfaces, disks.
    Inspect(Source),
    /// Print what to change, why, what it is worth, how, and how to undo it.
    Plan {
        #[command(flatten)]
        source: Source,
        /// Size of the block cache that the node will run with, e.g. 512M or 64G.
        #[arg(long, default_value = "512M", value_parser = parse_bytes)]
        cache: u64,
        /// Cores that the node will run on; all of the host's when not given.
        #[arg(long)]
        cores: Option<u32>,
    },
}

#[derive(Args)]
struct Source {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Read /proc and /sys below this directory.
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    /// Take the facts from a file that `inspect --json` wrote, perhaps on another host.
    #[arg(long, value_name = "FILE", conflicts_with = "root")]
    facts: Option<PathBuf>,
}

impl Source {
    fn facts(&self) -> anyhow::Result<Facts> {
        let Some(path) = &self.facts else { return Ok(inspect(&self.root)) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("facts cannot be read from {path:?}"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{path:?} is not what `inspect --json` writes"))
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Inspect(source) => {
            let facts = source.facts()?;
            if source.json {
                println!("{}", serde_json::to_string_pretty(&facts)?);
            } else {
                print!("{}", render::facts(&facts));
            }
        }
        Command::Plan { source, cache, cores } => {
            let plan = plan(&source.facts()?, &Goal { cache_bytes: cache, cores });
            if source.json {
                println!("{}", serde_json::to_string_pretty(&plan)?);
            } else {
                print!("{}", render::plan(&plan));
            }
        }
    }
    Ok(())
}
