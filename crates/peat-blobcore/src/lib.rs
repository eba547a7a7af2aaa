//! A content store for fleets at the edge whose links are disrupted: files go in at any node and come out, once, whole and
//! verified, at the nodes they are meant for.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod clock;
pub mod content;
pub mod document;
mod error;
pub mod exchange;
mod fault;
pub mod identity;
pub mod model;
pub mod reconcile;
pub mod replica;
pub mod transfer;

pub use error::ErrorKind;
