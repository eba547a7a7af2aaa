//! In which images of the registry a layer is, by the digest of its plain archive: kept in memory, added to when a layer is asked for that
//! is not known. Must never be believed: who opens a layer sees that it is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::handoff::{HandoffError, ImageLayer};
use crate::oci::{Digest, Repository};
use crate::registry::{NamedPackage, Registry};

/// Most layers that are known: beyond, those of further images are not found. About 20 MB.
const MAX_LAYERS: usize = 100_000;

/// Where a layer is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) repository: Repository,
    pub(super) layer: ImageLayer,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    seen: BTreeSet<NamedPackage>,
    layers: BTreeMap<Digest, Place>,
}

impl Index {
    /// Where a layer is, if it is in an image that is here.
    pub(super) fn find(&mut self, registry: &Registry, diff_id: &Digest) -> Result<Option<Place>, HandoffError> {
        if let Some(place) = self.layers.get(diff_id) {
            if is_there(registry, place)? {
                return Ok(Some(place.clone()));
            }
            // It went with an image; others may have it as well.
            *self = Self::default();
        }
        self.look(registry)?;
        match self.layers.get(diff_id) {
            Some(place) if is_there(registry, place)? => Ok(Some(place.clone())),
            _ => Ok(None),
        }
    }

    /// Looks at images that were not looked at yet.
    fn look(&mut self, registry: &Registry) -> Result<(), HandoffError> {
        let here = registry.manifests_here()?;
        self.seen.retain(|seen| here.contains(seen));
        for named in here {
            if self.seen.contains(&named) || self.layers.len() >= MAX_LAYERS {
                continue;
            }
            // What is no image has no layers.
            if let Ok(layers) = registry.image_layers(&named.repository, &named.digest) {
                for layer in layers {
                    let place = || Place { repository: named.repository.clone(), layer: layer.clone() };
                    self.layers.entry(layer.diff_id).or_insert_with(place);
                }
            }
            self.seen.insert(named);
        }
        Ok(())
    }
}

fn is_there(registry: &Registry, place: &Place) -> Result<bool, HandoffError> {
    Ok(registry.blob(&place.repository, &place.layer.descriptor.digest)?.is_some())
}
