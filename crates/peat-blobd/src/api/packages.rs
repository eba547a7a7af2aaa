//! Images to look at, and what happens to packages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use n0_future::stream;
use peat_blobapi::blob::{self, oneof::watch_packages_response::Event};
use peat_blobcore::oci::{Descriptor, Digest, Platform, Repository};
use peat_blobcore::registry::{Inspection, NamedPackage};
use peat_blobcore::{Error, PackageEvent, PackageEvents};

use super::Daemon;
use super::blobs::blocking;
use super::errors::failed;

/// How long the manifest and the configuration of an image are waited for that other nodes have.
const PATIENCE: Duration = Duration::from_secs(60);

impl Daemon {
    /// The images that are known and asked for, by their names.
    pub(super) async fn images(
        &self,
        wanted: impl Fn(&Repository, &Digest) -> bool,
    ) -> Result<BTreeMap<(Repository, Digest), blob::Image>, ConnectError> {
        let node = &self.node;
        let names: BTreeMap<_, _> = node.members().into_iter().map(|(id, record)| (id, record.name)).collect();
        let mut packages = node.packages().await.map_err(failed)?;
        packages.retain(|package| wanted(&package.repository, &package.digest));
        let registry = node.registry().clone();
        blocking(move || {
            // Several may speak of one image, and one may have sent it several times.
            let mut images: BTreeMap<_, blob::Image> = BTreeMap::new();
            for package in packages {
                let here = registry.describe(&package.repository, &package.digest)?.is_some();
                let image = images.entry((package.repository.clone(), package.digest)).or_default();
                let mut holders: BTreeSet<_> = image.holders.drain(..).collect();
                holders.extend(package.holders.iter().map(ToString::to_string));
                image.repository = package.repository.to_string();
                image.tags = package.tags.iter().map(ToString::to_string).collect();
                image.digest = package.digest.to_string();
                image.bytes = package.size;
                image.here = here;
                let name_of = |id: &String| id.parse().ok().and_then(|id| names.get(&id).cloned()).unwrap_or_default();
                image.holder_names = holders.iter().map(name_of).collect();
                image.holders = holders.into_iter().collect();
            }
            Ok(images)
        })
        .await
    }

    /// Looks at an image.
    pub(super) async fn inspect(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<blob::InspectImageResponse, ConnectError> {
        let looked = tokio::select! {
            looked = tokio::time::timeout(PATIENCE, self.node.registry().inspect(repository, &digest)) => looked,
            () = self.stopped() => return Err(failed(Error::Stopped)),
        };
        let late = || failed(Error::TimedOut(format!("{repository}@{digest} has not come from other nodes")));
        let Inspection { stored, manifest, config, parts, referrers } = looked.map_err(|_| late())?.map_err(failed)?;
        let is_it = |of: &Repository, found: &Digest| of == repository && *found == digest;
        let known = self.images(is_it).await?.into_values().next();
        // One that nobody was told of has no tag and no other holder.
        let image = known.unwrap_or_else(|| blob::Image {
            repository: repository.to_string(),
            digest: digest.to_string(),
            bytes: stored.bytes.len() as u64 + parts.iter().map(|part| part.descriptor.size).sum::<u64>(),
            ..Default::default()
        });
        let (registry, within) = (self.node.registry().clone(), repository.clone());
        let here = blocking(move || Ok(registry.describe(&within, &digest)?.is_some())).await?;
        Ok(blob::InspectImageResponse {
            image: blob::Image { here, ..image }.into(),
            media_type: stored.media_type,
            manifest: stored.bytes,
            config: config.unwrap_or_default(),
            artifact_type: manifest.artifact_type.unwrap_or_default(),
            subject: manifest.subject.map(|subject| subject.digest.to_string()).unwrap_or_default(),
            parts: parts
                .into_iter()
                .map(|part| blob::ImagePart {
                    digest: part.descriptor.digest.to_string(),
                    platform: part.descriptor.platform.as_ref().map(platform_text).unwrap_or_default(),
                    media_type: part.descriptor.media_type,
                    size: part.descriptor.size,
                    named_by: part.named_by.to_string(),
                    here: part.here,
                    ..Default::default()
                })
                .collect(),
            referrers: referrers.into_iter().map(referrer).collect(),
            ..Default::default()
        })
    }
}

fn platform_text(platform: &Platform) -> String {
    let Platform { architecture, os, variant } = platform;
    let variant = variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{os}/{architecture}{variant}")
}

fn referrer(found: Descriptor) -> blob::Referrer {
    blob::Referrer {
        digest: found.digest.to_string(),
        media_type: found.media_type,
        artifact_type: found.artifact_type.unwrap_or_default(),
        size: found.size,
        ..Default::default()
    }
}

/// What happens to packages, of one repository or of all, until the daemon ends.
pub(super) fn watch(
    daemon: Arc<Daemon>,
    events: PackageEvents,
    only: Option<Repository>,
) -> ServiceStream<blob::WatchPackagesResponse> {
    Box::pin(stream::unfold(Some((daemon, events, only, 0_u64)), |state| async move {
        let (daemon, mut events, only, sequence) = state?;
        loop {
            let event = tokio::select! {
                event = events.next() => match event {
                    Ok(event) => event?,
                    Err(error) => return Some((Err(failed(error)), None)),
                },
                () = daemon.stopped() => return None,
            };
            if let Some(event) = message(event, only.as_ref()) {
                let response = blob::WatchPackagesResponse { sequence, event: Some(event), ..Default::default() };
                return Some((Ok(response), Some((daemon, events, only, sequence + 1))));
            }
        }
    }))
}

/// An event in the contract's words, if it is wanted. What was missed is always told.
fn message(event: PackageEvent, only: Option<&Repository>) -> Option<Event> {
    let wanted = |repository: &Repository| only.is_none_or(|only| only == repository);
    let at = |package: NamedPackage, distribution: peat_blobcore::model::DistributionId| {
        wanted(&package.repository).then(|| blob::PackageAt {
            repository: package.repository.to_string(),
            digest: package.digest.to_string(),
            distribution_id: distribution.to_string(),
            ..Default::default()
        })
    };
    Some(match event {
        PackageEvent::Claimed { distribution, package, importer, size } => {
            let package = at(package, distribution)?.into();
            blob::PackageClaimed { package, importer: importer.to_string(), bytes: size, ..Default::default() }.into()
        }
        PackageEvent::Withdrawn { distribution, package } => Event::Withdrawn(Box::new(at(package, distribution)?)),
        PackageEvent::State { distribution, package, node, state, bytes } => {
            let package = at(package, distribution)?.into();
            let (endpoint_id, state) = (node.to_string(), state.to_string());
            blob::PackageState { package, endpoint_id, state, bytes, ..Default::default() }.into()
        }
        PackageEvent::Progress { distribution, package, node, bytes } => {
            let package = at(package, distribution)?.into();
            blob::PackageProgress { package, endpoint_id: node.to_string(), bytes, ..Default::default() }.into()
        }
        PackageEvent::Tag { repository, tag, digest, set_by } => {
            if !wanted(&repository) {
                return None;
            }
            let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
            let (repository, tag, set_by) = (repository.to_string(), tag.to_string(), set_by.to_string());
            blob::TagMoved { repository, tag, digest, set_by, ..Default::default() }.into()
        }
        PackageEvent::Here { package, here } => {
            if !wanted(&package.repository) {
                return None;
            }
            let (repository, digest) = (package.repository.to_string(), package.digest.to_string());
            blob::PackageHere { repository, digest, here, ..Default::default() }.into()
        }
        PackageEvent::Missed(count) => Event::Missed(count),
    })
}
