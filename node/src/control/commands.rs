//! `diskstream-node drain`, `resume`, `rebalance`, `status`, `top`: ask a running node, show its answer, end with a telling code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use super::text::{self, Rates};
use super::{Answer, Client, Figures, Request};
use crate::cli::{DrainArgs, NodeAt, RebalanceArgs, StatusArgs, TopArgs};

/// Ends a command whose work was only partly done: devices were left, bytes were bad.
pub const PARTLY: u8 = 2;
/// Distance of two screens of `top`.
const SCREEN_EVERY: Duration = Duration::from_secs(1);

/// Moves a node's devices away, and shows how it goes.
///
/// # Errors
/// When the node cannot be asked, or refuses.
pub fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.node.path())?;
    client.send(&Request::Drain { stay: args.stay, seconds: args.seconds })?;
    let bar = Bar::new();
    loop {
        match client.next()? {
            Answer::Draining { left, of, seconds, patience } => {
                bar.show(left, of, seconds, patience);
            }
            Answer::Drained { left, of, seconds, stays } => {
                bar.clear();
                let after = if stays { "the node is in maintenance" } else { "the node ends" };
                if left == 0 {
                    say(&format!("all {of} sessions have moved, in {seconds:.1} s; {after}"))?;
                    return Ok(ExitCode::SUCCESS);
                }
                say(&format!(
                    "{left} of {of} sessions had not moved after {seconds:.1} s; {after}"
                ))?;
                return Ok(ExitCode::from(PARTLY));
            }
            other => bail!("the node answered a drain with {other:?}"),
        }
    }
}

/// Ends a node's maintenance.
///
/// # Errors
/// When the node cannot be asked, or refuses.
pub fn resume(at: &NodeAt) -> anyhow::Result<ExitCode> {
    match Client::connect(&at.path())?.ask(&Request::Resume)? {
        Answer::Resumed => say("the node takes devices")?,
        other => bail!("the node answered a resume with {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Evens out sessions.
///
/// # Errors
/// When the node cannot be asked, or refuses.
pub fn rebalance(args: &RebalanceArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Rebalance { vdisk: args.vdisk.clone(), dry_run: args.dry_run };
    match Client::connect(&args.node.path())?.ask(&request)? {
        Answer::Rebalanced { dry_run, vdisks } => {
            say(text::rebalanced(dry_run, &vdisks).trim_end())?;
        }
        other => bail!("the node answered a rebalance with {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the farm as a node sees it.
///
/// # Errors
/// When the node cannot be asked.
pub fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    match Client::connect(&args.node.path())?.ask(&Request::Status)? {
        Answer::Status(status) if args.json => say(&serde_json::to_string(&status)?)?,
        Answer::Status(status) => say(text::status(&status).trim_end())?,
        other => bail!("the node answered a question for its status with {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows a node at work, once a second.
///
/// # Errors
/// When the node cannot be asked, or ends meanwhile.
pub fn top(args: &TopArgs) -> anyhow::Result<ExitCode> {
    let mut client = Client::connect(&args.node.path())?;
    let clears = !args.once && !args.json && std::io::stdout().is_terminal();
    let mut before = figures(&mut client)?;
    loop {
        std::thread::sleep(SCREEN_EVERY);
        let after = figures(&mut client)?;
        let rates = Rates::between(&before, &after);
        before = after;
        if args.json {
            say(&serde_json::to_string(&rates)?)?;
        } else {
            // Home, and clear what is below.
            let home = if clears { "\x1b[H\x1b[2J" } else { "" };
            say(&format!("{home}{}", rates.screen()))?;
        }
        if args.once {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn figures(client: &mut Client) -> anyhow::Result<Figures> {
    match client.ask(&Request::Figures)? {
        Answer::Figures(figures) => Ok(figures),
        other => bail!("the node answered a question for its figures with {other:?}"),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// A drain's progress: a bar for people, a line a second for logs.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Bar {
        Bar(std::io::stderr().is_terminal().then(|| {
            let style = "moving {wide_bar} {pos}/{len} {msg}";
            let style = ProgressStyle::with_template(style).expect("a valid template");
            ProgressBar::new(0).with_style(style)
        }))
    }

    fn show(&self, left: u32, of: u32, seconds: f64, patience: f64) {
        match &self.0 {
            Some(bar) => {
                bar.set_length(u64::from(of));
                bar.set_position(u64::from(of.saturating_sub(left)));
                bar.set_message(format!("{patience:.0} s left"));
            }
            None => {
                let line =
                    format!("{seconds:.0} s: {left} of {of} sessions left, {patience:.0} s to go");
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
