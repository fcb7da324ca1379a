//! `diskstream-node`: parse, check, run.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use diskstream_node::cli::{Cli, Command, VdiskCommand};
use diskstream_node::{control, quickstart, serve, vdisk_command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What a command has to say stands on standard output; its log is for when something is wrong.
    let works = matches!(cli.command, Command::Serve(_) | Command::Vdisk(_));
    start_log(if works { "info" } else { "error" });
    match run(&cli.command) {
        Ok(code) => code,
        Err(error) => {
            // One line: the thing, then its causes; `{:#}` joins them with colons.
            let _ = writeln!(std::io::stderr(), "diskstream-node: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Serve(args) => {
            args.check().map_err(anyhow::Error::msg).and_then(|()| serve::run(args)).map(done)
        }
        Command::Quickstart(args) => quickstart::run(args).map(done),
        Command::Vdisk(VdiskCommand::Hash { image, rehash }) => {
            vdisk_command::hash(image, *rehash).map(done)
        }
        Command::Vdisk(VdiskCommand::Scrub { images }) => vdisk_command::scrub(images),
        Command::Drain(args) => control::drain(args),
        Command::Resume(at) => control::resume(at),
        Command::Rebalance(args) => control::rebalance(args),
        Command::Status(args) => control::status(args),
        Command::Top(args) => control::top(args),
    }
}

/// Logs go to standard error; `RUST_LOG` chooses, `usual` without it. Standard output is for what scripts read.
fn start_log(usual: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
}

/// The error and its causes in one line; a cause that the line already tells is not told again.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    line
}
