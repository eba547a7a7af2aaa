//! Images and artifacts of the OCI, in and out of a node.
//!
//! - `claims`: what others say that they have
mod claims;

pub(crate) use claims::blob as claimed_blob;
pub use claims::{Claim, Claimed, ClaimedBlob, Claims};
