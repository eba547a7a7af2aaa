//! The contract in its own terms, for clients that do not have it; and the services that tell it, packages `grpc.reflection.v1`
//! and `grpc.reflection.v1alpha`.

/// The first version, which every newer client asks for.
pub mod v1 {
    pub use crate::generated::grpc::reflection::v1::__buffa::oneof;
    pub use crate::generated::grpc::reflection::v1::*;
}

/// The same before it was final.
pub mod v1alpha {
    pub use crate::generated::grpc::reflection::v1alpha::__buffa::oneof;
    pub use crate::generated::grpc::reflection::v1alpha::*;
}

/// A file of the contract.
#[derive(Debug)]
pub struct File {
    /// Its name, as imports have it.
    pub name: &'static str,
    /// The names of the files that it imports.
    pub imports: &'static [&'static str],
    /// The full names of its services.
    pub services: &'static [&'static str],
    /// The full names of its services, methods, messages and enums.
    pub symbols: &'static [&'static str],
    /// It, as a `google.protobuf.FileDescriptorProto`.
    pub descriptor: &'static [u8],
}

/// Every file of the contract; what a file imports is among them.
pub static FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/files.rs"));
