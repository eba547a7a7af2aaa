//! Layers for others on the same machine, without a copy of what they may share: a tar archive in chunks, of which the large files
//! are only named (`splitdirfdstream-v0`).
//!
//! - the form: `frame` is what the bytes of a stream mean, `resolve` opens what its names stand for, `reader` puts a layer together
//!   again
//! - the making: `split` takes a tar archive apart, `build` writes what comes of it
//! - the keeping: `cache` has layers that were taken apart, `keep` their files, as long as there is room; `image`
//!   fills it with layers of the registry, `take` with what others give
//! - the handing over: `varlink` gives and takes layers over a socket
//!
//! - `copy` takes whole images from one store of this machine into another
//!
//! Everything here may block on the disk. Whoever sends a stream, and whatever it names, is hostile until the layer as a whole is what
//! its digest says. Must never change anything in the store of the blobs.

mod build;
mod cache;
pub mod copy;
mod error;
pub mod frame;
mod image;
mod keep;
mod reader;
mod resolve;
mod split;
mod take;
#[cfg(test)]
mod tests;
pub mod varlink;

pub use cache::{CacheOptions, LayerCache, LayerSource, SplitLayer};
pub use error::HandoffError;
pub use image::ImageLayer;
pub use reader::{Part, SplitReader};
pub use resolve::Directories;
pub use take::TakenLayer;
