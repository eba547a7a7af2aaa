//! `image ls --watch`: what there is of packages, and what happens to them, an event a line.

use indicatif::HumanBytes;
use peat_blobapi::blob::watch_packages_response::Event;
use peat_blobapi::blob::{PackageAt, WatchPackagesRequest, WatchPackagesResponse};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::failure::{Failure, Kind, of_daemon};
use crate::output::Output;
use crate::show;

/// Follows packages until interrupted.
pub(super) async fn run(daemon: &Daemon, output: &Output) -> Result<(), Failure> {
    let request = WatchPackagesRequest::default();
    let mut events = daemon.images.watch_packages(request).await.map_err(|error| of_daemon(&error))?;
    while let Some(event) = events.message().await.map_err(|error| of_daemon(&error))? {
        let event = event.to_owned_message();
        output.event(&document(&event), || text(&event))?;
        if output.is_closed() {
            return Ok(());
        }
    }
    Err(Failure::new(Kind::UNREACHABLE, "the daemon ended").hint("start it again; what it has is kept"))
}

fn package_json(package: &PackageAt) -> Value {
    json!({ "repository": package.repository, "digest": package.digest, "distribution_id": package.distribution_id })
}

fn document(event: &WatchPackagesResponse) -> Value {
    let (name, mut document) = match &event.event {
        Some(Event::Claimed(it)) => {
            let mut document = package_json(&it.package);
            document["importer"] = it.importer.clone().into();
            document["bytes"] = it.bytes.into();
            ("claimed", document)
        }
        Some(Event::Withdrawn(it)) => ("withdrawn", package_json(it)),
        Some(Event::State(it)) => {
            let mut document = package_json(&it.package);
            document["endpoint_id"] = it.endpoint_id.clone().into();
            document["state"] = it.state.clone().into();
            document["bytes"] = it.bytes.into();
            ("state", document)
        }
        Some(Event::Progress(it)) => {
            let mut document = package_json(&it.package);
            document["endpoint_id"] = it.endpoint_id.clone().into();
            document["bytes"] = it.bytes.into();
            ("progress", document)
        }
        Some(Event::Tag(it)) => {
            ("tag", json!({ "repository": it.repository, "tag": it.tag, "digest": it.digest, "set_by": it.set_by }))
        }
        Some(Event::Here(it)) => ("here", json!({ "repository": it.repository, "digest": it.digest, "here": it.here })),
        Some(Event::Missed(count)) => ("missed", json!({ "count": count })),
        None => ("unknown", json!({})),
    };
    document["event"] = name.into();
    document["sequence"] = event.sequence.into();
    document
}

fn name(repository: &str, digest: &str) -> String {
    format!("{}@{}", show::printable(repository), digest.chars().take(19).collect::<String>())
}

fn text(event: &WatchPackagesResponse) -> String {
    let of = |package: &PackageAt| name(&package.repository, &package.digest);
    match &event.event {
        Some(Event::Claimed(it)) => {
            format!("{}  {} at {}", of(&it.package), HumanBytes(it.bytes), show::short(&it.importer))
        }
        Some(Event::Withdrawn(it)) => format!("{}  told of no more by {}", of(it), show::short(&it.distribution_id)),
        Some(Event::State(it)) => {
            let state = show::printable(&it.state);
            format!("{}  {state} at {}, {}", of(&it.package), show::short(&it.endpoint_id), HumanBytes(it.bytes))
        }
        Some(Event::Progress(it)) => {
            format!("{}  {} at {}", of(&it.package), HumanBytes(it.bytes), show::short(&it.endpoint_id))
        }
        Some(Event::Tag(it)) if it.digest.is_empty() => {
            format!("{}:{}  removed", show::printable(&it.repository), show::printable(&it.tag))
        }
        Some(Event::Tag(it)) => {
            let digest = it.digest.chars().take(19).collect::<String>();
            format!("{}:{}  points to {digest}", show::printable(&it.repository), show::printable(&it.tag))
        }
        Some(Event::Here(it)) if it.here => format!("{}  is here", name(&it.repository, &it.digest)),
        Some(Event::Here(it)) => format!("{}  is not here any more", name(&it.repository, &it.digest)),
        Some(Event::Missed(count)) => format!("{} missed", show::count(*count, "change")),
        None => "something that this version does not know".to_owned(),
    }
}
