//! Memory of a node that knows many documents with nothing to do, against one that knows none.

use std::path::PathBuf;
use std::time::Duration;

use peat_blobcore::Node;

use crate::child::{Running, say, wait};
use crate::documents::{self, NAMES};
use crate::measure::resident_bytes;
use crate::streams::runtime;
use crate::table::Row;
use crate::{Options, Outcome};

/// A node is at rest when its memory has not changed by this much for so long.
const STEADY_BYTES: f64 = 64.0 * 1024.0;
const STEADY_FOR: Duration = Duration::from_millis(500);

/// Measures both by turns, each time in a new process.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Row>> {
    let directory = options.temporary()?;
    let (empty, full) = (directory.path().join("empty"), directory.path().join("full"));
    documents::make(&empty, 0)?;
    let at_rest = documents::make(&full, options.documents)?.bytes;
    let count = options.documents as f64;
    let (mut each, mut base) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let without = resident(&empty)?;
        each.push((resident(&full)? - without) / count);
        base.push(without / 1024.0 / 1024.0);
    }
    let envelopes = vec![at_rest as f64 / count; each.len()];
    let base = crate::Spread::new(base).median();
    let what = format!("each of {count} idle documents, beyond the {base:.1} MiB of a node with none");
    Ok(vec![Row::pairs(what, "bytes", &each, "its envelopes at rest", &envelopes)])
}

fn resident(directory: &std::path::Path) -> Outcome<f64> {
    let mut child = Running::start("idle", &[directory.join(NAMES[0]).to_string_lossy().into_owned()])?;
    let [bytes] = child.numbers()?;
    child.end()?;
    Ok(bytes)
}

/// A node that starts, comes to rest and says what memory it has.
pub(crate) fn child(arguments: &[String]) -> Outcome<()> {
    let [data] = arguments else { return Err("an idle node wants its data directory".into()) };
    runtime()?.block_on(async {
        let node = Node::builder(PathBuf::from(data)).listen(([127, 0, 0, 1], 0).into()).gossip(false).start().await?;
        // Answered after the driver has looked at what it found at its start.
        if let Some(id) = node.distributions().first() {
            node.status(*id).await?;
        }
        let mut before = resident_bytes()?;
        loop {
            tokio::time::sleep(STEADY_FOR).await;
            let now = resident_bytes()?;
            if (now - before).abs() < STEADY_BYTES {
                break say(&now.to_string())?;
            }
            before = now;
        }
        wait()?;
        node.shutdown().await;
        Ok(())
    })
}
