//! `parcel export` and `parcel import`: envelopes and blobs in one file, for links that are a USB stick.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use clap::Subcommand;
use connectrpc::client::Stream;
use indicatif::HumanBytes;
use peat_blobapi::blob::{
    ExportParcelRequest, ImportParcelRequest, ParcelReport, export_parcel_request, oneof::export_parcel_response::Part,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::awake::Awake;
use super::nodes;
use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind, of_daemon};
use crate::output::Output;
use crate::replacement::Replacement;
use crate::show;

/// Bytes of one message to the daemon.
const CHUNK_BYTES: u64 = 256 * 1024;

/// Out or in.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Writes what the node has into a parcel: everything, or what is chosen. It is not encrypted.
    Export {
        /// The file, which is replaced once the parcel is whole; or - for standard output.
        file: PathBuf,
        /// Only this distribution, by its id or its first eight or more digits. May be given several times.
        #[arg(long, value_name = "ID", conflicts_with = "node")]
        distribution: Vec<String>,
        /// Only what this node lacks, and the receipts that are for it; by name or endpoint id. May be given several times.
        #[arg(long = "for", value_name = "NODE", id = "node")]
        node: Vec<String>,
    },
    /// Takes in a parcel: as good as a sync with the node that exported it.
    Import {
        /// The file, or - for standard input.
        file: PathBuf,
    },
}

/// What is read of a parcel. A reader that breaks off ends it early, which the daemon notices: a parcel has an end of its own.
struct Chunks(mpsc::Receiver<ImportParcelRequest>);

impl Stream for Chunks {
    type Item = ImportParcelRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Does it.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    match options {
        Options::Export { file, distribution, node } => export(&daemon, output, file, distribution, node).await,
        Options::Import { file } => import(&daemon, output, file).await,
    }
}

async fn export(
    daemon: &Daemon,
    output: &Output,
    target: &Path,
    distributions: &[String],
    nodes: &[String],
) -> Result<(), Failure> {
    let what = if !distributions.is_empty() {
        let distribution_ids = distributions.to_vec();
        export_parcel_request::Distributions { distribution_ids, ..Default::default() }.into()
    } else if !nodes.is_empty() {
        let endpoint_ids = nodes::endpoint_ids(&nodes::known(daemon).await?, nodes)?;
        export_parcel_request::Nodes { endpoint_ids, ..Default::default() }.into()
    } else {
        export_parcel_request::Everything::default().into()
    };
    let request = ExportParcelRequest { what: Some(what), ..Default::default() };
    if target == Path::new("-") {
        return fetch(daemon, request, |bytes| output.bytes(bytes)).await.map(drop);
    }
    let mut file = Replacement::begin(target)?;
    let report = fetch(daemon, request, |bytes| file.write(bytes)).await?;
    file.finish()?;
    let mut document = document(&report);
    document["file"] = json!(target);
    output.result(&document, || {
        let mut lines = vec![format!(
            "{}: {}, {}, {}",
            target.display(),
            HumanBytes(report.bytes),
            show::count(report.envelopes, "envelope"),
            show::count(report.blobs, "blob"),
        )];
        if report.withheld_distributions > 0 {
            let count = show::count(report.withheld_distributions, "distribution");
            lines.push(format!("without the blobs of {count}, which this node must not hand on"));
        }
        lines.join("\n")
    })
}

/// Reads a parcel to its end.
async fn fetch(
    daemon: &Daemon,
    request: ExportParcelRequest,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<ParcelReport, Failure> {
    let mut parts = daemon.client.export_parcel(request).await.map_err(|error| of_daemon(&error))?;
    while let Some(part) = parts.message().await.map_err(|error| of_daemon(&error))? {
        match part.to_owned_message().part {
            Some(Part::Chunk(chunk)) => write(&chunk)?,
            Some(Part::Report(report)) => return Ok(*report),
            None => {}
        }
    }
    Err(Failure::new(Kind::INTEGRITY, "the parcel has no end").hint("look at the daemon's log, then try again"))
}

async fn import(daemon: &Daemon, output: &Output, source: &Path) -> Result<(), Failure> {
    let cannot = || Failure::io(format!("cannot read {}", source.display()));
    let reader: Box<dyn Read + Send> = match source == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(source).map_err(cannot())?),
    };
    let report = hand_over(daemon, reader, cannot()).await?;
    output.result(&document(&report), || {
        let mut line = format!(
            "{} and {} ({}) were new",
            show::count(report.new_envelopes, "envelope"),
            show::count(report.blobs, "blob"),
            HumanBytes(report.blob_bytes),
        );
        if report.skipped_blobs > 0 {
            line += &format!("; {} not wanted here", show::count(report.skipped_blobs, "blob"));
        }
        if report.held_envelopes > 0 {
            let count = show::count(report.held_envelopes, "envelope");
            line += &format!("\n{count} held back, dated more than a day ahead of the node's clock: set the clock that is wrong");
        }
        if report.refused_envelopes > 0 {
            let count = show::count(report.refused_envelopes, "envelope");
            line += &format!("\n{count} refused: the daemon's log says why");
        }
        line
    })
}

/// Has the daemon take in a parcel.
pub(super) async fn hand_over(
    daemon: &Daemon,
    mut parcel: impl Read + Send + 'static,
    cannot_read: impl FnOnce(std::io::Error) -> Failure + Send + 'static,
) -> Result<ParcelReport, Failure> {
    let (sender, receiver) = mpsc::channel::<ImportParcelRequest>(4);
    let reading = tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = Vec::new();
            if let Err(error) = parcel.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk) {
                return Err(cannot_read(error));
            }
            let done = chunk.is_empty();
            // A daemon that has ended the call says why.
            if done || sender.blocking_send(ImportParcelRequest { chunk, ..Default::default() }).is_err() {
                return Ok(());
            }
        }
    });
    let report = daemon.client.import_parcel(Awake::new(Chunks(receiver), ImportParcelRequest::default)).await;
    // What could not be read comes before what the daemon makes of its beginning.
    if report.is_err()
        && let Ok(Err(failure)) = reading.await
    {
        return Err(failure);
    }
    answer(report)
}

fn document(report: &ParcelReport) -> Value {
    json!({
        "exporter": report.exporter,
        "bytes": report.bytes,
        "envelopes": report.envelopes,
        "new_envelopes": report.new_envelopes,
        "distributions": report.distributions,
        "blobs": report.blobs,
        "blob_bytes": report.blob_bytes,
        "known_blobs": report.known_blobs,
        "skipped_blobs": report.skipped_blobs,
        "cut_blobs": report.cut_blobs,
        "withheld_distributions": report.withheld_distributions,
        "held_envelopes": report.held_envelopes,
        "refused_envelopes": report.refused_envelopes,
    })
}
