//! Many small files, from the send call to the receipt, against a plain copy of the same tree that is synced.

use std::process::Command;

use crate::measure::{timed, write_noise};
use crate::table::Row;
use crate::{Options, Outcome, pair};

const FILE_BYTES: u64 = 4096;
const FILES_PER_DIRECTORY: usize = 100;

/// Measures both by turns.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Row>> {
    let directory = options.temporary()?;
    let (root, copy) = (directory.path().join("outbox"), directory.path().join("copy"));
    for number in 0..options.files {
        let parent = root.join((number / FILES_PER_DIRECTORY).to_string());
        std::fs::create_dir_all(&parent)?;
        write_noise(&parent.join(number.to_string()), FILE_BYTES, number as u64)?;
    }
    let run = |command: &mut Command| match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("{command:?} ended with {status}").into()),
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let (seconds, ()) = timed(|| {
            run(Command::new("cp").arg("-r").arg(&root).arg(&copy))?;
            run(Command::new("sync").arg("-f").arg(&copy))
        })?;
        theirs.push(options.files as f64 / seconds);
        std::fs::remove_dir_all(&copy)?;
        ours.push(options.files as f64 / pair::send(options, &root)?.whole.seconds);
    }
    let what = format!("{} files of {FILE_BYTES} bytes, send to receipt", options.files);
    Ok(vec![Row::pairs(what, "files/s", &ours, "cp -r and sync", &theirs)])
}
