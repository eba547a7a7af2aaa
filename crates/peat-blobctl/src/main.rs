//! The command line of peat-blob. Thin: the library does the work, this shows it and maps its errors to exit codes.

mod demo;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Files to the nodes they are meant for, whatever the link does.
#[derive(Debug, Parser)]
#[command(name = "peat-blobctl", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs two nodes in this process on loopback and sends a directory from one to the other.
    Demo(demo::Options),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("PEAT_BLOB_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.show(),
    }
}
