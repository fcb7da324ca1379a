//! `diskstream-sim`: runs worlds and stories, and reports the seeds of those that fail.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::Parser;
use diskstream_ring::clock;
use diskstream_sim::figures::{Figures, ms, percentile};
use diskstream_sim::planted::Planted;
use diskstream_sim::runner::{Failures, attempt, commit, cores, for_seeds, running, set_running};
use diskstream_sim::scenarios::{self, Cast, Scenario};
use diskstream_sim::swarm::{self, Drawn};
use diskstream_sim::world::Outcome;
use diskstream_wire::Nanos;

/// Simulates nodes, devices, links and disks from a seed.
#[derive(Debug, Parser)]
#[command(name = "diskstream-sim", version)]
struct Cli {
    /// How many seeds to run. Default: 200 drawn worlds; 1 of each scenario.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; seeds follow each other.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run drawn worlds for so long, instead of a number of them.
    #[arg(long, value_name = "S", conflicts_with = "seeds")]
    seconds: Option<u64>,
    /// Run drawn worlds for an hour, from a seed that is another one every time unless --first is given.
    #[arg(long, conflicts_with_all = ["seeds", "scenario", "mutations"])]
    nightly: bool,
    /// Run this one seed, of drawn worlds or of --scenario, twice, show it, and check that both runs are alike.
    #[arg(long, conflicts_with_all = ["seeds", "first", "mutations", "seconds"])]
    seed: Option<u64>,
    /// Run this scenario; `all`: every one.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Devices in the scenario, instead of its own number.
    #[arg(long, requires = "scenario")]
    devices: Option<usize>,
    /// Show what scenarios there are.
    #[arg(long)]
    list: bool,
    /// Plant each of the bugs and find a world that catches it.
    #[arg(long)]
    mutations: bool,
    /// Run on so many threads. Default: as many as there are cores.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Figures of scenarios as JSON.
    #[arg(long, requires = "scenario")]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let passed = if cli.list {
        list();
        true
    } else if let Some(name) = &cli.scenario {
        stories(name, &cli)
    } else if let Some(seed) = cli.seed {
        one(seed)
    } else if cli.mutations {
        mutations(cli.first, cli.seeds.unwrap_or(200))
    } else {
        many(&cli)
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The command that runs a seed again as it was run now.
fn command(scenario: Option<&str>, seed: u64, devices: Option<usize>) -> String {
    let mut command = format!("cargo run -p diskstream-sim -- --seed {seed}");
    if let Some(name) = scenario {
        command.push_str(&format!(" --scenario {name}"));
    }
    if let Some(devices) = devices {
        command.push_str(&format!(" --devices {devices}"));
    }
    command
}

/// Judges speak by panicking, and their words come with the report. In a build whose panics end the process (`--release`) the
/// report is now or never.
fn hush(devices: Option<usize>) {
    std::panic::set_hook(Box::new(move |panic| {
        if cfg!(panic = "abort") {
            let words = panic.payload_as_str().unwrap_or("a panic without words");
            let (scenario, seed) = running();
            eprintln!("{} seed {seed}: {words}", scenario.unwrap_or("drawn world,"));
            let again = command(scenario, seed, devices);
            eprintln!("    to see it again: {again}   (commit {})", commit());
            eprintln!("    a release build ends here; cargo run --profile sim goes on");
        }
    }));
}

fn list() {
    for Scenario { name, story, must, .. } in scenarios::all() {
        println!("{name}\n    {story}\n    must: {must}");
    }
}

fn one(seed: u64) -> bool {
    println!("seed {seed}: {:#?}", Drawn::new(seed));
    let (first, second) = (swarm::run(seed, None), swarm::run(seed, None));
    println!("{first:?}");
    if first != second {
        eprintln!("seed {seed}: {second:?}: {UNLIKE}");
    }
    first == second
}

fn first_line(words: &str) -> &str {
    words.lines().next().unwrap_or_default()
}

/// For how long a nightly run goes on.
const NIGHT: u64 = 3_600;

fn many(cli: &Cli) -> bool {
    hush(None);
    let seconds = cli.seconds.or(cli.nightly.then_some(NIGHT));
    let end = seconds.map(|seconds| clock::now() + Nanos::from_secs(seconds));
    let count = cli.seeds.unwrap_or(200);
    let first = if cli.nightly && cli.first == 1 { clock::unix_seconds() << 16 } else { cli.first };
    let failures = Failures::default();
    let (reads, events, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let settled = Mutex::new(Vec::new());
    let goes_on = |seed| end.map_or(seed < first + count, |end| clock::now() < end);
    let ran = for_seeds(cli.threads.unwrap_or_else(cores), first, goes_on, |seed| {
        set_running(None, seed);
        match attempt(|| swarm::run(seed, None)) {
            Ok(outcome) => {
                reads.fetch_add(outcome.reads as u64, Relaxed);
                events.fetch_add(outcome.events, Relaxed);
                settled.lock().expect("no holder panics").push((outcome, seed));
            }
            Err(words) => {
                eprintln!("seed {seed} at commit {}: {words}", commit());
                failures.add(seed, words);
            }
        }
        let done = done.fetch_add(1, Relaxed) + 1;
        if done % 100 == 0 {
            eprintln!("{done} seeds");
        }
    });
    let failures = failures.into_sorted();
    println!(
        "{ran} seeds from {first}: {} reads, {} events, {} failed",
        reads.into_inner(),
        events.into_inner(),
        failures.len()
    );
    let settled = settled.into_inner().expect("no holder panicked");
    print_settled("the slowest read", &settled, |outcome| Nanos(outcome.settled));
    print_settled("the last boot", &settled, |outcome| Nanos(outcome.booted));
    for (seed, words) in failures.iter().take(20) {
        println!("seed {seed}: {}", first_line(words));
        println!("    to see it again: {}   (commit {})", command(None, *seed, None), commit());
    }
    failures.is_empty()
}

/// How long the slowest read of each world took once everything was well again.
fn print_settled(what: &str, worlds: &[(Outcome, u64)], of: fn(&Outcome) -> Nanos) {
    let mut settled: Vec<(Nanos, u64)> =
        worlds.iter().map(|(outcome, seed)| (of(outcome), *seed)).collect();
    settled.sort_unstable();
    let times: Vec<Nanos> = settled.iter().map(|(time, _)| *time).collect();
    println!(
        "{what} after the healing, in ms: median {:.0}, 90 % {:.0}, 99 % {:.0}",
        ms(percentile(&times, 50)),
        ms(percentile(&times, 90)),
        ms(percentile(&times, 99)),
    );
    for (time, seed) in settled.iter().rev().take(5) {
        println!("    {:.0} ms: seed {seed}", ms(*time));
    }
}

/// Figures of one story over its seeds: the worst of each.
struct Played {
    name: &'static str,
    seeds: u64,
    worst: Figures,
    failures: Vec<(u64, String)>,
}

fn stories(name: &str, cli: &Cli) -> bool {
    hush(cli.devices);
    let chosen: Vec<&Scenario> =
        scenarios::all().filter(|s| name == "all" || s.name == name).collect();
    if chosen.is_empty() {
        eprintln!("there is no scenario {name:?}; --list shows them");
        return false;
    }
    let played: Vec<Played> = chosen.iter().map(|scenario| play(scenario, cli)).collect();
    if cli.json {
        let rows: Vec<serde_json::Value> = played.iter().map(Played::json).collect();
        println!("{}", serde_json::json!({ "commit": commit(), "scenarios": rows }));
    } else {
        print_table(&played);
    }
    for p in &played {
        for (seed, words) in p.failures.iter().take(3) {
            eprintln!("{} seed {seed}: {words}", p.name);
            eprintln!(
                "    to see it again: {}   (commit {})",
                command(Some(p.name), *seed, cli.devices),
                commit()
            );
        }
    }
    played.iter().all(|p| p.failures.is_empty())
}

fn play(scenario: &'static Scenario, cli: &Cli) -> Played {
    let first = cli.seed.unwrap_or(cli.first);
    let seeds = if cli.seed.is_some() { 1 } else { cli.seeds.unwrap_or(1) };
    let failures = Failures::default();
    let worst = Mutex::new(Figures::default());
    let goes_on = |seed| seed < first + seeds;
    let once = |seed| {
        set_running(Some(scenario.name), seed);
        let cast = Cast { seed, devices: cli.devices, planted: None };
        attempt(|| (scenario.play)(cast))
    };
    for_seeds(cli.threads.unwrap_or_else(cores), first, goes_on, |seed| match once(seed) {
        Ok(figures) => {
            let mut worst = worst.lock().expect("no holder panics");
            *worst = worst.worse(&figures);
            if cli.seed.is_some() && once(seed) != Ok(figures) {
                failures.add(seed, UNLIKE.to_owned());
            }
        }
        Err(words) => failures.add(seed, words),
    });
    let worst = worst.into_inner().expect("no holder panicked");
    Played { name: scenario.name, seeds, worst, failures: failures.into_sorted() }
}

/// What is wrong with a world that is another one the second time.
const UNLIKE: &str = "two runs differ; something reads a clock, an address or a hash order";

fn print_table(played: &[Played]) {
    println!(
        "{:<26} {:>5} {:>7} {:>8} {:>8} {:>8} {:>6} {:>8} {:>7} {:>6} {:>6} {:>6}",
        "scenario",
        "seeds",
        "devices",
        "max ms",
        "p99 ms",
        "p50 ms",
        "moves",
        "unneeded",
        "hedged",
        "burst",
        "logins",
        "failed"
    );
    for p in played {
        let f = &p.worst;
        println!(
            "{:<26} {:>5} {:>7} {:>8.1} {:>8.1} {:>8.1} {:>6} {:>8} {:>6.2}% {:>6.1} {:>6} {:>6}",
            p.name,
            p.seeds,
            f.devices,
            f.stall_ms_max,
            f.stall_ms_p99,
            f.stall_ms_p50,
            f.moves,
            f.unneeded_moves,
            f.hedged_percent(),
            f.datagrams_per_read_peak,
            f.logins_per_s_peak,
            p.failures.len()
        );
    }
}

impl Played {
    fn json(&self) -> serde_json::Value {
        let seeds: Vec<u64> = self.failures.iter().map(|(seed, _)| *seed).collect();
        serde_json::json!({
            "scenario": self.name,
            "seeds": self.seeds,
            "failed_seeds": seeds,
            "worst": self.worst,
        })
    }
}

fn mutations(first: u64, count: u64) -> bool {
    if cfg!(panic = "abort") {
        eprintln!(
            "a planted mistake ends a release build: use the development profile, or --profile sim"
        );
        return false;
    }
    std::panic::set_hook(Box::new(|_| {}));
    let mut all = true;
    for planted in Planted::ALL {
        match planted.caught(first, count) {
            Some((by, words)) => {
                println!("{planted:?}: caught by {by}: {}", first_line(&words));
            }
            None => {
                println!("{planted:?}: not caught by {count} seeds from {first}");
                all = false;
            }
        }
    }
    all
}
