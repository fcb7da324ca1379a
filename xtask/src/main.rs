//! Chores of this repository: `cargo xtask test` runs everything that proves it, `cargo xtask tidy` the house rules alone.

mod clock;
mod e2e;
mod image;
mod install;
mod ports;
mod proc;
mod protocol;
mod runner;
mod scratch;
mod steps;
mod test_output;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use runner::Ctx;

/// Chores of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Run everything that proves the repository; installs what it needs when it is root on Debian.
    Test(TestArgs),
    /// Check the house rules that no lint knows.
    Tidy,
    /// Make the tables of docs/protocol.md and the Wireshark dissector anew from the code.
    Protocol {
        /// Change nothing; fail when they differ.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Run these steps and what they need; `e2e` stands for every `e2e-...` step.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these steps out.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
    /// Name the steps, and do nothing.
    #[arg(long)]
    list: bool,
    /// Seeds that the simulator runs.
    #[arg(long, default_value_t = 1000)]
    sim_seeds: u32,
    /// Take the release programs as they are built already.
    #[arg(long)]
    no_build: bool,
    /// Let qemu-nbd be the export: tells whether an end-to-end failure is ours or lies in the tools.
    #[arg(long)]
    stand_in: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Test(args) => test(&args),
        Chore::Tidy => tidy::run(&root()),
        Chore::Protocol { check } => protocol::run(check).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn test(args: &TestArgs) -> anyhow::Result<bool> {
    if args.list {
        for step in steps::ALL {
            println!("{:<16} {}", step.name, step.what);
        }
        return Ok(true);
    }
    let chosen = runner::choose(steps::ALL, &args.only, &args.skip)?;
    let ctx = Ctx {
        root: root(),
        target: target()?,
        sim_seeds: args.sim_seeds,
        no_build: args.no_build,
        stand_in: args.stand_in,
        can_install: install::possible(),
        tests_built: std::cell::Cell::new(false),
    };
    runner::run(&ctx, &chosen)
}

/// The repository: this crate's folder is in it.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo builds: this program lies in its `debug` folder.
fn target() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program")?;
    let target =
        program.parent().and_then(Path::parent).context("this program lies in no target folder")?;
    Ok(target.to_path_buf())
}
