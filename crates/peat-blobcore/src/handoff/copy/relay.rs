//! Images between stores that keep layers unpacked, layer by layer: composefs repositories, and ours as one.

use super::CopyError;
use crate::handoff::varlink::wire::{LayerRef, PutLayerReport};
use crate::handoff::varlink::{Client, Refusal, VarlinkError, WhichRepository};
use crate::oci::{Digest, diff_ids};

/// A repository of a service that speaks of layers, closed when it is dropped.
#[derive(Debug)]
pub struct LayerStore {
    /// The service.
    client: Client,
    /// Which of its repositories.
    handle: u64,
    /// The file system (`st_dev`) of that one's files, as far as the service says.
    device: Option<u64>,
}

impl LayerStore {
    /// Opens a repository of a service.
    ///
    /// # Errors
    /// As [`Client::open_repository`].
    pub fn open(mut client: Client, which: &WhichRepository) -> Result<Self, VarlinkError> {
        let opened = client.open_repository(which)?;
        Ok(Self { client, handle: opened.handle, device: opened.objects_device_id })
    }
}

impl Drop for LayerStore {
    // Composefs's service keeps what a connection opened, descriptors and all, until it ends itself.
    fn drop(&mut self) {
        self.client.leave_repository(self.handle);
    }
}

/// What a copy of layers did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The image's digest where it is now; another than it had where its layers had to be named anew, as plain archives.
    pub digest: Digest,
    /// Layers that were there.
    pub layers_present: u64,
    /// Files of layers whose blocks are shared.
    pub reflinked: u64,
    /// Files that have one more name.
    pub hard_linked: u64,
    /// Files that were copied.
    pub copied: u64,
    /// Files that were there.
    pub present: u64,
    /// Manifests about the image (signatures) that stay behind: there is no call for them.
    pub left_behind: u64,
}

/// Copies an image from one service to another, where it is called `name`; its bytes do not come by here. With `zerocopy` the other
/// refuses what it would have to copy. `progress` hears of each layer, by its diff_id, when it is there. Blocks.
///
/// # Errors
/// [`CopyError::Apart`] with `zerocopy` between file systems, and [`CopyError::Varlink`] with what a service says; then nothing
/// has the name that had not.
pub fn relay(
    from: &mut LayerStore,
    to: &mut LayerStore,
    (image, name): (&str, &str),
    zerocopy: bool,
    progress: &mut dyn FnMut(&Digest),
) -> Result<Relayed, CopyError> {
    let inspected = from.client.inspect(from.handle, image).map_err(|error| match error {
        VarlinkError::Refused(Refusal::NoSuchImage { image }) => CopyError::NoImage(image),
        error => error.into(),
    })?;
    let senseless = |why: String| CopyError::from(VarlinkError::Senseless(why));
    let diff_ids = diff_ids(inspected.config.as_bytes()).map_err(|error| senseless(error.to_string()))?;
    let (mut layers, mut done) = (Vec::new(), [0; 4]);
    let mut layers_present = 0;
    for diff_id in diff_ids {
        let layer_verity = match to.client.has_layer(to.handle, &diff_id)? {
            Some(verity) => {
                layers_present += 1;
                verity
            }
            None => {
                // Some services find out in the midst of it, and call it a failure.
                if zerocopy && from.device.zip(to.device).is_some_and(|(from, to)| from != to) {
                    return Err(CopyError::Apart);
                }
                let layer = from.client.get_layer(from.handle, &diff_id)?;
                let put: PutLayerReport = to.client.relay_layer(to.handle, &diff_id, zerocopy, layer)?;
                let counts = [put.objects_reflinked, put.objects_hardlinked, put.objects_copied, put.objects_already_present];
                for (sum, more) in done.iter_mut().zip(counts) {
                    *sum += more;
                }
                put.layer_verity
            }
        };
        progress(&diff_id);
        layers.push(LayerRef { diff_id: diff_id.to_string(), layer_verity });
    }
    let made = to.client.finalize_image(to.handle, &inspected.manifest, &inspected.config, &layers, Some(name))?;
    let digest = made.manifest_digest.parse().map_err(|error| senseless(format!("{}: {error}", made.manifest_digest)))?;
    let [reflinked, hard_linked, copied, present] = done;
    let left_behind = inspected.referrers.len() as u64;
    Ok(Relayed { digest, layers_present, reflinked, hard_linked, copied, present, left_behind })
}
