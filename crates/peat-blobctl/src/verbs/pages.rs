//! `completion` and `man`: both from the one table of flags.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde_json::json;

use crate::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Which shell.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell.
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write a page for each verb into this directory, made if need be.
    directory: Option<PathBuf>,
}

/// Prints the completions of a shell. They are a script in every output mode.
pub(crate) fn completion(options: &Completion, output: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "peat-blobctl", &mut script);
    output.bytes(&script)
}

/// Prints the man page, or writes all of them.
pub(crate) fn man(options: &Man, output: &Output) -> Result<(), Failure> {
    let Some(directory) = &options.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Failure::io("cannot make the page"))?;
        return output.bytes(&page);
    };
    let written = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Cli::command(), directory)
    };
    written().map_err(Failure::io(format!("cannot write to {}", directory.display())))?;
    output.result(&json!({ "directory": directory }), || format!("pages written to {}", directory.display()))
}
