//! The words of the Open Container Initiative: digests, names, and the manifests that tie blobs together. Pure parsing, total
//! on hostile bytes; what is done with them is `registry`'s.
//!
//! Sources: image-spec 1.1 (`descriptor.md`, `manifest.md`, `image-index.md`), distribution-spec 1.1 ("Pulling manifests"),
//! and Docker's "Image Manifest Version 2, Schema 2".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod config;
mod digest;
mod manifest;
pub mod media_type;
mod name;

pub use config::{ConfigError, diff_ids};
pub use digest::{Algorithm, Digest, DigestError, DigestHasher};
pub use manifest::{Descriptor, MAX_MANIFEST_BYTES, Manifest, ManifestError, ManifestKind, Platform};
pub use name::{ImageReference, NameError, Reference, Repository, Tag};
