//! `image`: images and artifacts of the OCI in the node's registry, in from archives, out to them, and across to other nodes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::HumanBytes;
use peat_blobapi::blob::{
    DeleteImageRequest, ExportImageRequest, Image, ImageFormat, ImportImageOptions, ImportImageRequest, ImportReport,
    ListImagesRequest, PullImageRequest, SendImageRequest, SendOptions, TagImageRequest,
    oneof::{import_image_request::Part, import_image_response::Part as ImportPart, pull_image_response::Part as PullPart},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::account::Account;
use super::parts::Parts;
use super::{awake, copy, inspect, packages, push};
use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind, of_daemon};
use crate::output::Output;
use crate::replacement::Replacement;
use crate::{show, values};

/// Bytes of one message to the daemon.
const CHUNK_BYTES: u64 = 256 * 1024;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Takes in the images of an OCI layout, an oci-archive, or what `docker save`, `podman save` and Nix make.
    Import(Import),
    /// Has an image come into this node's registry, to stay: from other nodes, or from another registry.
    Pull(Pull),
    /// Pushes an image into another registry; what is there already does not cross.
    Push(push::Options),
    /// Writes an image as an archive; what is not here comes from other nodes first.
    Export(Export),
    /// Lists the images that are known, here and elsewhere.
    Ls {
        /// Go on with what happens to them, an event a line, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Shows what an image is: its manifest and configuration, its parts and which are here, who has it, and what is about it.
    Inspect {
        /// The image: repository:tag or repository@digest.
        image: String,
    },
    /// Copies an image between stores of this machine, sharing its bytes where the file system can.
    Copy(copy::Options),
    /// Has nodes take an image into their registries before anybody asks for it.
    Send(Send),
    /// Has one more tag point to an image.
    Tag {
        /// The image: repository:tag or repository@digest.
        image: String,
        /// The new tag.
        tag: String,
    },
    /// Removes a tag, or an image with its tags, from this node.
    Rm {
        /// repository:tag, for the tag alone, or repository@digest.
        image: String,
    },
}

/// What to take in.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The directory of a layout, an archive, or - for standard input.
    path: PathBuf,
    /// What to call it: repository or repository:tag. Without it, the names in the archive count.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Take what is for this platform alone, as linux/arm64.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Read the archive here and stream it, for a daemon that does not see this machine's files.
    #[arg(long)]
    stream: bool,
}

/// What is to come.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The image: repository:tag or repository@digest; from another registry, with that before it, as in
    /// registry.example:5000/team/app:1.
    image: String,
    /// From another registry: what is for this platform alone, as linux/arm64.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    #[command(flatten)]
    account: Account,
}

/// What to write.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The image: repository:tag or repository@digest.
    image: String,
    /// The file, which is replaced once the archive is whole; or - for standard output.
    file: PathBuf,
    /// The form of the archive.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The form of an archive.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// A tar archive of an OCI layout.
    #[default]
    Oci,
    /// What `docker load` reads.
    Docker,
}

/// What to send to whom.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The image: repository:tag or repository@digest.
    image: String,
    /// Whom it is for: all, a node's name or endpoint id (may be given several times), or a label selector as in role=edge.
    #[arg(long, value_name = "WHO", default_value = "all")]
    to: Vec<String>,
    /// How urgent it is.
    #[arg(long, value_enum, default_value_t)]
    priority: values::Priority,
    /// How long it is tried; at most 366d.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = values::duration)]
    lifetime: Duration,
}

/// Does it.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    if let Options::Copy(options) = options {
        return copy::run(output, options.clone()).await;
    }
    let daemon = Daemon::connect(address).await?;
    match options {
        Options::Copy(_) => unreachable!("it wants no daemon"),
        Options::Import(options) => import(&daemon, output, options).await,
        Options::Export(options) => export(&daemon, output, options).await,
        Options::Pull(Pull { image, platform, account }) => {
            let (user, password) = account.credentials()?;
            let request = PullImageRequest {
                image: image.clone(),
                platform: platform.clone().unwrap_or_default(),
                insecure: account.insecure,
                user,
                password,
                ..Default::default()
            };
            let digest = pull(&daemon, output, request).await?;
            output.result(&json!({ "image": image, "digest": digest }), || format!("{image} is here: {digest}"))
        }
        Options::Push(options) => push::run(&daemon, output, options).await,
        Options::Inspect { image } => inspect::run(&daemon, output, image).await,
        Options::Ls { watch: true } => packages::run(&daemon, output).await,
        Options::Ls { watch: false } => list(&daemon, output).await,
        Options::Send(options) => send(&daemon, output, options).await,
        Options::Tag { image, tag } => {
            let request = TagImageRequest { image: image.clone(), tag: tag.clone(), ..Default::default() };
            answer(daemon.images.tag_image(request).await)?;
            output.result(&json!({ "image": image, "tag": tag }), || format!("{tag} points to {image}"))
        }
        Options::Rm { image } => {
            answer(daemon.images.delete_image(DeleteImageRequest { image: image.clone(), ..Default::default() }).await)?;
            output.result(&json!({ "image": image }), || format!("{image} is gone from this node"))
        }
    }
}

async fn import(daemon: &Daemon, output: &Output, options: &Import) -> Result<(), Failure> {
    let is_stdin = options.path == Path::new("-");
    let mut what = ImportImageOptions {
        name: options.name.clone().unwrap_or_default(),
        platform: options.platform.clone().unwrap_or_default(),
        ..Default::default()
    };
    let cannot = || Failure::io(format!("cannot read {}", options.path.display()));
    let archive: Option<Box<dyn Read + std::marker::Send>> = if is_stdin {
        Some(Box::new(std::io::stdin()))
    } else if daemon.is_local && !options.stream {
        let path = std::path::absolute(&options.path).map_err(cannot())?;
        what.path =
            path.to_str().ok_or_else(|| Failure::usage("the path is not UTF-8").hint("give it as -, or rename it"))?.into();
        None
    } else if options.path.is_dir() {
        return Err(Failure::usage(format!("{} is a directory, which cannot be streamed", options.path.display()))
            .hint(format!("tar -C {} -c . | peat-blobctl image import -", options.path.display())));
    } else {
        Some(Box::new(File::open(&options.path).map_err(cannot())?))
    };
    let imported = hand_over(daemon, output, what, archive, cannot()).await?;
    let document = json!({ "images": imported.images.iter().map(|image| json!({
        "repository": image.repository,
        "tags": image.tags,
        "digest": image.digest,
        "bytes": image.bytes,
    })).collect::<Vec<_>>() });
    output.result(&document, || {
        let rows = imported.images.iter().map(|image| {
            [image.repository.clone(), image.tags.join(", "), image.digest.clone(), HumanBytes(image.bytes).to_string()]
        });
        show::table(["repository", "tags", "digest", "size"], rows)
    })
}

fn part(part: Part) -> ImportImageRequest {
    ImportImageRequest { part: Some(part), ..Default::default() }
}

/// Says everything to the daemon, and hears meanwhile how far it is.
async fn hand_over(
    daemon: &Daemon,
    output: &Output,
    options: ImportImageOptions,
    archive: Option<Box<dyn Read + std::marker::Send>>,
    cannot_read: impl FnOnce(std::io::Error) -> Failure + std::marker::Send + 'static,
) -> Result<ImportReport, Failure> {
    let (mut say, mut answers) = daemon.images.import_image().await.map_err(|error| of_daemon(&error))?.into_split();
    let (sender, mut receiver) = mpsc::channel(4);
    let reading = tokio::task::spawn_blocking(move || {
        let mut going_on = sender.blocking_send(part(Part::Options(options.into()))).is_ok();
        let Some(mut archive) = archive else { return Ok(()) };
        // A daemon that has ended the call says why.
        while going_on {
            let mut chunk = Vec::new();
            if let Err(error) = archive.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk) {
                return Err(cannot_read(error));
            }
            going_on = !chunk.is_empty() && sender.blocking_send(part(Part::Chunk(chunk))).is_ok();
        }
        Ok(())
    });
    let saying = async {
        loop {
            let request = match timeout(awake::LONGEST_SILENCE, receiver.recv()).await {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(_) => part(Part::Chunk(Vec::new())),
            };
            if say.send(request).await.is_err() {
                break;
            }
        }
        let read = reading.await;
        // What could not be read has no end.
        if let Ok(Ok(())) = read {
            say.close_send();
        }
        read
    };
    tokio::pin!(saying);
    let mut parts = Parts::of(output);
    let mut said = false;
    loop {
        let told = tokio::select! {
            read = &mut saying, if !said => {
                said = true;
                if let Ok(Err(failure)) = read {
                    return Err(failure);
                }
                continue;
            }
            told = answers.message() => told.map_err(|error| of_daemon(&error))?,
        };
        match told.map(|told| told.to_owned_message().part) {
            Some(Some(ImportPart::Progress(progress))) => parts.show(&progress),
            Some(Some(ImportPart::Report(report))) => return Ok(*report),
            Some(None) => {}
            None => return Err(no_report("taken in")),
        }
    }
}

async fn pull(daemon: &Daemon, output: &Output, request: PullImageRequest) -> Result<String, Failure> {
    let mut answers = daemon.images.pull_image(request).await.map_err(|error| of_daemon(&error))?;
    let mut parts = Parts::of(output);
    while let Some(told) = answers.message().await.map_err(|error| of_daemon(&error))? {
        match told.to_owned_message().part {
            Some(PullPart::Progress(progress)) => parts.show(&progress),
            Some(PullPart::Report(report)) => return Ok(report.digest),
            None => {}
        }
    }
    Err(no_report("pulled"))
}

/// The daemon broke off.
pub(super) fn no_report(what: &str) -> Failure {
    Failure::new(Kind::FAILED, format!("the daemon did not say that it was {what}"))
        .hint("look at the daemon's log, then try again")
}

async fn export(daemon: &Daemon, output: &Output, options: &Export) -> Result<(), Failure> {
    let format = match options.format {
        Format::Oci => ImageFormat::IMAGE_FORMAT_OCI_ARCHIVE,
        Format::Docker => ImageFormat::IMAGE_FORMAT_DOCKER_ARCHIVE,
    };
    let request = ExportImageRequest { image: options.image.clone(), format: format.into(), ..Default::default() };
    if options.file == Path::new("-") {
        return fetch(daemon, request, |bytes| output.bytes(bytes)).await.map(drop);
    }
    let mut file = Replacement::begin(&options.file)?;
    let bytes = fetch(daemon, request, |bytes| file.write(bytes)).await?;
    file.finish()?;
    output.result(&json!({ "image": options.image, "file": options.file, "bytes": bytes }), || {
        format!("{}: {}, {}", options.file.display(), options.image, HumanBytes(bytes))
    })
}

async fn fetch(
    daemon: &Daemon,
    request: ExportImageRequest,
    mut write: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut parts = daemon.images.export_image(request).await.map_err(|error| of_daemon(&error))?;
    let mut bytes = 0;
    while let Some(part) = parts.message().await.map_err(|error| of_daemon(&error))? {
        let chunk = part.to_owned_message().chunk;
        bytes += chunk.len() as u64;
        write(&chunk)?;
    }
    Ok(bytes)
}

async fn list(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    let images = answer(daemon.images.list_images(ListImagesRequest::default()).await)?.images;
    let items = images.iter().map(image_json).collect::<Vec<_>>();
    output.list("images", &items, || {
        if images.is_empty() {
            return "no images are known here".to_owned();
        }
        let rows = images.iter().map(|image| {
            let names = image.holders.iter().zip(&image.holder_names).map(|(id, name)| show::node(name, id));
            [
                show::printable(&image.repository),
                show::printable(&image.tags.join(", ")),
                image.digest.chars().take(19).collect(),
                HumanBytes(image.bytes).to_string(),
                if image.here { "yes" } else { "no" }.to_owned(),
                names.collect::<Vec<_>>().join(", "),
            ]
        });
        show::table(["repository", "tags", "digest", "size", "here", "holders"], rows)
    })
}

fn image_json(image: &Image) -> Value {
    json!({
        "repository": image.repository,
        "tags": image.tags,
        "digest": image.digest,
        "bytes": image.bytes,
        "here": image.here,
        "holders": image.holders,
    })
}

async fn send(daemon: &Daemon, output: &Output, options: &Send) -> Result<(), Failure> {
    let scope = values::scope(&options.to).map_err(|why| Failure::usage(format!("--to: {why}")))?;
    let what = SendOptions {
        scope: values::api_scope(&scope).into(),
        priority: values::api_priority(options.priority.into()).into(),
        lifetime_millis: u64::try_from(options.lifetime.as_millis()).unwrap_or(u64::MAX),
        ..Default::default()
    };
    let request = SendImageRequest { image: options.image.clone(), options: what.into(), ..Default::default() };
    let id = answer(daemon.images.send_image(request).await)?.distribution_id;
    output.result(&json!({ "image": options.image, "distribution_id": id }), || {
        format!("{}  {}\n`peat-blobctl wait {}` waits for the receipts", id, options.image, show::short(&id))
    })
}
