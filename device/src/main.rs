//! `diskstream-device`: attach to a vDisk and export it as a block device; tell how a device fares.
#![deny(unsafe_code)]

mod attach;
mod cli;
mod show;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let result = match arguments.command {
        cli::Command::Attach(attach) => {
            // First of all: it starts the program anew.
            let spared = if attach.root_storage { attach::spare() } else { Ok(()) };
            start_log(filter);
            spared.and_then(|()| attach::run(&attach))
        }
        cli::Command::Status(status) => show::run(&status),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("diskstream-device: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Logs go to standard error, in colour only on a terminal (and never with `NO_COLOR`, see no-color.org).
fn start_log(filter: EnvFilter) {
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
