//! Several elsewheres as one, asked in a fixed order: what lies beside the node, then the mesh, then an upstream. Must never let a
//! later one answer for content that an earlier one has, unless nothing of it comes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::backed::{Backed, InVain};
use super::{Answer, Arriving, Change, Elsewhere, Found, Gift, Named, Wanted};
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
pub(super) struct Chain {
    by_rank: Vec<(Rank, Arc<dyn Elsewhere>)>,
    in_vain: InVain,
}

impl Chain {
    /// One that asks this elsewhere alone.
    pub(super) fn of(elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self { by_rank: vec![(Rank::Mesh, elsewhere)], in_vain: InVain::default() }
    }

    /// The same with one more, in place of what had its rank.
    pub(super) fn with(&self, rank: Rank, elsewhere: Arc<dyn Elsewhere>) -> Self {
        let mut by_rank: Vec<_> = self.by_rank.iter().filter(|(other, _)| *other != rank).cloned().collect();
        by_rank.push((rank, elsewhere));
        by_rank.sort_by_key(|(rank, _)| *rank);
        Self { by_rank, in_vain: self.in_vain.clone() }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<dyn Elsewhere>> {
        self.by_rank.iter().map(|(_, elsewhere)| elsewhere)
    }

    /// What other nodes only claim to have is asked for later in the order if nothing of it comes.
    fn back(&self, what: (&Repository, &Digest, bool), rank: Rank, found: Found) -> Found {
        let later: Vec<_> = self.by_rank.iter().filter(|(other, _)| *other > rank).map(|(_, it)| Arc::clone(it)).collect();
        match found {
            Found::Claimed(arriving) if rank == Rank::Mesh && !later.is_empty() => {
                Found::Backed(Backed::new(what, arriving, later, self.in_vain.clone()))
            }
            found => found,
        }
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
            for (rank, elsewhere) in &self.by_rank {
                if let Some(found) = elsewhere.find(repository, digest).await {
                    return Some(self.back((repository, digest, false), *rank, found));
                }
            }
            None
        })
    }

    fn find_manifest<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            for (rank, elsewhere) in &self.by_rank {
                if let Some(found) = elsewhere.find_manifest(repository, digest).await {
                    return Some(self.back((repository, digest, true), *rank, found));
                }
            }
            None
        })
    }

    fn give<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Gift> {
        Box::pin(async move {
            for elsewhere in self.all() {
                match elsewhere.give(wanted).await {
                    Gift::CannotAsk => {}
                    gift => return gift,
                }
            }
            Gift::CannotAsk
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
