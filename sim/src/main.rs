//! `diskstream-sim`: runs worlds, and reports the seeds of those that fail.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::Parser;
use diskstream_sim::options::Options;
use diskstream_sim::world::{self, Planted};

/// Simulates nodes, devices, links and disks from a seed.
#[derive(Debug, Parser)]
#[command(name = "diskstream-sim", version)]
struct Cli {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed; seeds follow each other.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run this one seed, twice, show its world, and check that both runs are alike.
    #[arg(long, conflicts_with_all = ["seeds", "first", "mutations"])]
    seed: Option<u64>,
    /// Plant each of the five bugs and find a seed that catches it.
    #[arg(long)]
    mutations: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let passed = match cli.seed {
        Some(seed) => one(seed),
        None if cli.mutations => mutations(cli.first, cli.seeds),
        None => many(cli.first, cli.seeds),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64) -> bool {
    println!("seed {seed}: {:#?}", Options::draw(seed));
    let (first, second) = (world::run(seed, None), world::run(seed, None));
    println!("{first:?}");
    if first != second {
        eprintln!(
            "seed {seed}: two runs differ: {second:?}; something reads a clock, an address or a hash order"
        );
    }
    first == second
}

/// Runs a seed; its failure as text.
fn attempt(seed: u64, planted: Option<Planted>) -> Result<world::Outcome, String> {
    std::panic::catch_unwind(|| world::run(seed, planted)).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned())
    })
}

fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    output.ok().filter(|o| o.status.success()).map_or_else(
        || "unknown".to_owned(),
        |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    )
}

/// Calls `job` for each seed on as many threads as there are cores.
fn for_seeds(first: u64, count: u64, job: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    job(seed);
                }
            });
        }
    });
}

fn many(first: u64, count: u64) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let failures = Mutex::new(Vec::new());
    let (reads, events, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    for_seeds(first, count, |seed| {
        match attempt(seed, None) {
            Ok(outcome) => {
                reads.fetch_add(outcome.reads as u64, Relaxed);
                events.fetch_add(outcome.events, Relaxed);
            }
            Err(words) => {
                eprintln!("seed {seed} at commit {}: {words}", commit());
                failures.lock().expect("no holder panics").push(seed);
            }
        }
        let done = done.fetch_add(1, Relaxed) + 1;
        if done % 50 == 0 {
            eprintln!("{done} of {count} seeds");
        }
    });
    let mut failures = failures.into_inner().expect("no holder panicked");
    failures.sort_unstable();
    println!(
        "{count} seeds from {first}: {} reads, {} events, {} failed {failures:?}",
        reads.into_inner(),
        events.into_inner(),
        failures.len()
    );
    for seed in failures.iter().take(3) {
        println!(
            "to see it again: cargo run -p diskstream-sim -- --seed {seed}   (commit {})",
            commit()
        );
    }
    failures.is_empty()
}

fn mutations(first: u64, count: u64) -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    let mut all = true;
    for planted in Planted::ALL {
        // Nearly every seed catches one by some assert of the product; what counts is that a judge does.
        let mut caught = None;
        for seed in first..first + count {
            let Err(words) = attempt(seed, Some(planted)) else { continue };
            let judged = words.starts_with("judge");
            if judged || caught.is_none() {
                caught = Some((seed, words));
            }
            if judged {
                break;
            }
        }
        match caught {
            Some((seed, words)) => {
                println!(
                    "{planted:?}: caught by seed {seed}: {}",
                    words.lines().next().unwrap_or_default()
                );
            }
            None => {
                println!("{planted:?}: not caught by {count} seeds from {first}");
                all = false;
            }
        }
    }
    all
}
