//! A month of ten nodes with a new file each minute: whether the store, the documents and the memory stay as they are once what
//! is old goes as fast as what is new comes.
//!
//! The nodes are real, in one process over loopback; only their clock is not, which they have in common and which leaps on when
//! all of an hour's files have come to everybody (and goes with ours between leaps, since nodes wait by it). So an hour takes
//! seconds, and what a node does each minute of its own time (dropping what has expired is among it) it does once in many hours
//! of this one.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use peat_blob_tests::fleet::{Fleet, eventually};
use peat_blobcore::clock::{Clock, SystemClock};
use peat_blobcore::content::Options as Store;
use peat_blobcore::model::{DistributionId, DistributionState, Timestamp};
use peat_blobcore::{Node, SendRequest};

use crate::Outcome;
use crate::measure::{MIB, cpu_seconds, resident_bytes, write_noise};
use crate::page;
use crate::streams::runtime;

const NODES: usize = 10;
/// By turns: one that lies in the index of the store, and one that is a file of it.
const FILE_BYTES: [u64; 2] = [4096, 20 * 1024];
/// How long a file is tried for. What is said of it stays for two days more (DESIGN.md, expiry without tombstones).
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// What a node's store may have with a file each minute, and in proportion with fewer: less than it would have of a month without
/// collection.
const QUOTA: u64 = 128 << 20;
/// The least that a store can work with.
const LEAST_QUOTA: u64 = 8 << 20;
/// How long an hour's files may take in real time before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(600);
const MINUTE: u64 = 60_000;
/// How many minutes lie between two files, and how many days it goes on: by itself, and in a quick run.
const EVERY: [u64; 2] = [1, 240];
const DAYS: [u64; 2] = [30, 2];

/// Everybody's clock: how many milliseconds it is ahead of ours.
#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_millis(self.0.load(Ordering::Relaxed)))
    }
}

/// How it was at the end of a day. Figures of nodes are those of the node that has most.
struct Day {
    day: u64,
    sent: usize,
    documents: usize,
    replica: f64,
    ledger: f64,
    index: f64,
    blobs: f64,
    memory: f64,
    processor: f64,
}

/// Runs the month and writes `retention.md`.
///
/// # Errors
/// When an argument is not known, something does not arrive, or the page cannot be read or written.
pub fn run(arguments: &[String]) -> Outcome<()> {
    let (mut quick, mut days, mut every, mut out) = (false, None, None, None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => quick = true,
            "--days" => days = Some(rest.next().ok_or("--days wants a number")?.parse()?),
            "--every" => every = Some(rest.next().ok_or("--every wants minutes")?.parse()?),
            "--out" => out = Some(PathBuf::from(rest.next().ok_or("--out wants a directory")?)),
            other => return Err(format!("{other:?} is none of --quick, --days NUMBER, --every MINUTES, --out DIRECTORY").into()),
        }
    }
    let at = usize::from(quick);
    let (every, days) = (every.unwrap_or(EVERY[at]).max(1), days.unwrap_or(DAYS[at]));
    let figures = table(&runtime()?.block_on(month(days, every))?);
    print!("{figures}");
    match out {
        Some(out) => page::write(&out.join("retention.md"), &figures),
        None => Ok(()),
    }
}

async fn month(days: u64, every: u64) -> Outcome<Vec<Day>> {
    let (fleet, hands) = (Fleet::new(), Arc::new(Hands::default()));
    let names: Vec<String> = (0..NODES).map(|number| format!("node-{number}")).collect();
    let mut nodes: Vec<Node> = Vec::new();
    for name in &names {
        fleet.enroll(name, &[]);
        let store = Store { quota: Some((QUOTA / every).max(LEAST_QUOTA)), ..Store::default() };
        let node = fleet.describe(name).clock(hands.clone()).content(store);
        nodes.push(nodes.iter().fold(node, |node, peer| node.peer(peer.id(), peer.addresses())).start().await?);
    }
    for node in &nodes {
        eventually("all know all", || async { node.members().len() == NODES }).await;
    }
    let outbox = fleet.path("outbox");
    fs::create_dir(&outbox)?;
    let (mut measured, mut sent, begun) = (Vec::new(), 0, cpu_seconds()?);
    for day in 1..=days {
        for _hour in 0..24 {
            let mut hour = Vec::new();
            for _ in 0..60 {
                let minute = hands.0.fetch_add(MINUTE, Ordering::Relaxed) / MINUTE;
                if !minute.is_multiple_of(every) {
                    continue;
                }
                let sender = &nodes[sent % NODES];
                let name = sent.to_string();
                write_noise(&outbox.join(&name), FILE_BYTES[sent % 2], sent as u64)?;
                let request = SendRequest { paths: vec![name.clone().into()], lifetime: LIFETIME, ..SendRequest::new(&outbox) };
                hour.push((sender, sender.send(request).await?.distribution));
                fs::remove_file(outbox.join(name))?;
                sent += 1;
            }
            arrived(&hour).await?;
            // Somebody takes what came out of the inboxes.
            for name in &names {
                fs::read_dir(fleet.inbox(name))?.try_for_each(|entry| match entry?.path() {
                    path if path.is_file() => fs::remove_file(path),
                    _ => Ok(()),
                })?;
            }
        }
        let most = |of: &dyn Fn(&str) -> Outcome<f64>| -> Outcome<f64> {
            names.iter().try_fold(0.0, |most: f64, name| Ok(most.max(of(name)?)))
        };
        let file = |file: &'static str| {
            let fleet = &fleet;
            move |name: &str| -> Outcome<f64> { Ok(bytes(&fleet.path(name).join(file))? / MIB) }
        };
        let now = Day {
            day,
            sent,
            documents: nodes.iter().map(|node| node.stats().documents).max().unwrap_or_default(),
            replica: most(&file("replica.redb"))?,
            ledger: most(&file("exchange.redb"))?,
            index: most(&file("content/content.redb"))?,
            blobs: most(&file("content/blobs"))?,
            memory: resident_bytes()? / MIB / NODES as f64,
            processor: (cpu_seconds()? - begun) / NODES as f64,
        };
        eprint!("{}", line(&now));
        measured.push(now);
    }
    for node in nodes {
        node.shutdown().await;
    }
    Ok(measured)
}

/// Waits until everybody has signed for all of them.
async fn arrived(sent: &[(&Node, DistributionId)]) -> Outcome<()> {
    let begun = Instant::now();
    for (sender, id) in sent {
        let status = sender.wait(*id, PATIENCE.saturating_sub(begun.elapsed())).await?;
        if status.state != DistributionState::Completed || status.targets.len() + 1 != NODES {
            return Err(format!("a distribution is {} with {} targets", status.state, status.targets.len()).into());
        }
    }
    Ok(())
}

/// Bytes of a file, or of all files beneath a directory, as they lie on the disk.
fn bytes(path: &Path) -> Outcome<f64> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(0.0) };
    if !metadata.is_dir() {
        return Ok(metadata.blocks() as f64 * 512.0);
    }
    let mut sum = 0.0;
    for entry in fs::read_dir(path)? {
        sum += bytes(&entry?.path())?;
    }
    Ok(sum)
}

fn table(days: &[Day]) -> String {
    let mut text =
        "| day | files sent so far | distributions known | MiB of documents | of the inbox's ledger | of the store's index | of \
                    blobs | of memory, a node | processor seconds, a node |\n"
            .to_owned();
    text.push_str(&format!("|{}\n", "---|".repeat(9)));
    days.iter().for_each(|day| text.push_str(&line(day)));
    text
}

fn line(day: &Day) -> String {
    let mut text = String::new();
    let Day { day, sent, documents, replica, ledger, index, blobs, memory, processor } = day;
    writeln!(
        text,
        "| {day} | {sent} | {documents} | {replica:.1} | {ledger:.1} | {index:.1} | {blobs:.1} | {memory:.1} | {processor:.1} |"
    )
    .expect("a string takes all");
    text
}
