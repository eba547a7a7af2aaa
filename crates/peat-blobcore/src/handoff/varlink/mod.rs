//! Layers between stores on one machine over a Unix socket: `org.composefs.Oci` and `org.composefs.Repository` of composefs 0.9, in
//! varlink (<https://varlink.org>), with descriptors beside the messages.
//!
//! - `message` is what bytes mean (pure), `wait` and `link` bring them across, `wire` is what calls take and give
//! - [`Client`] calls such a service; [`Service`] is one, over the node's registry and a cache of split layers
//! - `store` is the other process's registry blob by blob (`peat.blob.Store`), for copies of images
//!
//! Everything here blocks. Whoever is on the other side is hostile until shown otherwise, although it is the same user: bytes, descriptors
//! and time are bounded on both sides.

mod client;
mod error;
mod interface;
mod link;
pub mod message;
mod service;
mod store;
mod wait;
pub mod wire;

pub use client::{Client, ClientOptions, OpenLayer, ReceivedLayer, WhichRepository};
pub use error::VarlinkError;
pub use message::MessageError;
pub use service::{Service, ServiceOptions};
pub use store::RemoteStore;
pub use wire::Refusal;

/// The interface of images and their layers.
pub const OCI: &str = "org.composefs.Oci";
/// The interface of blobs as they travel.
pub const STORE: &str = "peat.blob.Store";
/// The interface of repositories.
pub const REPOSITORY: &str = "org.composefs.Repository";
/// The interface that every service of varlink has.
pub const SERVICE: &str = "org.varlink.service";
