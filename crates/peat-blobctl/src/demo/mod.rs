//! The demo: two real nodes on loopback, one directory, and a table of what arrived. It succeeds only if every byte was
//! compared on disk.

mod compare;
mod sample;
mod show;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use peat_blobcore::exchange::InboxPolicy;
use peat_blobcore::identity::{AuthorityKey, FormationKey, files};
use peat_blobcore::model::{DistributionState, Labels};
use peat_blobcore::{DistributionStatus, Error, Node, NodeEvent, NodeEvents, SendRequest, Sent};

use crate::failure::{Failure, Kind};
use crate::output::Output;
use show::Bars;

/// How long the demo waits without any progress before it says so and fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the demo sends, and where it leaves it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The directory to send; without one a directory of odd and ordinary files is made.
    directory: Option<PathBuf>,
    /// Keep everything beneath this directory, instead of a temporary one that is removed. It must not hold anything yet.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

/// Runs the demo.
pub(crate) fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    let temporary;
    let work = match &options.keep {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(Failure::io(format!("cannot make {}", directory.display())))?;
            directory.as_path()
        }
        None => {
            temporary = tempfile::tempdir().map_err(Failure::io("cannot make a temporary directory"))?;
            temporary.path()
        }
    };
    let source = match &options.directory {
        Some(directory) => directory.clone(),
        None => sample::make(&work.join("outbox")).map_err(Failure::io("cannot make the files to send"))?,
    };
    crate::on_runtime(two_nodes(work, &source, output))
}

async fn two_nodes(work: &Path, source: &Path, output: &Output) -> Result<(), Failure> {
    let inbox = work.join("inbox");
    let (alpha, bravo) = start(work, &inbox).await?;
    output.note(&format!("alpha {} sends {}", alpha.id().short(), source.display()));
    output.note(&format!("bravo {} receives into {}", bravo.id().short(), inbox.display()));
    let outcome = deliver(&alpha, &bravo, source, &inbox, output).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
    outcome
}

/// Makes a formation of two enrolled members and starts both; the second knows where the first is.
async fn start(work: &Path, inbox: &Path) -> Result<(Node, Node), Failure> {
    let (formation, authority) = (FormationKey::generate(), AuthorityKey::generate());
    for name in ["alpha", "bravo"] {
        files::create_member(&work.join(name), &formation, &authority, name, Labels::new()).map_err(Error::from)?;
    }
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let alpha = Node::builder(work.join("alpha")).listen(loopback).start().await?;
    let bravo = Node::builder(work.join("bravo"))
        .listen(loopback)
        .inbox(inbox, InboxPolicy::default())
        .peer(alpha.id(), alpha.addresses())
        .start()
        .await?;
    Ok((alpha, bravo))
}

async fn deliver(alpha: &Node, bravo: &Node, source: &Path, inbox: &Path, output: &Output) -> Result<(), Failure> {
    let mut events = bravo.events();
    let started = Instant::now();
    let request = SendRequest { together: false, ..SendRequest::new(source) };
    let sent = alpha.send(request).await?;
    for skipped in &sent.skipped {
        output.note(&format!("skipped {}: {}", crate::show::path(&skipped.path), skipped.reason));
    }
    let taken_in = started.elapsed();
    let bars = Bars::new(&sent, output.is_interactive());
    let arrivals = watch(&mut events, &sent, &bars).await?;
    let status = alpha.wait(sent.distribution, PATIENCE).await?;
    let all = started.elapsed();
    bars.finish();
    let compared = check(&sent, &status, source, inbox);
    output.result(&show::document(&sent, &arrivals, &status, all, compared.as_ref().ok()), || {
        let table = show::table(&sent, &arrivals, &status, bravo.id());
        let equal = compared.as_ref().map_or_else(
            |_| String::new(),
            |bytes| format!("\ncompared on disk: {} files, {bytes} bytes, all equal", sent.files.len()),
        );
        format!("{table}\n{}{equal}", show::summary(&sent, taken_in, all))
    })?;
    compared?;
    match sent.skipped.len() {
        0 => Ok(()),
        skipped => Err(Failure::new(Kind::Partial, format!("{skipped} entries were skipped"))),
    }
}

/// Follows the receiver until every file has arrived; returns when each did, counted from the first moment of the transfer.
async fn watch(events: &mut NodeEvents, sent: &Sent, bars: &Bars) -> Result<BTreeMap<u32, Duration>, Failure> {
    let began = Instant::now();
    let mut arrivals = BTreeMap::new();
    while arrivals.len() < sent.files.len() {
        let event = tokio::time::timeout(PATIENCE, events.next())
            .await
            .map_err(|_| Error::TimedOut(format!("{} of {} files have arrived", arrivals.len(), sent.files.len())))?;
        match event {
            Some(NodeEvent::Progress { distribution, bytes, .. }) if distribution == sent.distribution => bars.bytes(bytes),
            Some(NodeEvent::File { distribution, index }) if distribution == sent.distribution => {
                arrivals.insert(index, began.elapsed());
                bars.files(arrivals.len());
            }
            // The rest is in the receipt; the table then says so for files whose arrival was missed.
            Some(NodeEvent::Missed(_)) => break,
            Some(_) => {}
            None => return Err(Error::Stopped.into()),
        }
    }
    Ok(arrivals)
}

/// Holds every file in the inbox against its original; returns how many bytes are equal.
fn check(sent: &Sent, status: &DistributionStatus, source: &Path, inbox: &Path) -> Result<u64, Failure> {
    if status.state != DistributionState::Completed {
        let why = status.targets.values().map(|target| target.why.as_str()).collect::<Vec<_>>().join("; ");
        return Err(Failure::new(Kind::INTEGRITY, format!("the distribution is {}: {why}", status.state)));
    }
    compare::directories(sent, source, inbox)
}
