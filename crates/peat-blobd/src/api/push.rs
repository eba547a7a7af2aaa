//! Images of this node into other registries: by the native API, from the attachment API, and as the export of a blob.

use std::sync::Arc;

use connectrpc::ConnectError;
use peat_blobapi::blob::RegistryTarget;
use peat_blobcore::Error;
use peat_blobcore::oci::{Digest, ImageReference, Repository};
use peat_blobcore::registry::remote::{Credentials, Pushed, Remote};

use super::Daemon;
use super::blobs::blocking;
use super::errors::{failed, invalid};
use super::images::remote_of;
use super::progress::{Told, Work};

/// Where an image goes.
pub(super) struct Target {
    remote: Remote,
    pub(super) image: ImageReference,
    mount_from: Vec<Repository>,
}

impl Target {
    pub(super) fn parse(field: &str, target: RegistryTarget) -> Result<Self, ConnectError> {
        let reference = format!("{field}.reference");
        let image: ImageReference = target.reference.parse().map_err(|why| invalid(&reference, why))?;
        let Some(host) = image.registry.clone() else {
            return Err(invalid(&reference, "name the registry too: registry.example/team/app:1"));
        };
        let password = target.password;
        let credentials = Some(target.user).filter(|user| !user.is_empty()).map(|user| Credentials::Basic { user, password });
        let mount = |name: &String| name.parse().map_err(|why| invalid(&format!("{field}.mount_from"), why));
        let mount_from = target.mount_from.iter().map(mount).collect::<Result<_, _>>()?;
        Ok(Self { remote: remote_of(&host, target.insecure, credentials)?, image, mount_from })
    }

    /// What is called nothing there has the tag, or digest, that it has here.
    pub(super) fn name_like(&mut self, here: &ImageReference) {
        if self.image.tag.is_none() && self.image.digest.is_none() {
            (self.image.tag, self.image.digest) = (here.tag.clone(), here.digest);
        }
    }

    /// Pushes a manifest of a repository of this node with all that belongs to it. Who stops waiting does not stop it.
    pub(super) fn push(self, daemon: Arc<Daemon>, repository: Repository, digest: Digest, told: Arc<Told>) -> Work<Pushed> {
        Box::pin(async move {
            let (registry, runtime) = (daemon.node.registry().clone(), tokio::runtime::Handle::current());
            let push = blocking(move || {
                let hear = |part: &_, step| told.part(part, step);
                Ok(registry.push(&repository, &digest, &self.remote, &self.image, &self.mount_from, &hear, &runtime)?)
            });
            tokio::select! {
                pushed = push => pushed,
                () = daemon.stopped() => Err(failed(Error::Stopped)),
            }
        })
    }
}
