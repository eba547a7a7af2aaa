//! What one node asks another for that it cannot have from an upstream itself. Who is asked asks its upstreams and nobody else, so
//! that no question goes round.

use std::pin::Pin;

use bytes::Bytes;

use super::{Answer, Found};
use crate::oci::{Descriptor, Digest, Repository, Tag};

/// Bytes as they come, and why no more do.
pub type Pieces = Pin<Box<dyn n0_future::Stream<Item = Result<Bytes, String>> + Send>>;

/// What is wanted of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The repository, by the name that it has in the fleet.
    pub repository: Repository,
    /// What of it.
    pub thing: Thing,
}

/// Something that a repository has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// What a tag points to.
    Tag(Tag),
    /// A manifest.
    Manifest(Digest),
    /// A blob, from a byte on.
    Blob(Digest, u64),
}

/// What an upstream of this node has of it.
#[derive(Debug, Clone)]
pub enum Gift {
    /// What the tag points to.
    Named(Descriptor),
    /// The manifest or blob, perhaps on its way.
    Found(Found),
    /// There is no such thing, as it says.
    Nothing,
    /// No upstream can be asked for that.
    CannotAsk,
}

/// What another node gives from its upstream.
pub struct Given {
    /// What it says that it is.
    pub descriptor: Descriptor,
    /// The bytes, of a manifest or blob, from where they were asked for.
    pub pieces: Pieces,
}

/// Why other nodes give nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing, as an upstream said to one of them.
    Nothing,
    /// None of them is in reach, or has an upstream that is.
    CannotAsk,
}

/// Other nodes with upstreams.
pub trait Members: Send + Sync + 'static {
    /// Whether one of them that seems to be in reach asks an upstream for a repository.
    fn speak_for(&self, repository: &Repository) -> bool;

    /// Asks one of them; of one repository the same as others ask, as far as that can be.
    fn ask<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Result<Given, Refusal>>;
}
