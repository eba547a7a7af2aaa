//! In which images of the registry a layer is, by the digest of its plain archive: kept in memory, added to when a layer is asked for that
//! is not known. Must never be believed: who opens a layer sees that it is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::handoff::{HandoffError, ImageLayer};
use crate::oci::{Digest, Repository};
use crate::registry::{NamedPackage, Registry};

/// Most layers that are known: beyond, those of further images are not found. About 20 MB.
const MAX_LAYERS: usize = 100_000;
/// Most places of one layer.
const MAX_PLACES: usize = 4;
/// Most places that were found to have something else.
const MAX_DISTRUSTED: usize = 10_000;

/// Where a layer is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) repository: Repository,
    pub(super) layer: ImageLayer,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    seen: BTreeSet<NamedPackage>,
    layers: BTreeMap<Digest, Vec<Place>>,
    /// By the plain archive and the blob that is not it, whatever an image says.
    distrusted: BTreeSet<(Digest, Digest)>,
}

impl Index {
    /// Where a layer is, if it is in images that are here.
    pub(super) fn find(&mut self, registry: &Registry, diff_id: &Digest) -> Result<Vec<Place>, HandoffError> {
        if let Some(places) = self.layers.get(diff_id) {
            let there = there(registry, places)?;
            if !there.is_empty() {
                return Ok(there);
            }
            // It went with an image; others may have it as well.
            (self.seen, self.layers) = Default::default();
        }
        self.look(registry)?;
        self.layers.get(diff_id).map_or(Ok(Vec::new()), |places| there(registry, places))
    }

    /// What is at a place is not that layer.
    pub(super) fn distrust(&mut self, diff_id: &Digest, place: &Place) {
        let blob = place.layer.descriptor.digest;
        if self.distrusted.len() < MAX_DISTRUSTED {
            self.distrusted.insert((*diff_id, blob));
        }
        if let Some(places) = self.layers.get_mut(diff_id) {
            places.retain(|place| place.layer.descriptor.digest != blob);
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
                    let places = self.layers.entry(layer.diff_id).or_default();
                    let blob = layer.descriptor.digest;
                    let is_known = places.iter().any(|place| place.layer.descriptor.digest == blob);
                    if !is_known && places.len() < MAX_PLACES && !self.distrusted.contains(&(layer.diff_id, blob)) {
                        places.push(Place { repository: named.repository.clone(), layer });
                    }
                }
            }
            self.seen.insert(named);
        }
        Ok(())
    }
}

/// Those of some places that have it still.
fn there(registry: &Registry, places: &[Place]) -> Result<Vec<Place>, HandoffError> {
    let mut there = Vec::new();
    for place in places {
        if registry.blob(&place.repository, &place.layer.descriptor.digest)?.is_some() {
            there.push(place.clone());
        }
    }
    Ok(there)
}
