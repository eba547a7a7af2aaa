//! What happens to packages, told as the differences between what was and what is: so whoever was too slow to hear of each change
//! is told how many he missed, and then of everything that is otherwise than he knows. Must never change anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::broadcast;

use super::{Node, blocking};
use crate::Error;
use crate::model::{DistributionId, EndpointId, TagRecord, TargetState};
use crate::oci::{Digest, Repository, Tag};
use crate::registry::{NamedPackage, PackageNews, Registry, claimed};
use crate::replica::{Replica, WeakReplica};

/// Something that happened to a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageEvent {
    /// A node tells of a package: it has it, and others may have it too.
    Claimed {
        /// The distribution that tells of it.
        distribution: DistributionId,
        /// What it is.
        package: NamedPackage,
        /// Who tells of it.
        importer: EndpointId,
        /// The bytes of its blobs.
        size: u64,
    },
    /// A distribution tells of it no more.
    Withdrawn {
        /// The distribution.
        distribution: DistributionId,
        /// What it told of.
        package: NamedPackage,
    },
    /// It stands elsewhere than before at a node.
    State {
        /// The distribution that it came by.
        distribution: DistributionId,
        /// What it is.
        package: NamedPackage,
        /// Which node; this one included.
        node: EndpointId,
        /// Where.
        state: TargetState,
        /// Bytes that the node says it has.
        bytes: u64,
    },
    /// How far a node has come. Not every step is told.
    Progress {
        /// The distribution that it comes by.
        distribution: DistributionId,
        /// What it is.
        package: NamedPackage,
        /// Which node; this one included.
        node: EndpointId,
        /// Verified bytes there.
        bytes: u64,
    },
    /// A tag points elsewhere than before.
    Tag {
        /// The repository.
        repository: Repository,
        /// The tag.
        tag: Tag,
        /// The manifest that it points to; none when it was removed.
        digest: Option<Digest>,
        /// Who has set it.
        set_by: EndpointId,
    },
    /// All of it is in this node's registry, or is not any more.
    Here {
        /// What it is.
        package: NamedPackage,
        /// Whether it is there.
        here: bool,
    },
    /// The listener was too slow, and missed so much; what is otherwise than he knows comes next.
    Missed(u64),
}

/// A stream of events, from the moment at which it was asked for.
#[derive(Debug)]
pub struct PackageEvents {
    news: broadcast::Receiver<PackageNews>,
    sources: Sources,
    seen: Seen,
    waiting: VecDeque<PackageEvent>,
}

#[derive(Debug, Clone)]
struct Sources {
    /// Whoever listens does not keep the node from shutting down.
    replica: WeakReplica,
    registry: Registry,
}

/// What the listener knows.
#[derive(Debug, Default)]
struct Seen {
    packages: BTreeMap<DistributionId, Claim>,
    tags: BTreeMap<(String, String), (Option<Digest>, EndpointId)>,
    here: BTreeSet<NamedPackage>,
}

/// What a distribution tells of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    package: NamedPackage,
    importer: EndpointId,
    size: u64,
    nodes: BTreeMap<EndpointId, (TargetState, u64)>,
}

impl Node {
    /// What happens to packages from now on; with `from_the_start`, first what there is. Whoever is slow is told what he missed.
    ///
    /// # Errors
    /// What the replica and the registry's catalog report.
    pub async fn package_events(&self, from_the_start: bool) -> Result<PackageEvents, Error> {
        // Subscribed before the look, so that nothing falls between.
        let news = self.registry.news();
        let sources = Sources { replica: self.replica.downgrade(), registry: self.registry.clone() };
        let mut events = PackageEvents { news, sources, seen: Seen::default(), waiting: VecDeque::new() };
        events.look().await?;
        if !from_the_start {
            events.waiting.clear();
        }
        Ok(events)
    }
}

impl PackageEvents {
    /// The next event; none once the node is shut down.
    ///
    /// # Errors
    /// What the replica and the registry's catalog report; the stream has ended then.
    pub async fn next(&mut self) -> Result<Option<PackageEvent>, Error> {
        match self.hear().await {
            Err(Error::Stopped) => Ok(None),
            heard => heard,
        }
    }

    async fn hear(&mut self) -> Result<Option<PackageEvent>, Error> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            match self.news.recv().await {
                Ok(PackageNews::Progress { distribution, node, bytes }) => {
                    if let Some(claim) = self.seen.packages.get(&distribution) {
                        let package = claim.package.clone();
                        self.waiting.push_back(PackageEvent::Progress { distribution, package, node, bytes });
                    }
                }
                Ok(PackageNews::Package(id)) => {
                    let sources = self.sources.clone();
                    let now = blocking(move || sources.claim(&id)).await??;
                    self.waiting.extend(self.seen.package(id, now));
                }
                Ok(PackageNews::Tag(key)) => {
                    if let Some((author, record)) = self.sources.replica()?.tag_of(&key) {
                        self.waiting.extend(self.seen.tag(author, record));
                    }
                }
                Ok(PackageNews::Here(package)) => {
                    drop(self.sources.replica()?);
                    let (sources, name) = (self.sources.clone(), package.clone());
                    let here = blocking(move || sources.registry.describe(&name.repository, &name.digest)).await??.is_some();
                    self.waiting.extend(self.seen.here(package, here));
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    self.waiting.push_back(PackageEvent::Missed(missed));
                    self.look().await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
            }
        }
    }

    /// Compares everything that is with what the listener knows.
    async fn look(&mut self) -> Result<(), Error> {
        let sources = self.sources.clone();
        let (claims, tags, mut here) = blocking(move || {
            let mut claims = BTreeMap::new();
            let replica = sources.replica()?;
            for id in replica.distributions() {
                if let Some(claim) = sources.claim(&id)? {
                    claims.insert(id, claim);
                }
            }
            Ok::<_, Error>((claims, replica.tags(), sources.registry.manifests_here()?))
        })
        .await??;
        let gone: Vec<_> = self.seen.packages.keys().filter(|id| !claims.contains_key(*id)).copied().collect();
        for id in gone {
            self.waiting.extend(self.seen.package(id, None));
        }
        for (id, claim) in claims {
            self.waiting.extend(self.seen.package(id, Some(claim)));
        }
        for (author, record) in tags {
            self.waiting.extend(self.seen.tag(author, record));
        }
        let gone: Vec<_> = self.seen.here.difference(&here).cloned().collect();
        for package in gone {
            self.waiting.extend(self.seen.here(package, false));
        }
        while let Some(package) = here.pop_first() {
            self.waiting.extend(self.seen.here(package, true));
        }
        Ok(())
    }
}

impl Sources {
    fn replica(&self) -> Result<Replica, Error> {
        self.replica.upgrade().ok_or(Error::Stopped)
    }

    /// What a distribution tells of a package, if it does and still counts.
    fn claim(&self, id: &DistributionId) -> Result<Option<Claim>, Error> {
        let Some(distribution) = self.replica()?.distribution(id)? else { return Ok(None) };
        if distribution.cancelled.is_some() {
            return Ok(None);
        }
        let Some(claimed) = claimed(&distribution) else { return Ok(None) };
        let records = distribution.carriers.iter().chain(&distribution.targets);
        Ok(Some(Claim {
            package: NamedPackage { repository: claimed.repository, digest: claimed.digest },
            importer: claimed.importer,
            size: claimed.blobs.values().map(|blob| blob.size).sum(),
            nodes: records.map(|(node, record)| (*node, (record.state, record.bytes))).collect(),
        }))
    }
}

impl Seen {
    fn package(&mut self, distribution: DistributionId, now: Option<Claim>) -> Vec<PackageEvent> {
        let mut events = Vec::new();
        let before = match &now {
            Some(claim) => self.packages.insert(distribution, claim.clone()),
            None => self.packages.remove(&distribution),
        };
        let Some(claim) = now else {
            events.extend(before.map(|before| PackageEvent::Withdrawn { distribution, package: before.package }));
            return events;
        };
        if before.is_none() {
            let Claim { package, importer, size, .. } = claim.clone();
            events.push(PackageEvent::Claimed { distribution, package, importer, size });
        }
        let known = before.map(|before| before.nodes).unwrap_or_default();
        for (node, (state, bytes)) in claim.nodes {
            if known.get(&node) != Some(&(state, bytes)) {
                events.push(PackageEvent::State { distribution, package: claim.package.clone(), node, state, bytes });
            }
        }
        events
    }

    fn tag(&mut self, set_by: EndpointId, record: TagRecord) -> Option<PackageEvent> {
        // A name that is none is nobody's tag.
        let (repository, tag): (Repository, Tag) = (record.repository.parse().ok()?, record.tag.parse().ok()?);
        let digest = record.target.and_then(|target| target.digest.parse().ok());
        let before = self.tags.insert((record.repository, record.tag), (digest, set_by));
        let is_new = match before {
            Some(before) => before != (digest, set_by),
            // What was removed before it was known is no news.
            None => digest.is_some(),
        };
        is_new.then_some(PackageEvent::Tag { repository, tag, digest, set_by })
    }

    fn here(&mut self, package: NamedPackage, here: bool) -> Option<PackageEvent> {
        let changed = if here { self.here.insert(package.clone()) } else { self.here.remove(&package) };
        changed.then_some(PackageEvent::Here { package, here })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Sha256Digest, TagTarget, Timestamp};

    fn package(byte: u8) -> NamedPackage {
        NamedPackage { repository: "a/b".parse().expect("a name"), digest: Sha256Digest::from_bytes([byte; 32]).into() }
    }

    /// What may be told of one package as time goes on: records are replaced, and never taken back.
    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let state = prop::sample::select(TargetState::ALL.to_vec());
        let nodes = prop::collection::btree_map(0_u8..3, (state, 0_u64..3), 0..3);
        prop::collection::vec(nodes, 0..6).prop_map(|steps| {
            let mut claim =
                Claim { package: package(1), importer: EndpointId::from_bytes([9; 32]), size: 7, nodes: BTreeMap::new() };
            let step = |nodes: BTreeMap<u8, _>| {
                claim.nodes.extend(nodes.into_iter().map(|(node, at)| (EndpointId::from_bytes([node; 32]), at)));
                claim.clone()
            };
            steps.into_iter().map(step).collect()
        })
    }

    /// What somebody believes who hears of nothing but the events.
    fn believe(events: Vec<PackageEvent>, believed: &mut Option<BTreeMap<EndpointId, (TargetState, u64)>>) {
        for event in events {
            match event {
                PackageEvent::Claimed { .. } => *believed = Some(BTreeMap::new()),
                PackageEvent::Withdrawn { .. } => *believed = None,
                PackageEvent::State { node, state, bytes, .. } => {
                    believed.as_mut().expect("it is claimed first").insert(node, (state, bytes));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        /// However many steps are passed over, who hears of the differences knows what is.
        #[test]
        fn the_differences_lead_to_what_is(claims in claims(), heard in prop::collection::vec(any::<bool>(), 6)) {
            let (mut seen, mut believed, id) = (Seen::default(), None, DistributionId::from_bytes([1; 32]));
            for (claim, _) in claims.into_iter().zip(heard).filter(|(_, heard)| *heard) {
                believe(seen.package(id, Some(claim.clone())), &mut believed);
                prop_assert_eq!(believed.as_ref(), Some(&claim.nodes));
                prop_assert!(seen.package(id, Some(claim)).is_empty(), "the same again is no news");
            }
            believe(seen.package(id, None), &mut believed);
            prop_assert_eq!(believed, None);
            prop_assert!(seen.package(id, None).is_empty());
        }
    }

    #[test]
    fn a_tag_is_news_when_it_points_elsewhere_and_what_never_was_is_not_removed() {
        let mut seen = Seen::default();
        let me = EndpointId::from_bytes([1; 32]);
        let record = |byte: Option<u8>| TagRecord {
            repository: "a/b".to_owned(),
            tag: "v1".to_owned(),
            target: byte.map(|byte| TagTarget { digest: package(byte).digest.to_string(), media_type: String::new(), size: 1 }),
            set_at: Timestamp::from_millis(1),
        };
        assert_eq!(seen.tag(me, record(None)), None);
        assert!(matches!(seen.tag(me, record(Some(1))), Some(PackageEvent::Tag { digest: Some(_), .. })));
        assert_eq!(seen.tag(me, record(Some(1))), None);
        assert!(matches!(seen.tag(me, record(Some(2))), Some(PackageEvent::Tag { digest: Some(_), .. })));
        assert!(matches!(seen.tag(me, record(None)), Some(PackageEvent::Tag { digest: None, .. })));
        let bad = TagRecord { tag: "no tag".to_owned(), ..record(Some(1)) };
        assert_eq!(seen.tag(me, bad), None);
    }

    #[test]
    fn what_is_here_is_told_once_and_so_is_that_it_is_gone() {
        let mut seen = Seen::default();
        let told = [(1, true), (1, true), (2, true), (1, false), (1, false)]
            .map(|(byte, here)| seen.here(package(byte), here).is_some());
        assert_eq!(told, [true, false, true, true, false]);
    }
}
