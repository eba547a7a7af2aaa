//! `blob`: single blobs into the node's store and out of it, what is there and why, and away with one that nothing needs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use clap::{Args, Subcommand};
use connectrpc::client::Stream;
use indicatif::{HumanBytes, ProgressBar};
use peat_blobapi::blob::{
    Blob, BlobState, DeleteBlobRequest, ExportBlobReport, ExportBlobRequest, ExportMethod, GetBlobStatusRequest,
    GetBlobStatusResponse, ImportBlobOptions, ImportBlobRequest, ImportBlobResponse, ListBlobsRequest, RootPath,
    oneof::{export_blob_request::Target, export_blob_response::Part as Given, import_blob_request::Part},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::account::Account;
use super::awake::Awake;
use super::parts::Parts;
use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind, of_daemon};
use crate::output::Output;
use crate::replacement::Replacement;
use crate::show;

/// Bytes of one message to the daemon.
const CHUNK_BYTES: u64 = 256 * 1024;
/// Messages that wait for the connection.
const WAITING_PARTS: usize = 4;
/// Blobs that are asked for at a time.
const PAGE: u32 = 500;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Takes a file, or standard input, into the node's store.
    Import(Import),
    /// Gives a blob out: into a file, to standard output, or an image into another registry.
    Export(Export),
    /// Lists what is in the store, with what keeps it.
    Ls(List),
    /// Removes a blob. What something keeps is not removed, and what that is is said.
    Rm(Remove),
    /// Says how much of a blob is here, what keeps it, and who else has it.
    Status {
        /// Its hash, or its digest (sha256:…).
        blob: String,
    },
}

/// What to take in.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file, or - for standard input.
    path: PathBuf,
    /// The path is beneath this root of the daemon (`outbox`), which reads it there.
    #[arg(long, value_name = "NAME")]
    root: Option<String>,
    /// What it must be: nothing is taken in that is something else.
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// Keep it for good under this name. Without it, it goes after an hour unless it has become part of something.
    #[arg(long, value_name = "NAME")]
    pin: Option<String>,
}

/// What to give out.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Its hash, or its digest (sha256:…).
    blob: String,
    /// The file, which is replaced once the blob is whole; or - for standard output.
    #[arg(required_unless_present = "to", conflicts_with = "to")]
    file: Option<PathBuf>,
    /// The file is beneath this root of the daemon (`outbox`), which writes it there, unless something has its name.
    #[arg(long, value_name = "NAME", conflicts_with = "to")]
    root: Option<String>,
    /// Push the image whose manifest it is: registry.example:5000/team/app:1.
    #[arg(long, value_name = "REGISTRY/IMAGE")]
    to: Option<String>,
    #[command(flatten)]
    account: Account,
}

/// Which blobs.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only what is kept for a reason that begins so, as user: or package:team/app.
    #[arg(long, value_name = "PREFIX")]
    pin: Option<String>,
    /// Only what is damaged.
    #[arg(long)]
    damaged: bool,
    /// At most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    limit: u32,
}

/// Which blob, and what is given up with it.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Its hash, or its digest (sha256:…).
    blob: String,
    /// Give up the pin of this name (may be given several times). It goes on keeping what else it keeps.
    #[arg(long, value_name = "NAME")]
    pin: Vec<String>,
    /// Give up what keeps it for a while only: an import that has become part of nothing yet, an upload of the registry.
    #[arg(long)]
    leases: bool,
}

/// Does it.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    match options {
        Options::Import(options) => import(&daemon, output, options).await,
        Options::Export(options) => export(&daemon, output, options).await,
        Options::Ls(options) => list(&daemon, output, options).await,
        Options::Rm(Remove { blob, pin, leases }) => {
            let request = DeleteBlobRequest { blob: blob.clone(), pin_names: pin.clone(), leases: *leases, ..Default::default() };
            let gone = answer(daemon.store.delete_blob(request).await)?;
            output.result(&json!({ "blob": gone.blob, "freed": gone.freed }), || {
                format!("{} is gone, and with it {}", gone.blob, HumanBytes(gone.freed))
            })
        }
        Options::Status { blob } => status(&daemon, output, blob).await,
    }
}

async fn import(daemon: &Daemon, output: &Output, options: &Import) -> Result<(), Failure> {
    let mut what = ImportBlobOptions {
        expected_digest: options.digest.clone().unwrap_or_default(),
        pin_name: options.pin.clone().unwrap_or_default(),
        ..Default::default()
    };
    let parts = Parts::of(output);
    let mut bar = ProgressBar::hidden();
    let bytes: Option<Box<dyn Read + Send>> = if let Some(root_name) = &options.root {
        what.root_path = beneath(root_name, &options.path)?.into();
        None
    } else if options.path == Path::new("-") {
        Some(Box::new(std::io::stdin()))
    } else {
        let file = File::open(&options.path).map_err(cannot_read(&options.path))?;
        let found = file.metadata().map_err(cannot_read(&options.path))?;
        if found.is_dir() {
            return Err(Failure::usage(format!("{} is a directory", options.path.display()))
                .hint("`peat-blobctl send` takes directories; a blob is a file"));
        }
        bar = parts.single(&options.path.file_name().unwrap_or_default().to_string_lossy(), found.len());
        Some(Box::new(file))
    };
    let taken = hand_over(daemon, what, bytes, bar.clone(), cannot_read(&options.path)).await;
    bar.abandon();
    let taken = taken?;
    let document = json!({
        "blob": taken.blob,
        "digest": taken.digest,
        "size": taken.size,
        "already_present": taken.already_present,
    });
    output.result(&document, || {
        let known = if taken.already_present { ", which was here" } else { "" };
        format!("{}  {}  {}{known}", taken.blob, taken.digest, HumanBytes(taken.size))
    })
}

fn cannot_read(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + Send + use<> {
    Failure::io(format!("cannot read {}", path.display()))
}

fn beneath(root_name: &str, path: &Path) -> Result<RootPath, Failure> {
    let relative_path = path.to_str().ok_or_else(|| Failure::usage("the path is not UTF-8"))?.to_owned();
    Ok(RootPath { root_name: root_name.to_owned(), relative_path, ..Default::default() })
}

/// What is said to the daemon; `None` is the end.
struct Requests(mpsc::Receiver<Option<ImportBlobRequest>>);

impl Stream for Requests {
    type Item = ImportBlobRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.0.poll_recv(context) {
            Poll::Ready(Some(part)) => Poll::Ready(part),
            // What could not be read has no end: the call can only be dropped then, and nothing is taken in.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

fn part(part: Part) -> ImportBlobRequest {
    ImportBlobRequest { part: Some(part), ..Default::default() }
}

async fn hand_over(
    daemon: &Daemon,
    options: ImportBlobOptions,
    bytes: Option<Box<dyn Read + Send>>,
    bar: ProgressBar,
    cannot_read: impl FnOnce(std::io::Error) -> Failure + Send + 'static,
) -> Result<ImportBlobResponse, Failure> {
    let (sender, receiver) = mpsc::channel(WAITING_PARTS);
    let reading = tokio::task::spawn_blocking(move || {
        // A daemon that has ended the call says why.
        let mut going_on = sender.blocking_send(Some(part(Part::Options(options.into())))).is_ok();
        let mut bytes = bytes.unwrap_or_else(|| Box::new(std::io::empty()));
        while going_on {
            let mut chunk = Vec::new();
            if let Err(error) = bytes.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk) {
                return Err(cannot_read(error));
            }
            let read = chunk.len() as u64;
            let next = (read > 0).then(|| part(Part::Chunk(chunk)));
            going_on = sender.blocking_send(next).is_ok() && read > 0;
            bar.inc(read);
        }
        Ok(())
    });
    let call = daemon.store.import_blob(Awake::new(Requests(receiver), || part(Part::Chunk(Vec::new()))));
    tokio::pin!(call, reading);
    tokio::select! {
        taken = &mut call => answer(taken),
        read = &mut reading => {
            read.map_err(|error| Failure::new(Kind::FAILED, format!("the reader ended badly: {error}")))??;
            answer(call.await)
        }
    }
}

async fn export(daemon: &Daemon, output: &Output, options: &Export) -> Result<(), Failure> {
    let mut request = ExportBlobRequest { blob: options.blob.clone(), ..Default::default() };
    let mut parts = Parts::of(output);
    let report = match (&options.to, &options.root, options.file.as_deref()) {
        (Some(to), ..) => {
            request.target = Some(Target::Registry(Box::new(options.account.target(to)?)));
            fetch(daemon, request, &mut parts, |_| Ok(())).await?
        }
        (None, Some(root_name), Some(file)) => {
            request.target = Some(Target::RootPath(Box::new(beneath(root_name, file)?)));
            fetch(daemon, request, &mut parts, |_| Ok(())).await?
        }
        (None, None, Some(file)) if file == Path::new("-") => {
            return fetch(daemon, request, &mut parts, |bytes| output.bytes(bytes)).await.map(drop);
        }
        (None, None, Some(file)) => {
            let known = answer(
                daemon.store.get_blob_status(GetBlobStatusRequest { blob: options.blob.clone(), ..Default::default() }).await,
            )?;
            let bar = parts.single(&file.file_name().unwrap_or_default().to_string_lossy(), known.blob.size);
            let mut replacement = Replacement::begin(file)?;
            let report = fetch(daemon, request, &mut parts, |bytes| {
                bar.inc(bytes.len() as u64);
                replacement.write(bytes)
            })
            .await?;
            replacement.finish()?;
            bar.abandon();
            report
        }
        (None, _, None) => return Err(Failure::usage("say where to")),
    };
    let to = options.to.clone().or_else(|| options.file.as_ref().map(|file| file.display().to_string())).unwrap_or_default();
    let method = method(&report);
    let document = json!({
        "blob": report.blob,
        "size": report.size,
        "to": to,
        "bytes_written": report.bytes_written,
        "method": method,
    });
    output.result(&document, || format!("{to}: {}, {method}", HumanBytes(report.size)))
}

/// Has a blob given out to its end. What comes here is held against its hash.
async fn fetch(
    daemon: &Daemon,
    request: ExportBlobRequest,
    parts: &mut Parts,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<ExportBlobReport, Failure> {
    let comes_here = request.target.is_none();
    let mut answers = daemon.store.export_blob(request).await.map_err(|error| of_daemon(&error))?;
    let mut hasher = blake3::Hasher::new();
    while let Some(given) = answers.message().await.map_err(|error| of_daemon(&error))? {
        match given.to_owned_message().part {
            Some(Given::Chunk(chunk)) => {
                hasher.update(&chunk);
                write(&chunk)?;
            }
            Some(Given::Progress(progress)) => parts.show(&progress),
            Some(Given::Report(report)) if comes_here && hasher.finalize().to_hex().as_str() != report.blob => {
                return Err(Failure::new(Kind::INTEGRITY, format!("what came is not the blob {}", show::short(&report.blob)))
                    .hint("try again; if it stays so, run `peat-blobctl check`"));
            }
            Some(Given::Report(report)) => return Ok(*report),
            None => {}
        }
    }
    Err(Failure::new(Kind::INTEGRITY, "what came has no end").hint("look at the daemon's log, then try again"))
}

fn method(report: &ExportBlobReport) -> &'static str {
    match report.method.as_known() {
        Some(ExportMethod::EXPORT_METHOD_COPIED) => "copied",
        Some(ExportMethod::EXPORT_METHOD_REFLINKED) => "reflinked",
        Some(ExportMethod::EXPORT_METHOD_PUSHED) => "pushed",
        Some(ExportMethod::EXPORT_METHOD_PRESENT) => "present",
        Some(ExportMethod::EXPORT_METHOD_UNSPECIFIED) | None => "streamed",
    }
}

async fn list(daemon: &Daemon, output: &Output, options: &List) -> Result<(), Failure> {
    let (mut found, mut after) = (Vec::<Blob>::new(), String::new());
    while let missing @ 1.. = (options.limit as usize).saturating_sub(found.len()) {
        let state = if options.damaged { BlobState::BLOB_STATE_DAMAGED } else { BlobState::BLOB_STATE_UNSPECIFIED };
        let request = ListBlobsRequest {
            limit: u32::try_from(missing).unwrap_or(PAGE).min(PAGE),
            after,
            pin_prefix: options.pin.clone().unwrap_or_default(),
            state: state.into(),
            ..Default::default()
        };
        let page = answer(daemon.store.list_blobs(request).await)?;
        found.extend(page.blobs);
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    let items = found.iter().map(blob_json).collect::<Vec<_>>();
    output.list("blobs", &items, || {
        if found.is_empty() {
            return "no such blobs are here".to_owned();
        }
        let rows = found.iter().map(|blob| {
            [
                blob.blob.clone(),
                HumanBytes(blob.size).to_string(),
                state(blob).to_owned(),
                show::time(blob.added),
                show::printable(&blob.pins.join(", ")),
            ]
        });
        show::table(["blob", "size", "state", "since", "kept by"], rows)
    })?;
    if !after.is_empty() {
        output.note(&format!("{} are shown; --limit shows more", found.len()));
    }
    Ok(())
}

fn state(blob: &Blob) -> &'static str {
    match blob.state.as_known() {
        Some(BlobState::BLOB_STATE_ABSENT) => "absent",
        Some(BlobState::BLOB_STATE_PARTIAL) => "partial",
        Some(BlobState::BLOB_STATE_HELD) => "held",
        Some(BlobState::BLOB_STATE_DAMAGED) => "damaged",
        Some(BlobState::BLOB_STATE_UNSPECIFIED) | None => "unknown",
    }
}

fn blob_json(blob: &Blob) -> Value {
    json!({
        "blob": blob.blob,
        "digest": blob.digest,
        "size": blob.size,
        "state": state(blob),
        "pins": blob.pins,
        "added": blob.added,
    })
}

async fn status(daemon: &Daemon, output: &Output, blob: &str) -> Result<(), Failure> {
    let request = GetBlobStatusRequest { blob: blob.to_owned(), ..Default::default() };
    let found = answer(daemon.store.get_blob_status(request).await)?;
    let mut document = blob_json(&found.blob);
    document["bytes_held"] = found.bytes_held.into();
    document["holders"] = found.holders.clone().into();
    output.result(&document, || status_text(&found))
}

fn status_text(found: &GetBlobStatusResponse) -> String {
    let blob = &found.blob;
    let names = found.holders.iter().zip(&found.holder_names).map(|(id, name)| show::node(name, id));
    let size = match blob.size {
        0 => String::new(),
        size if found.bytes_held == size => HumanBytes(size).to_string(),
        size => format!("{} of {}", HumanBytes(found.bytes_held), HumanBytes(size)),
    };
    let fields = [
        ("blob", blob.blob.clone()),
        ("digest", blob.digest.clone()),
        ("state", state(blob).to_owned()),
        ("size", size),
        ("kept by", show::printable(&blob.pins.join(", "))),
        ("holders", names.collect::<Vec<_>>().join(", ")),
    ];
    let told: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    show::fields(&told)
}
