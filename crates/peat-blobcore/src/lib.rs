//! A content store for fleets at the edge, whose links are denied, disrupted, intermittent and limited. Files go in at any
//! node and come out, once, whole and verified, at the nodes they are meant for; no registry, no coordinator, no internet.
//!
//! A [`Node`] is what a program embeds. Inside, data flows in one circle:
//!
//! ```text
//!   send ──▶ content ──▶ replica ◀──────▶ network ◀──────▶ other nodes
//!            (blobs)     (documents)      (one connection a peer: envelopes, hints, blocks)
//!               ▲            │                │
//!               │            ▼ what changed   ▼ who is there
//!               │          driver ── event ──▶ reconcile (pure)
//!               │            │  ◀── actions ───────┘
//!               ├── transfer ┤ fetch from a holder
//!               └▶ exchange ◀┘ deliver into the inbox ──▶ receipt ──▶ replica
//! ```
//!
//! - [`model`], [`document`], [`reconcile`], [`oci`]: pure. They read no clock, file, socket or random number; [`reconcile`] alone
//!   decides what a node does next.
//! - [`identity`], [`replica`], [`content`], [`exchange`], [`network`], [`transfer`], [`parcel`], [`registry`], [`handoff`]: effects. They decide
//!   nothing about distributions.
//! - [`Node`] and its driver wire the two.
//!
//! Dependencies point from the latter to the former only. `examples/embed.rs` is a whole program in 45 lines.
pub mod clock;
pub mod content;
mod database;
pub mod document;
mod driver;
mod error;
pub mod exchange;
mod fault;
pub mod handoff;
pub mod identity;
mod kind;
pub mod model;
pub mod network;
mod node;
pub mod oci;
pub mod parcel;
pub mod reconcile;
pub mod registry;
pub mod replica;
pub mod transfer;
mod watched;

pub use error::Error;
pub use kind::ErrorKind;
pub use network::{IdleLinks, PeerFailure};
pub use node::{
    Activity, BlobDetails, BlobFilter, BlobPage, BlobSource, DistributionStatus, Gone, ImportedBlob, Node, NodeBuilder,
    NodeEvent, NodeEvents, OutboxOptions, OutboxStatus, PackageEvent, PackageEvents, PackageStatus, ParcelReport, PeerStats,
    SendRequest, Sent, Skipped, StockTicket, Streamed, TAKEN_LIFETIME, Taken, TargetStatus, Terms, WatchedOutbox,
};
pub use reconcile::ParcelSelection;
pub use transfer::{BlockBytes, LimitError, Limits, LimitsInForce, Period, Rate, RateChange, Rates, Then, rate_or_none};
pub use watched::Watched;

/// Every place at which a test can have the process killed, and what is durable there.
#[cfg(feature = "crash-points")]
pub const CRASH_POINTS: &[(&str, &str)] = &fault::POINTS;
