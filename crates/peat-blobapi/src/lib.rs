//! The contract of the daemon's APIs: messages, service traits and clients, generated from `proto/`. Must never depend on
//! `peat-blobcore`: a client needs nothing of a node.

pub mod reflection;
#[cfg(feature = "tls")]
pub mod tls;

/// The response header in which the daemon names the kind of an error: failed, usage, not found, unreachable, timed out,
/// integrity, refused or no space. A stream has it among its trailers.
pub const KIND_HEADER: &str = "peat-blob-error-kind";
/// The response header in which it says what to do about an error, where there is something to do.
pub const HINT_HEADER: &str = "peat-blob-hint";

/// The generated code, a module for each part of a package's name.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}

/// The API of our own: package `peat.blob.v1`.
pub mod blob {
    pub use super::generated::peat::blob::v1::__buffa::oneof;
    pub use super::generated::peat::blob::v1::*;
}

/// How a daemon is, in the words of gRPC: package `grpc.health.v1`.
pub mod health {
    pub use super::generated::grpc::health::v1::*;
}

/// The attachment API that clients of this field already call: package `peat.sidecar.v1`.
pub mod sidecar {
    pub use super::generated::peat::sidecar::v1::__buffa::oneof;
    pub use super::generated::peat::sidecar::v1::*;
}
