//! `check` and `gc`: the node's store.

use indicatif::HumanBytes;
use peat_blobapi::blob::{CheckRequest, CollectGarbageRequest};
use serde_json::json;

use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::show;

/// Reads the whole store. Fails when a blob is damaged or gone, also though it will be fetched again.
pub(crate) async fn check(output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let report = answer(daemon.client.check(CheckRequest::default()).await)?;
    let document = json!({
        "checked": report.checked,
        "damaged": report.damaged,
        "missing": report.missing,
        "repaired": report.repaired,
        "orphans": report.orphans,
        "adopted": report.adopted,
    });
    output.result(&document, || {
        let mut lines = vec![format!("{} checked", show::count(report.checked, "blob"))];
        for (what, blobs) in [("damaged", &report.damaged), ("missing", &report.missing), ("repaired", &report.repaired)] {
            lines.extend(blobs.iter().map(|blob| format!("{what}  {blob}")));
        }
        if report.orphans > 0 {
            lines.push(format!("{} removed that were no blob", show::count(report.orphans, "file")));
        }
        if report.adopted > 0 {
            lines.push(format!("{} found again that the index had lost", show::count(report.adopted, "blob")));
        }
        lines.join("\n")
    })?;
    match report.damaged.len() + report.missing.len() {
        0 => Ok(()),
        bad => {
            let message = format!("{} damaged or missing", show::count(bad as u64, "blob"));
            Err(Failure::new(Kind::INTEGRITY, message)
                .hint("they are fetched from another holder when they are needed; look at the disk, then check again"))
        }
    }
}

/// Drops what nothing pins.
pub(crate) async fn gc(output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let report = answer(daemon.client.collect_garbage(CollectGarbageRequest::default()).await)?;
    let document = json!({ "dropped": report.dropped, "freed": report.freed, "failures": report.failures });
    output
        .result(&document, || format!("{} dropped, {} freed", show::count(report.dropped, "blob"), HumanBytes(report.freed)))?;
    if report.failures.is_empty() {
        return Ok(());
    }
    let failures = report.failures.iter().map(|failure| show::printable(failure)).collect::<Vec<_>>().join("; ");
    Err(Failure::new(Kind::Partial, format!("not everything could be removed: {failures}"))
        .hint("look at the disk, then try again"))
}
