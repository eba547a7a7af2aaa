//! The contract of the daemon's API. Today it holds the names of its two protobuf packages; the messages, the generated
//! code and a typed client are to come. Must never depend on `peat-blobcore`.

/// The package of the attachment API that clients of this field already call.
pub const ATTACHMENT_PACKAGE: &str = "peat.sidecar.v1";
/// The package of the API of our own.
pub const PACKAGE: &str = "peat.blob.v1";
