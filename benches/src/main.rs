//! Runs the benches that are named, or all, and prints a Markdown table.
//!
//! ```text
//! cargo run --release -p peat-blob-benches [-- [--quick] [--runs N] [--dir DIRECTORY] [NAME...]]
//! cargo run --release -p peat-blob-benches -- scale [--quick] [--most NODES] [--out DIRECTORY]
//! cargo run --release -p peat-blob-benches -- month [--quick] [--days NUMBER] [--every MINUTES] [--out DIRECTORY]
//! ```
use std::process::ExitCode;

use peat_blob_benches::{BENCHES, Options, Outcome, heading, run_child, run_month, run_scale};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "--child" => run_child(rest),
        Some((first, rest)) if first == "scale" => run_scale(rest),
        Some((first, rest)) if first == "month" => run_month(rest),
        _ => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome<()> {
    let (mut quick, mut runs, mut directory, mut names) = (false, None, std::env::temp_dir(), Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--runs" => runs = Some(rest.next().ok_or("--runs wants a number")?.parse()?),
            "--dir" => directory = rest.next().ok_or("--dir wants a directory")?.into(),
            name if BENCHES.iter().any(|(known, _)| *known == name) => names.push(name),
            other => {
                let known = BENCHES.map(|(name, _)| name).join(", ");
                return Err(format!("no bench {other:?}: one of {known}, --quick, --runs N, --dir DIRECTORY").into());
            }
        }
    }
    let mut options = if quick { Options::quick(directory) } else { Options::full(directory) };
    options.runs = runs.unwrap_or(options.runs).max(1);
    print!("{}", heading());
    for (name, bench) in BENCHES {
        if names.is_empty() || names.contains(&name) {
            for row in bench(&options).map_err(|error| format!("{name}: {error}"))? {
                println!("| {name} {row}");
            }
        }
    }
    Ok(())
}
