//! Packages: the registry of this node, what it tells others, and how it comes to what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::send::{Job, Terms};
use super::{Node, blocking};
use crate::Error;
use crate::clock::Clock;
use crate::content::{BlobStatus, Content};
use crate::driver::Request;
use crate::model::{
    BlobHash, Carry, DistributionId, EndpointId, FileEntry, MAX_INLINE_FILES, Manifest, Package, Priority, Scope, TagRecord,
    TagTarget,
};
use crate::oci::{Descriptor, Digest, Manifest as OciManifest, Repository, Tag};
use crate::registry::sideload::{Sideload, SideloadedImage};
use crate::registry::{
    Answer, Arrival, Arriving, Change, Claim, Claims, Elsewhere, Found, Named, PackageNews, Part, Registry, RegistryError,
};
use crate::replica::Accepted;

/// How often what is on its way is looked at though nothing of it has come.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Packages on whose behalf one blob is asked for: anybody can speak of it in as many as he likes.
const MAX_ASKED_FOR: usize = 8;
/// How long nothing of it may come before those who read it are told that it does not. It is fetched all the same.
const LONGEST_SILENCE: Duration = Duration::from_secs(120);

impl Node {
    /// The registry: images and artifacts that are here, and the way to those of other nodes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What other nodes and this one say of packages.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Sends an image or artifact of the registry: the nodes that it is meant for take it into theirs. (Any member can pull it
    /// without that; this makes it be there before it is asked for.) The tag it goes by is told to all when it is set.
    ///
    /// # Errors
    /// [`Error::Registry`] when it is not here whole, and what the store and the replica report.
    pub async fn send_package(&self, repository: Repository, digest: Digest, terms: Terms) -> Result<DistributionId, Error> {
        let (job, registry) = (self.job(), self.registry.clone());
        self.write_with(move || {
            let _no_collection = job.content.keep_unpinned();
            let package = registry.package(&repository, &digest)?;
            distribute(&job, &repository, &digest, package, &terms)
        })
        .await
    }

    /// Who says that which package is where, each with who has it by now.
    ///
    /// # Errors
    /// What the replica reports.
    pub async fn packages(&self) -> Result<Vec<PackageStatus>, Error> {
        let (claims, replica) = (self.claims.clone(), self.replica.clone());
        blocking(move || {
            let mut tags: BTreeMap<(String, String), BTreeSet<Tag>> = BTreeMap::new();
            for (_, TagRecord { repository, tag, target, .. }) in replica.tags() {
                if let (Some(target), Ok(tag)) = (target, tag.parse()) {
                    tags.entry((repository, target.digest)).or_default().insert(tag);
                }
            }
            claims
                .all()
                .into_iter()
                .filter_map(|(id, package)| {
                    let found = match replica.distribution(&id) {
                        Ok(found) => found?,
                        Err(error) => return Some(Err(error.into())),
                    };
                    let records = found.targets.iter().chain(&found.carriers);
                    let holders = records.filter(|(_, record)| record.state.is_holder()).map(|(id, _)| *id);
                    let name = (package.repository.to_string(), package.digest.to_string());
                    Some(Ok(PackageStatus {
                        distribution: id,
                        repository: package.repository,
                        digest: package.digest,
                        tags: tags.get(&name).cloned().unwrap_or_default(),
                        size: package.blobs.values().map(|blob| blob.size).sum(),
                        importer: package.importer,
                        holders: holders.chain([package.importer]).collect(),
                    }))
                })
                .collect()
        })
        .await?
    }
}

/// A package as the mesh knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageStatus {
    /// The distribution that tells of it.
    pub distribution: DistributionId,
    /// The repository that it belongs to.
    pub repository: Repository,
    /// Its manifest.
    pub digest: Digest,
    /// The tags that point to it now.
    pub tags: BTreeSet<Tag>,
    /// The bytes of its blobs.
    pub size: u64,
    /// Who took it in first and says so.
    pub importer: EndpointId,
    /// Who has all of it, as far as they have said; the importer among them.
    pub holders: BTreeSet<EndpointId>,
}

/// Makes a distribution of a package that is here.
fn distribute(
    job: &Job,
    repository: &Repository,
    digest: &Digest,
    (manifest, parts): (OciManifest, Vec<Part>),
    terms: &Terms,
) -> Result<(DistributionId, Accepted), Error> {
    let files: Vec<_> = parts.into_iter().map(entry).collect();
    job.distribute(&files, terms, Some(description(repository, digest, manifest)))
}

fn description(repository: &Repository, digest: &Digest, manifest: OciManifest) -> Package {
    let subject = manifest.subject.as_ref().map(|subject| subject.digest.to_string());
    Package {
        repository: repository.to_string(),
        digest: digest.to_string(),
        artifact_type: manifest.artifact_type.filter(|_| subject.is_some()),
        subject,
    }
}

/// How others are told of a package that is meant for nobody in particular.
fn terms(repository: &Repository, digest: &Digest) -> Terms {
    Terms {
        bundle: format!("package {repository}@{digest}").chars().take(1000).collect(),
        scope: Scope::Nodes(Default::default()),
        priority: Priority::Routine,
        lifetime: Manifest::MAX_LIFETIME,
        carry: Carry::Members,
        together: true,
    }
}

fn entry(part: Part) -> FileEntry {
    FileEntry {
        root: String::new(),
        path: part.digest.to_string().into_bytes(),
        size: part.size,
        blob: part.hash,
        sha256: part.sha256,
        mode: 0,
        mtime: 0,
        content_type: Some(part.media_type),
        display_name: None,
    }
}

/// A claim, with the size that it is of.
type ClaimKey = (Digest, BlobHash, u64);

/// The other nodes, as the registry asks them.
pub(super) struct Mesh {
    clock: Arc<dyn Clock>,
    /// What it takes to say and to read; nothing once the node ends, however long others keep hold of this.
    job: Mutex<Option<Job>>,
    registry: Registry,
    content: Content,
    claims: Claims,
    requests: mpsc::Sender<Request>,
    /// Claims that were found to be false.
    disproved: Mutex<BTreeSet<ClaimKey>>,
    /// Claims that were waited for in vain: others of the same digest are believed first.
    silent: Arc<Mutex<BTreeSet<ClaimKey>>>,
}

/// Ends the mesh with the node, however that ends: the registry and the mesh keep each other, and with them the replica.
pub(super) struct Reach(pub(super) Arc<Mesh>);

impl Drop for Reach {
    fn drop(&mut self) {
        self.0.close();
        self.0.registry.set_elsewhere(None);
    }
}

impl Mesh {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        job: Job,
        registry: Registry,
        claims: Claims,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        let content = job.content.clone();
        let (job, disproved, silent) = (Mutex::new(Some(job)), Mutex::default(), Arc::default());
        Self { clock, job, registry, content, claims, requests, disproved, silent }
    }

    /// Lets go of the replica: nothing is said or found any more.
    fn close(&self) {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn job(&self) -> Result<Job, Error> {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Job { now: self.clock.now(), ..job.ok_or(Error::Stopped)? })
    }

    /// The claims of a digest that were not found to be false: those first whose bytes are here, last those of which none came.
    fn claims_of(&self, repository: &Repository, digest: &Digest) -> Vec<Claim> {
        let disproved = self.disproved.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |claim: &Claim| (*digest, claim.blob.hash, claim.blob.size);
        let claims = self.claims.of(repository, digest).into_iter().filter(|claim| !disproved.contains(&key(claim)));
        let held = claims.map(|claim| (self.content.size(&claim.blob.hash).unwrap_or_default(), claim));
        let mut possible: Vec<_> = held.filter(|(held, claim)| held.is_none_or(|held| held == claim.blob.size)).collect();
        possible.sort_by_key(|(held, claim)| (held.is_none(), silent.contains(&key(claim))));
        possible.into_iter().map(|(_, claim)| claim).collect()
    }

    fn is_told_of(&self, me: &EndpointId, repository: &Repository, digest: &Digest) -> bool {
        self.claims.packages(repository, digest).iter().any(|(_, package)| package.importer == *me)
    }

    /// Tells others of an image, once: when it has a tag, or is about another.
    fn advertise(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        let job = self.job()?;
        if self.is_told_of(&job.me, repository, digest) {
            return Ok(());
        }
        let terms = terms(repository, digest);
        let package = self.registry.package(repository, digest)?;
        if package.1.len() > MAX_INLINE_FILES {
            tracing::warn!(%repository, %digest, blobs = package.1.len(), "an image of so many blobs is not told of: send it");
            return Ok(());
        }
        let _no_collection = job.content.keep_unpinned();
        let told = distribute(&job, repository, digest, package, &terms)?;
        self.told(&job, told)
    }

    fn told(&self, job: &Job, (id, accepted): (DistributionId, Accepted)) -> Result<(), Error> {
        // Before the driver hears of it: it is not told of twice.
        if let Some(told) = job.replica.distribution(&id)? {
            self.claims.learn(&told);
            self.registry.note(PackageNews::Package(id));
        }
        self.wrote(accepted)
    }

    /// Tells others of an image that lies in a file, and of what is about it, once; nothing of it need be in the store. `told` is
    /// what was told of before.
    pub(super) fn offer(
        &self,
        sideload: &Sideload,
        image: &SideloadedImage,
        told: &BTreeSet<(Repository, Digest, Tag)>,
    ) -> Result<(), Error> {
        let (repository, job) = (&image.repository, self.job()?);
        if self.registry.is_blocked(repository, &image.digest)? || self.registry.is_blocked(repository, &image.tag)? {
            return Ok(());
        }
        let is_new = |digest: Digest| !told.contains(&(repository.clone(), digest, image.tag.clone()));
        let mut target = None;
        for root in std::iter::once(&image.digest).chain(&image.about) {
            let Some((manifest, parts)) = sideload.package(image, root) else { return Ok(()) };
            if *root == image.digest {
                let (media_type, size) = (parts[0].media_type.clone(), parts[0].size);
                target = Some(TagTarget { digest: root.to_string(), media_type, size });
            }
            if is_new(*root) {
                sideload.note_told(repository, root, &image.tag)?;
            }
            if self.is_told_of(&job.me, repository, root) {
                continue;
            }
            if parts.len() > MAX_INLINE_FILES {
                tracing::warn!(%repository, digest = %root, blobs = parts.len(), "an image of so many blobs is not told of");
                return Ok(());
            }
            let files: Vec<_> = parts.into_iter().map(entry).collect();
            let package = description(repository, root, manifest);
            self.told(&job, job.tell_of(&files, &terms(repository, root), package)?)?;
        }
        // What others have said of the tag since it was told of counts.
        let said = job.replica.tag(repository.as_str(), image.tag.as_str());
        if is_new(image.digest) || said.is_none_or(|(author, _)| author == job.me) {
            self.wrote(job.replica.publish_tag(repository.as_str(), image.tag.as_str(), target)?)?;
        }
        Ok(())
    }

    /// Tells others that what lay in a file is gone, unless it is here otherwise.
    pub(super) fn withdraw(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        match self.registry.describe(repository, digest)? {
            Some(_) => Ok(()),
            None => self.removed(repository, digest),
        }
    }

    /// The same of one of several tags under which it lay there.
    pub(super) fn withdraw_tag(&self, repository: &Repository, digest: &Digest, tag: &Tag) -> Result<(), Error> {
        let named = self.registry.tag(repository, tag)?;
        let said = self.job()?.replica.tag(repository.as_str(), tag.as_str()).and_then(|(_, record)| record.target);
        match said {
            Some(target) if named.is_none() && target.digest == digest.to_string() => self.remove_tag(repository, tag),
            _ => Ok(()),
        }
    }

    fn set_tag(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<(), Error> {
        self.advertise(repository, digest)?;
        let Some(named) = self.registry.describe(repository, digest)? else { return Ok(()) };
        let target = TagTarget { digest: digest.to_string(), media_type: named.media_type, size: named.size };
        self.wrote(self.job()?.replica.publish_tag(repository.as_str(), tag.as_str(), Some(target))?)
    }

    /// A tag that this node has set last is taken back for all; another's is passed over here alone.
    fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        let Job { me, replica, .. } = self.job()?;
        match replica.tag(repository.as_str(), tag.as_str()) {
            Some((author, record)) if author == me && record.target.is_some() => {
                self.wrote(replica.publish_tag(repository.as_str(), tag.as_str(), None)?)
            }
            _ => Ok(()),
        }
    }

    /// What this node alone has is not told of any more when it is gone.
    fn removed(&self, repository: &Repository, digest: &Digest) -> Result<(), Error> {
        let Job { me, replica, .. } = self.job()?;
        for (id, package) in self.claims.packages(repository, digest) {
            let Some(found) = replica.distribution(&id)? else { continue };
            let mut records = found.targets.iter().chain(&found.carriers);
            let elsewhere = records.any(|(id, record)| *id != me && record.state.is_holder());
            if package.importer == me && !elsewhere {
                self.wrote(replica.cancel(&id)?)?;
            }
        }
        let digest = digest.to_string();
        let points = |record: &TagRecord| record.target.as_ref().is_some_and(|target| target.digest == digest);
        let tags = replica.tags().into_iter().filter(|(_, record)| record.repository == repository.as_str() && points(record));
        for tag in tags.filter_map(|(_, record)| record.tag.parse().ok()) {
            self.remove_tag(repository, &tag)?;
        }
        Ok(())
    }

    fn is_about_another(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        let Some(stored) = self.registry.manifest(repository, digest)? else { return Ok(false) };
        let manifest = OciManifest::parse(&stored.bytes, Some(&stored.media_type)).map_err(RegistryError::from)?;
        Ok(manifest.subject.is_some())
    }

    fn wrote(&self, accepted: Accepted) -> Result<(), Error> {
        self.requests.blocking_send(Request::Wrote(accepted)).map_err(|_| Error::Stopped)
    }
}

impl Elsewhere for Mesh {
    fn resolve<'a>(&'a self, repository: &'a Repository, tag: &'a Tag) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            let (_, record) = self.job().ok()?.replica.tag(repository.as_str(), tag.as_str())?;
            let target = record.target?;
            let digest = target.digest.parse().ok()?;
            Some(Named { digest, media_type: target.media_type, size: target.size, set_at: record.set_at })
        })
    }

    fn find<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            let claims = self.claims_of(repository, digest);
            let first = claims.first()?.clone();
            let blob = first.blob;
            let (sender, progress) = watch::channel(Arrival::Coming);
            let arriving =
                Arriving { hash: blob.hash, size: blob.size, media_type: blob.media_type, claimed_by: first.importer, progress };
            // Whoever speaks of the same bytes may lead to who has them.
            for claim in claims.iter().filter(|claim| claim.blob.hash == blob.hash).take(MAX_ASKED_FOR) {
                let request = Request::Asked { distribution: claim.distribution, blobs: vec![blob.hash] };
                self.requests.send(request).await.ok()?;
            }
            tokio::spawn(follow(self.content.clone(), (*digest, blob.hash, blob.size), Arc::clone(&self.silent), sender));
            Some(Found::Claimed(arriving))
        })
    }

    fn hurry(&self, arriving: &Arriving, range: Range<u64>) {
        self.content.hurry(&arriving.hash, &range);
    }

    fn disprove(&self, _repository: &Repository, digest: &Digest, arriving: &Arriving) {
        self.disproved.lock().unwrap_or_else(PoisonError::into_inner).insert((*digest, arriving.hash, arriving.size));
    }

    fn size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        self.claims_of(repository, digest).first().map(|claim| claim.blob.size)
    }

    fn repositories(&self) -> Vec<Repository> {
        self.claims.repositories()
    }

    fn tags(&self, repository: &Repository) -> Vec<Tag> {
        let Ok(job) = self.job() else { return Vec::new() };
        let tags = job.replica.tags().into_iter().map(|(_, record)| record);
        let there = tags.filter(|record| record.repository == repository.as_str() && record.target.is_some());
        there.filter_map(|record| record.tag.parse().ok()).collect()
    }

    fn referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor> {
        self.claims.referrers(repository, subject)
    }

    fn changed(&self, change: &Change) {
        let told = match change {
            Change::TagSet(repository, tag, digest) => self.set_tag(repository, tag, digest),
            Change::TagRemoved(repository, tag) => self.remove_tag(repository, tag),
            // Else it is a part of an index, or it is tagged next.
            Change::ManifestPut(repository, digest) => match self.is_about_another(repository, digest) {
                Ok(true) => self.advertise(repository, digest),
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            },
            Change::ManifestRemoved(repository, digest) => self.removed(repository, digest),
            Change::BlobRemoved(..) => Ok(()),
        };
        if let Err(error) = told {
            tracing::error!(%error, ?change, "cannot tell others of a change in the registry");
        }
    }
}

/// Tells those who read a blob while it comes that there is more of it, until it is whole or nobody reads any more.
async fn follow(content: Content, claim: ClaimKey, silent: Arc<Mutex<BTreeSet<ClaimKey>>>, arrival: watch::Sender<Arrival>) {
    let (_, hash, _) = claim;
    let silent = || silent.lock().unwrap_or_else(PoisonError::into_inner);
    let mut arrivals = content.arrivals();
    let (mut before, mut since) = (None, Instant::now());
    loop {
        arrivals.borrow_and_update();
        let looked = content.clone();
        let Ok(Ok(status)) = tokio::task::spawn_blocking(move || looked.status(&hash)).await else { return };
        if matches!(status, BlobStatus::Held { .. }) {
            silent().remove(&claim);
            arrival.send_replace(Arrival::Whole);
            return;
        }
        if before.replace(status) != Some(status) {
            arrival.send_replace(Arrival::Coming);
            since = Instant::now();
        } else if since.elapsed() > LONGEST_SILENCE {
            silent().insert(claim);
            arrival.send_replace(Arrival::Failed("nobody who has it is in reach".to_owned()));
            return;
        }
        tokio::select! {
            () = arrival.closed() => return,
            changed = arrivals.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}
