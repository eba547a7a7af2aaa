//! Images from one store of this machine into another: their bytes are shared where the file system can, and copied only where they
//! may be. Every byte is held against its digest by the store that takes it, and an image has its name there when all of it is there.
//!
//! - `store` is what a store has to do; `registry` and `layout` are two kinds; `readdress` gives an image digests of another function
//! - `relay` copies layer by layer, between repositories of composefs and ours

mod error;
mod layout;
mod readdress;
mod registry;
mod relay;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use error::CopyError;
pub use layout::LayoutStore;
pub use registry::RegistryStore;
pub use relay::{LayerStore, Relayed, relay};
pub use store::{ImageStore, Opened};

use crate::content::{MAX_INLINE_BYTES, Shared, Sharing};
use crate::oci::{Algorithm, Descriptor, Digest, ImageReference};
use crate::registry::{Closure, is_manifest};
use readdress::Readdressed;

/// What is wanted of a copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Whether bytes may be copied. What both stores keep in documents and indexes (16 KiB and less, and manifests) is not counted
    /// as bytes that could be shared.
    pub sharing: Sharing,
    /// The function whose digests the copy is to have. Where the image has others, its manifests are written anew, and it has another
    /// digest.
    pub algorithm: Option<Algorithm>,
}

/// How a blob or manifest came to be where it was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Came {
    /// It was there.
    Present,
    /// Somehow from the other store.
    By(Shared),
}

/// How many, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Blobs and manifests.
    pub parts: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The image's digest where it is now.
    pub digest: Digest,
    /// How its parts came, with those of what is about it (signatures).
    pub parts: BTreeMap<Came, Count>,
}

impl Copied {
    /// How many parts came in this way.
    #[must_use]
    pub fn count(&self, came: Came) -> Count {
        self.parts.get(&came).copied().unwrap_or_default()
    }
}

/// Copies an image or artifact, and what is about it, from one store into another, where it is called `name`: its repository, and its tag if
/// it has one. `progress` hears of each part when it is there. Blocks.
///
/// # Errors
/// [`CopyError`]; then nothing has the name that had not, and what came is dropped, or found there by the next copy.
pub fn copy(
    from: &mut dyn ImageStore,
    to: &mut dyn ImageStore,
    (image, name): (&ImageReference, &ImageReference),
    options: CopyOptions,
    progress: &mut dyn FnMut(&Descriptor, Came),
) -> Result<Copied, CopyError> {
    let (root, bytes) = from.find(image)?;
    // Nobody has held it against anything yet.
    if !root.digest.is_of(&bytes) || image.digest.is_some_and(|asked| asked != root.digest) {
        return Err(CopyError::Mismatch(Box::new(image.digest.unwrap_or(root.digest))));
    }
    let about = from.about(&image.repository, &root.digest)?;
    let mut copy = Copy { from, to, image, name, options, readdressed: Readdressed::default(), parts: BTreeMap::new(), progress };
    let (root, bytes) = copy.one(root, bytes, false)?;
    for root in about {
        let bytes = copy.manifest(&root)?;
        copy.one(root, bytes, true)?;
    }
    // Last of all: an image has no name without its signatures.
    copy.to.put_manifest(&name.repository, &root, &bytes, true, name.tag.as_ref())?;
    Ok(Copied { digest: root.digest, parts: copy.parts })
}

/// A copy that is under way.
struct Copy<'a> {
    from: &'a mut dyn ImageStore,
    to: &'a mut dyn ImageStore,
    image: &'a ImageReference,
    name: &'a ImageReference,
    options: CopyOptions,
    readdressed: Readdressed,
    parts: BTreeMap<Came, Count>,
    progress: &'a mut dyn FnMut(&Descriptor, Came),
}

impl Copy<'_> {
    /// Copies what belongs to a manifest, and then the manifests, each after what it names. Returns the first as it is there.
    fn one(&mut self, root: Descriptor, bytes: Vec<u8>, is_root: bool) -> Result<(Descriptor, Vec<u8>), CopyError> {
        let (mut closure, mut first) = (Closure::of(root.clone()), Some(bytes));
        let mut manifests = BTreeMap::new();
        while let Some(part) = closure.step() {
            if is_manifest(&part) {
                let bytes = match first.take() {
                    Some(bytes) => bytes,
                    None => self.manifest(&part)?,
                };
                closure.read(&part, &bytes)?;
                manifests.insert(part.digest, (part, bytes));
            } else {
                self.blob(part)?;
            }
        }
        for digest in closure.upwards() {
            let Some((part, bytes)) = manifests.remove(&digest) else { continue };
            let (part, bytes) = self.readdressed.manifest(part, bytes, self.options.algorithm)?;
            let came = match self.to.has(&self.name.repository, &part)? {
                true => Came::Present,
                false => Came::By(Shared::Copied),
            };
            let is_first = digest == root.digest;
            // The image itself comes last of all, with its name.
            let is_due = if is_first { is_root } else { came != Came::Present };
            if is_due {
                self.to.put_manifest(&self.name.repository, &part, &bytes, is_first, None)?;
            }
            self.count(&part, came);
            if is_first {
                return Ok((part, bytes));
            }
        }
        unreachable!("a walk ends with where it began")
    }

    fn manifest(&mut self, part: &Descriptor) -> Result<Vec<u8>, CopyError> {
        self.from.open(&self.image.repository, part)?.read_manifest(part)
    }

    fn blob(&mut self, original: Descriptor) -> Result<(), CopyError> {
        let mut part = original.clone();
        if let Some(algorithm) = self.options.algorithm.filter(|wanted| *wanted != part.digest.algorithm()) {
            let opened = self.from.open(&self.image.repository, &original)?;
            // Damage would be right for good by the other function.
            if opened.digest(&original, original.digest.algorithm())? != original.digest {
                return Err(CopyError::Mismatch(Box::new(original.digest)));
            }
            let digest = opened.digest(&original, algorithm)?;
            part = self.readdressed.blob(part, digest);
        }
        if self.to.has(&self.name.repository, &part)? {
            self.count(&part, Came::Present);
            return Ok(());
        }
        let opened = self.from.open(&self.image.repository, &original)?;
        let sharing = if part.size <= MAX_INLINE_BYTES { Sharing::WherePossible } else { self.options.sharing };
        let shared = self.to.put(&self.name.repository, &part, opened, sharing)?;
        self.count(&part, Came::By(shared));
        Ok(())
    }

    fn count(&mut self, part: &Descriptor, came: Came) {
        let count = self.parts.entry(came).or_default();
        count.parts += 1;
        count.bytes += part.size;
        (self.progress)(part, came);
    }
}
