//! Several elsewheres as one, asked in a fixed order: what lies beside the node, then the mesh, then an upstream. Must never let a
//! later one answer for content that an earlier one has.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::{Answer, Arriving, Change, Elsewhere, Found, Named};
use crate::oci::{Descriptor, Digest, Repository, Tag};

/// Where in the order an elsewhere is asked: the cheapest way to the bytes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Files beside the node.
    Sideload,
    /// Other nodes.
    Mesh,
    /// Another registry.
    Upstream,
}

/// Elsewheres by rank, one each.
#[derive(Clone, Default)]
pub(super) struct Chain(Vec<(Rank, Arc<dyn Elsewhere>)>);

impl Chain {
    /// One that asks this elsewhere alone.
    pub(super) fn of(elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self(vec![(Rank::Mesh, elsewhere)])
    }

    /// The same with one more, in place of what had its rank.
    pub(super) fn with(&self, rank: Rank, elsewhere: Arc<dyn Elsewhere>) -> Self {
        let mut all: Vec<_> = self.0.iter().filter(|(other, _)| *other != rank).cloned().collect();
        all.push((rank, elsewhere));
        all.sort_by_key(|(rank, _)| *rank);
        Self(all)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn Elsewhere>> {
        self.0.iter().map(|(_, elsewhere)| elsewhere)
    }
}

/// What several have, each once.
fn union<T: Ord>(lists: impl Iterator<Item = Vec<T>>) -> Vec<T> {
    lists.flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

impl Elsewhere for Chain {
    /// All are asked: of a tag the last that was set counts, whoever says it.
    fn resolve<'a>(&'a self, repository: &'a Repository, tag: &'a Tag) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            let mut latest: Option<Named> = None;
            for elsewhere in self.all() {
                if let Some(named) = elsewhere.resolve(repository, tag).await
                    && latest.as_ref().is_none_or(|latest| latest.set_at < named.set_at)
                {
                    latest = Some(named);
                }
            }
            latest
        })
    }

    fn is_unsure(&self, repository: &Repository) -> bool {
        self.all().any(|elsewhere| elsewhere.is_unsure(repository))
    }

    fn find<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            for elsewhere in self.all() {
                if let Some(found) = elsewhere.find(repository, digest).await {
                    return Some(found);
                }
            }
            None
        })
    }

    fn find_manifest<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            for elsewhere in self.all() {
                if let Some(found) = elsewhere.find_manifest(repository, digest).await {
                    return Some(found);
                }
            }
            None
        })
    }

    fn size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        self.all().find_map(|elsewhere| elsewhere.size(repository, digest))
    }

    fn hurry(&self, arriving: &Arriving, range: Range<u64>) {
        self.all().for_each(|elsewhere| elsewhere.hurry(arriving, range.clone()));
    }

    fn disprove(&self, repository: &Repository, digest: &Digest, arriving: &Arriving) {
        self.all().for_each(|elsewhere| elsewhere.disprove(repository, digest, arriving));
    }

    fn repositories(&self) -> Vec<Repository> {
        union(self.all().map(|elsewhere| elsewhere.repositories()))
    }

    fn tags(&self, repository: &Repository) -> Vec<Tag> {
        union(self.all().map(|elsewhere| elsewhere.tags(repository)))
    }

    fn referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor> {
        let mut seen = BTreeSet::new();
        let all = self.all().flat_map(|elsewhere| elsewhere.referrers(repository, subject));
        all.filter(|descriptor| seen.insert(descriptor.digest)).collect()
    }

    fn changed(&self, change: &Change) {
        self.all().for_each(|elsewhere| elsewhere.changed(change));
    }
}
