//! `image push`: an image of the node into another registry, with a bar for each of its parts.

use clap::Args;
use indicatif::HumanBytes;
use peat_blobapi::blob::{PushImageRequest, PushReport, oneof::push_image_response::Part};
use peat_blobcore::oci::ImageReference;
use serde_json::json;

use super::account::Account;
use super::image;
use super::parts::Parts;
use crate::daemon::Daemon;
use crate::failure::{Failure, of_daemon};
use crate::output::Output;
use crate::show;

/// What is to go where.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The image: repository:tag or repository@digest. Without a second name it has the registry before it, as in
    /// registry.example:5000/team/app:1, and is called the same there.
    image: String,
    /// What it is called there, registry and all. Without a tag it has the one that it has here.
    to: Option<String>,
    /// A repository there whose blobs may be mounted instead of sent (may be given several times).
    #[arg(long, value_name = "REPOSITORY")]
    mount_from: Vec<String>,
    #[command(flatten)]
    account: Account,
}

/// Pushes it.
pub(super) async fn run(daemon: &Daemon, output: &Output, options: &Options) -> Result<(), Failure> {
    let (image, to) = names(&options.image, options.to.as_deref())?;
    let mut target = options.account.target(&to)?;
    target.mount_from.clone_from(&options.mount_from);
    let request = PushImageRequest { image: image.clone(), target: target.into(), ..Default::default() };
    let report = follow(daemon, output, request).await?;
    let document = json!({
        "image": image,
        "to": to,
        "digest": report.digest,
        "sent": report.sent,
        "bytes": report.bytes,
        "mounted": report.mounted,
        "present": report.present,
    });
    output.result(&document, || {
        let (sent, present) = (show::count(report.sent, "part"), report.present + report.mounted);
        format!("{to}: {}, {sent} sent ({}), {present} there before", report.digest, HumanBytes(report.bytes))
    })
}

/// What it is called here, and there.
fn names(image: &str, to: Option<&str>) -> Result<(String, String), Failure> {
    if let Some(to) = to {
        return Ok((image.to_owned(), to.to_owned()));
    }
    let named: ImageReference = image.parse().map_err(|why| Failure::usage(format!("{image}: {why}")))?;
    if named.registry.is_none() {
        return Err(Failure::usage("it is not said to which registry")
            .hint(format!("peat-blobctl image push {image} registry.example:5000/{image}")));
    }
    Ok((ImageReference { registry: None, ..named }.to_string(), image.to_owned()))
}

async fn follow(daemon: &Daemon, output: &Output, request: PushImageRequest) -> Result<PushReport, Failure> {
    let mut answers = daemon.images.push_image(request).await.map_err(|error| of_daemon(&error))?;
    let mut parts = Parts::of(output);
    while let Some(told) = answers.message().await.map_err(|error| of_daemon(&error))? {
        match told.to_owned_message().part {
            Some(Part::Progress(progress)) => parts.show(&progress),
            Some(Part::Report(report)) => return Ok(*report),
            None => {}
        }
    }
    Err(image::no_report("pushed"))
}
