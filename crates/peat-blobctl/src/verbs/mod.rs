//! The verbs: each reads its options, has the library or the daemon do the work, and shows what came of it.

mod authority;
mod awake;
mod backup;
mod bars;
pub(crate) mod declare;
pub(crate) mod derive_id;
pub(crate) mod distribution;
pub(crate) mod enroll;
pub(crate) mod follow;
mod formation;
pub(crate) mod get;
pub(crate) mod identity;
pub(crate) mod image;
pub(crate) mod keygen;
pub(crate) mod limits;
pub(crate) mod list;
pub(crate) mod node;
mod nodes;
pub(crate) mod pages;
pub(crate) mod parcel;
pub(crate) mod peer;
pub(crate) mod registry;
pub(crate) mod send;
pub(crate) mod status;
pub(crate) mod stock;
pub(crate) mod store;
