//! Images and artifacts in and out: archives, layouts, other registries. Knows `oci` and `content`; must never know nodes,
//! documents or distributions.
//!
//! - [`archive`]: OCI layouts, oci-archives and docker-archives, read into the store and written from it
//! - [`remote`]: other registries, as their client (feature `http`)
//! - `closure`: what belongs to a manifest, in the order in which it is wanted
pub mod archive;
mod closure;
#[cfg(feature = "http")]
pub mod remote;
mod stream;

pub use closure::{Closure, ClosureError, matches_platform};
pub use stream::BlobStream;
