//! What a crash left of a batch, or a ledger that failed in its midst. Before "placing" the temporary files are removed: a name
//! that was given already shows an equal file, which the next delivery acknowledges. After it the rest get their names.

use super::batch::place;
use super::beneath::Dirs;
use super::error::ExchangeError;
use super::ledger::{Ledger, Record, Unfinished};
use super::look::{There, look};
use super::name;
use crate::fault;

/// Undoes or finishes the unfinished batch, if there is one. May itself be cut short and run again.
pub(super) fn recover(dirs: &mut Dirs, ledger: &Ledger) -> Result<(), ExchangeError> {
    let Some(Unfinished { state, rows }) = ledger.unfinished()? else { return Ok(()) };
    let last = ledger.records(rows.iter().map(|(_, row)| row.path.as_str()))?;
    let (mut records, mut arrivals) = (Vec::new(), Vec::new());
    for ((number, row), last) in rows.into_iter().zip(last) {
        let path = row.path.as_str();
        // Where the user put something in the way of a directory since, there is no temporary file of ours.
        let Ok(Some(dir)) = dirs.find(path) else { continue };
        let temp = name::temp(number);
        let fail = |error| ExchangeError::io(path, "clear up after a crash", error);
        if !state.placing {
            dir.remove(&temp).map_err(|error| fail(error.into()))?;
            continue;
        }
        let (_, name) = name::split(path);
        let record = &row.record;
        // Read again before it gets its name: a power cut is what barriers are for, and what some disks lie about.
        match look(&dir, &temp, None, record.size, &record.blob).map_err(fail)? {
            There::Equal { .. } => match place(dirs, path, number, row.record.clone(), last.as_ref(), state.began) {
                Ok((record, _)) => {
                    records.push((row.path, record));
                    arrivals.extend(row.arrival);
                }
                // It is delivered again, and reported then.
                Err(error) => tracing::warn!(%error, "a delivery that a crash cut short cannot be finished"),
            },
            // It was renamed, unless the user was quicker than this.
            There::Nothing => {
                if let There::Equal { print, .. } = look(&dir, name, last.as_ref(), record.size, &record.blob).map_err(fail)? {
                    dirs.touch(path);
                    records.push((row.path.clone(), Record { print: Some(print), ..row.record }));
                    arrivals.extend(row.arrival);
                }
            }
            _ => dir.remove(&temp).map_err(|error| fail(error.into()))?,
        }
        fault::point("exchange.recover");
    }
    dirs.sync()?;
    ledger.finish(&records, &arrivals)
}
