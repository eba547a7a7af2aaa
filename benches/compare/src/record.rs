//! Runs on record: one line of JSON each, in a file that several of these programs may add to at the same time.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::run::Measured;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) work: String,
    pub(crate) tool: String,
    /// What the tool says it is.
    pub(crate) version: String,
    /// When it began, in UTC.
    pub(crate) date: String,
    /// The load average of the machine then.
    pub(crate) load: f64,
    /// What was measured; or why nothing was.
    pub(crate) outcome: Result<Measured, String>,
}

/// All runs, for as long as nobody else may touch them.
pub(crate) struct Records {
    path: PathBuf,
    file: File,
    pub(crate) runs: Vec<Record>,
}

impl Records {
    /// Opens a file, which is made where there is none, once no other program has it.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let named = |error| format!("{}: {error}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(named)?;
        file.lock().map_err(named)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(named)?;
        let runs = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Self { path: path.to_owned(), file, runs: runs.map_err(|error| format!("{}: {error}", path.display()))? })
    }

    /// Adds a run. Where it is the first of its kind, those of before are taken out.
    pub(crate) fn add(&mut self, record: Record, first: bool) -> Outcome<()> {
        if first {
            self.runs.retain(|run| run.work != record.work || run.tool != record.tool);
        }
        self.runs.push(record);
        let lines: Vec<String> = self.runs.iter().map(|run| Ok(serde_json::to_string(run)? + "\n")).collect::<Outcome<_>>()?;
        // The file stays the one that others wait for.
        self.file.set_len(0)?;
        self.file.write_all(lines.concat().as_bytes()).map_err(|error| format!("{}: {error}", self.path.display()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tool: &str, reason: &str) -> Record {
        let outcome = Err(reason.to_owned());
        Record { work: "mesh".into(), tool: tool.into(), version: "1".into(), date: "2026".into(), load: 0.5, outcome }
    }

    #[test]
    fn a_first_run_replaces_those_of_its_kind_alone_and_later_ones_are_added() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("runs.jsonl");
        for (tool, reason, first) in
            [("one", "old", true), ("other", "kept", true), ("one", "old", false), ("one", "new", true), ("one", "newer", false)]
        {
            Records::open(&path).expect("opened").add(record(tool, reason), first).expect("added");
        }
        let runs = Records::open(&path).expect("opened").runs;
        let reasons: Vec<_> = runs.into_iter().filter_map(|run| run.outcome.err()).collect();
        assert_eq!(reasons, ["kept", "new", "newer"]);
    }
}
