//! What belongs to a manifest: itself, what it names, and what the manifests that it names name. Reads nothing itself, so that
//! archives, the store and other registries are walked alike. Bounded, however manifests are nested.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::oci::{Descriptor, Digest, Manifest, ManifestError, Platform, media_type};

/// Most blobs of one closure, manifests included.
const MAX_BLOBS: usize = 100_000;

/// Why a closure cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    /// A manifest in it cannot be read.
    #[error("{digest}: {source}")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// Why.
        source: ManifestError,
    },
    /// More than are walked.
    #[error("it consists of more than {MAX_BLOBS} blobs")]
    TooMany,
}

/// A walk over a closure: the root first, then breadth first, each blob once.
#[derive(Debug)]
pub struct Closure {
    next: VecDeque<Descriptor>,
    /// A blob that is named as a manifest and as something else is looked at as both.
    seen: BTreeSet<(Digest, bool)>,
    /// Manifests with the manifests that they name.
    children: BTreeMap<Digest, Vec<Digest>>,
    root: Digest,
}

impl Closure {
    /// Begins at a manifest.
    #[must_use]
    pub fn of(root: Descriptor) -> Self {
        let (digest, is_manifest) = (root.digest, is_manifest(&root));
        Self { next: [root].into(), seen: [(digest, is_manifest)].into(), children: BTreeMap::new(), root: digest }
    }

    /// The next blob. Of a manifest the bytes are to be given to [`Closure::read`].
    pub fn step(&mut self) -> Option<Descriptor> {
        self.next.pop_front()
    }

    /// Takes up what a manifest names, whose bytes were held against its digest by the caller.
    ///
    /// # Errors
    /// When it is no manifest of its media type, or names too much.
    pub fn read(&mut self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Manifest, ClosureError> {
        let manifest = Manifest::parse(bytes, Some(&descriptor.media_type))
            .map_err(|source| ClosureError::Manifest { digest: descriptor.digest, source })?;
        for part in manifest.references() {
            if is_manifest(part) {
                self.children.entry(descriptor.digest).or_default().push(part.digest);
            }
            if self.seen.insert((part.digest, is_manifest(part))) {
                self.next.push_back(part.clone());
            }
        }
        if self.seen.len() > MAX_BLOBS { Err(ClosureError::TooMany) } else { Ok(manifest) }
    }

    /// The manifests that were read, each behind those that it names: the order in which a registry takes them.
    #[must_use]
    pub fn upwards(&self) -> Vec<Digest> {
        let (mut order, mut done) = (Vec::new(), BTreeSet::new());
        // A digest cannot be within what it is the digest of, so this ends; the mark of entry is for who found a way.
        let mut stack = vec![(self.root, false)];
        let mut entered = BTreeSet::new();
        while let Some((digest, children_done)) = stack.pop() {
            if children_done {
                if done.insert(digest) {
                    order.push(digest);
                }
            } else if entered.insert(digest) {
                stack.push((digest, true));
                stack.extend(self.children.get(&digest).into_iter().flatten().map(|child| (*child, false)));
            }
        }
        order
    }
}

/// Whether what is described is a manifest whose own references belong to the closure.
pub(crate) fn is_manifest(descriptor: &Descriptor) -> bool {
    media_type::is_manifest(&descriptor.media_type)
}

/// Whether an image for `offered` is what somebody means who asks for `wanted`: the same system and processor, and the same
/// variant where one is asked for. Arm's 64 bits are `v8` where nothing is said.
#[must_use]
pub fn matches_platform(wanted: &Platform, offered: &Platform) -> bool {
    let variant = |platform: &Platform| match (&platform.variant, platform.architecture.as_str()) {
        (None, "arm64") => Some("v8".to_owned()),
        (variant, _) => variant.clone().filter(|variant| !variant.is_empty()),
    };
    wanted.os == offered.os
        && wanted.architecture == offered.architecture
        && (variant(wanted).is_none() || variant(wanted) == variant(offered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sha256Digest;

    fn named(media_type: &str, byte: u8) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: Sha256Digest::from_bytes([byte; 32]).into(),
            size: 1,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
        }
    }

    fn json(descriptor: &Descriptor) -> String {
        format!(r#"{{"mediaType":"{}","digest":"{}","size":1}}"#, descriptor.media_type, descriptor.digest)
    }

    #[test]
    fn what_several_name_comes_once_and_whoever_is_named_comes_before_who_names_it() {
        let (image, config) = (named(media_type::OCI_MANIFEST, 1), named(media_type::OCI_CONFIG, 2));
        let (inner, root) = (named(media_type::OCI_INDEX, 3), named(media_type::OCI_INDEX, 4));
        let index = |list: &[&Descriptor]| {
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, list.iter().map(|it| json(it)).collect::<Vec<_>>().join(","))
        };
        let of_image = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{0}]}}"#, json(&config));
        let texts = BTreeMap::from([
            (root.digest, index(&[&image, &inner, &image])),
            (inner.digest, index(&[&image])),
            (image.digest, of_image),
        ]);
        let (mut closure, mut order) = (Closure::of(root.clone()), Vec::new());
        while let Some(next) = closure.step() {
            order.push(next.digest);
            if is_manifest(&next) {
                closure.read(&next, texts[&next.digest].as_bytes()).expect("a manifest");
            }
        }
        assert_eq!(order, [root.digest, image.digest, inner.digest, config.digest]);
        assert_eq!(closure.upwards(), [image.digest, inner.digest, root.digest]);
    }

    #[test]
    fn platforms_match_by_what_is_asked_for() {
        let platform = |architecture: &str, variant: Option<&str>| Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.map(str::to_owned),
        };
        let matches =
            |a: (&str, Option<&str>), b: (&str, Option<&str>)| matches_platform(&platform(a.0, a.1), &platform(b.0, b.1));
        assert!(matches(("amd64", None), ("amd64", Some("v2"))) && matches(("arm64", None), ("arm64", Some("v8"))));
        assert!(matches(("arm64", Some("v8")), ("arm64", None)) && matches(("arm", None), ("arm", Some("v7"))));
        assert!(!matches(("arm", Some("v6")), ("arm", Some("v7"))) && !matches(("amd64", None), ("arm64", None)));
    }
}
