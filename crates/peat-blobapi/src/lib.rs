//! The contract of the daemon's APIs: messages, service traits and clients, generated from `proto/`. Must never depend on
//! `peat-blobcore`: a client needs nothing of a node.

/// The generated code, a module for each part of a package's name.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, unreachable_pub, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}

pub use generated::peat::blob::v1 as blob;
pub use generated::peat::sidecar::v1 as sidecar;
