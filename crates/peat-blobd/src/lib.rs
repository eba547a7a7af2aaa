//! The daemon: configuration, sockets and signals around one node of `peat-blobcore`.
pub mod config;

pub use config::Config;
