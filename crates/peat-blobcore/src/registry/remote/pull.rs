//! From a registry into the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest as _, Sha512};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::{Inner, Remote, RemoteError, Scope, blocking};
use crate::content::{Content, ContentError, Ingested};
use crate::oci::{
    Algorithm, Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, ManifestKind, Platform, Reference, Repository, media_type,
};
use crate::registry::archive::{Imported, ImportedBlob, Root};
use crate::registry::closure::{Closure, is_manifest, matches_platform};
use crate::registry::{PartProgress, PartStep};

/// Blobs that are fetched at a time.
const AT_ONCE: usize = 4;
/// How often a body may be cut off without a byte between.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// Pieces of a body that wait for the disk.
const WAITING: usize = 16;
/// Most indexes within one another.
const MAX_DEPTH: usize = 8;

/// What a manifest came as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct Named {
    pub(in crate::registry) descriptor: Descriptor,
    pub(in crate::registry) bytes: Vec<u8>,
}

impl Remote {
    /// Pulls an image or artifact with all that belongs to it, and what refers to it (signatures) if the registry tells. With a
    /// platform the image for it is taken, of however many; with an expected digest nothing else. It is held, durably, when this returns, and nothing pins it yet; the
    /// caller keeps it from being collected meanwhile. `progress` hears
    /// what becomes of each part.
    ///
    /// # Errors
    /// [`RemoteError`]; blobs that were whole by then are held.
    pub async fn pull(
        &self,
        content: &Content,
        repository: &Repository,
        (reference, expected): (&Reference, Option<&Digest>),
        platform: Option<&Platform>,
        progress: Arc<PartProgress<'static>>,
    ) -> Result<Imported, RemoteError> {
        let mut found = self.0.manifest(repository, reference).await?;
        let mut known = None;
        if let Some(wanted) = platform {
            (found, known) = self.0.choose(repository, found, wanted).await?;
        }
        if let Some(expected) = expected.filter(|expected| **expected != found.descriptor.digest) {
            return Err(RemoteError::Another { expected: *expected, actual: Box::new(found.descriptor.digest) });
        }
        let mut pull = Pull { remote: self.0.clone(), content, repository, progress, blobs: Vec::new(), known: BTreeSet::new() };
        let names = match reference {
            Reference::Tag(tag) => vec![tag.to_string()],
            Reference::Digest(_) => Vec::new(),
        };
        let (digest, mut roots) = (found.descriptor.digest, Vec::new());
        roots.push(Root { descriptor: found.descriptor.clone(), names, platform: known });
        pull.closure(found).await?;
        for about in self.0.referrers(repository, &digest).await? {
            let found = self.0.manifest(repository, &Reference::Digest(about.digest)).await?;
            // The registry says that it refers to it, and the manifest has to say so as well.
            let manifest = Manifest::parse(&found.bytes, Some(&found.descriptor.media_type));
            if !manifest.is_ok_and(|manifest| manifest.subject.is_some_and(|subject| subject.digest == digest)) {
                continue;
            }
            roots.push(Root { descriptor: found.descriptor.clone(), names: Vec::new(), platform: None });
            pull.closure(found).await?;
        }
        Ok(Imported { roots, blobs: pull.blobs })
    }
}

/// A blob that was fetched.
type Fetched = Result<(Descriptor, Ingested), RemoteError>;

/// A pull that is under way.
struct Pull<'a> {
    remote: Arc<Inner>,
    content: &'a Content,
    repository: &'a Repository,
    progress: Arc<PartProgress<'static>>,
    blobs: Vec<ImportedBlob>,
    known: BTreeSet<Digest>,
}

impl Pull<'_> {
    /// Fetches what belongs to a manifest: the manifests one after the other, the rest some at a time.
    async fn closure(&mut self, root: Named) -> Result<(), RemoteError> {
        let mut closure = Closure::of(root.descriptor.clone());
        let mut root = Some(root);
        let mut fetches = JoinSet::new();
        while let Some(part) = closure.step() {
            if is_manifest(&part) {
                let named = match root.take() {
                    Some(root) => root,
                    None => self.manifest(&part).await?,
                };
                closure.read(&part, &named.bytes)?;
                let bytes = named.bytes;
                let blob = blocking(self.content, move |content| content.ingest_bytes(&bytes)).await?;
                self.note(&part, blob);
                continue;
            }
            if self.known.contains(&part.digest) {
                continue;
            }
            if let Some(blob) = held(self.content, &part)? {
                (self.progress)(&part, PartStep::Present);
                self.note(&part, blob);
                continue;
            }
            if fetches.len() >= AT_ONCE {
                self.take(fetches.join_next().await)?;
            }
            let (remote, content, progress) = (Arc::clone(&self.remote), self.content.clone(), Arc::clone(&self.progress));
            let repository = self.repository.clone();
            // Also where nothing comes for a while.
            progress(&part, PartStep::Moved(0));
            fetches.spawn(async move {
                let blob = remote.blob(&content, &repository, &part, &*progress).await?;
                Fetched::Ok((part, blob))
            });
        }
        while !fetches.is_empty() {
            self.take(fetches.join_next().await)?;
        }
        Ok(())
    }

    fn take(&mut self, done: Option<Result<Fetched, JoinError>>) -> Result<(), RemoteError> {
        let Some(done) = done else { return Ok(()) };
        let (part, blob) = done.map_err(|_| ContentError::Stopped)??;
        (self.progress)(&part, PartStep::Done);
        self.note(&part, blob);
        Ok(())
    }

    /// A manifest below the first: from the store if it is there.
    async fn manifest(&self, part: &Descriptor) -> Result<Named, RemoteError> {
        if let Some(blob) = held(self.content, part)?
            && blob.size <= MAX_MANIFEST_BYTES as u64
        {
            let bytes = blocking(self.content, move |content| content.read_blob(&blob.hash, blob.size)).await?;
            return Ok(Named { descriptor: part.clone(), bytes });
        }
        let found = self.remote.manifest(self.repository, &Reference::Digest(part.digest)).await?;
        if found.descriptor.size == part.size {
            return Ok(found);
        }
        Err(RemoteError::Mismatch { registry: self.remote.registry.clone(), digest: part.digest })
    }

    fn note(&mut self, part: &Descriptor, blob: Ingested) {
        if self.known.insert(part.digest) {
            self.blobs.push(ImportedBlob { digest: part.digest, blob, media_type: part.media_type.clone() });
        }
    }
}

/// A blob that is in the store.
fn held(content: &Content, part: &Descriptor) -> Result<Option<Ingested>, ContentError> {
    let Some(sha256) = part.digest.sha256() else { return Ok(None) };
    let Some(hash) = content.digest(&sha256)? else { return Ok(None) };
    Ok(content.size(&hash)?.filter(|size| *size == part.size).map(|size| Ingested { hash, sha256, size }))
}

impl Inner {
    /// A manifest, held against the digest that it was asked for by.
    pub(super) async fn manifest(&self, repository: &Repository, reference: &Reference) -> Result<Named, RemoteError> {
        let what = format!("{repository} {reference}");
        let url = self.url(repository, &format!("manifests/{reference}"));
        let accept = media_type::MANIFESTS.join(", ");
        let make = |request: reqwest::RequestBuilder| request.header(ACCEPT, &accept);
        let response = self.send(Method::GET, url, &Scope::pull(repository), self.options.patience, &make).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, &what).await);
        }
        let came_as = header(&response, CONTENT_TYPE.as_str());
        let told = header(&response, "docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok());
        let bytes = self.body(response, MAX_MANIFEST_BYTES, &what).await?;
        let wanted = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => told,
        };
        let digest = wanted.unwrap_or_else(|| Digest::of(Algorithm::Sha256, &bytes));
        if !digest.is_of(&bytes) {
            return Err(RemoteError::Mismatch { registry: self.registry.clone(), digest });
        }
        // What it says of itself goes before what it came as: some registries have no word for it.
        let came_as = came_as.filter(|kind| media_type::MANIFESTS.iter().any(|known| kind.starts_with(known)));
        let manifest = Manifest::parse(&bytes, came_as.as_deref()).map_err(|source| RemoteError::Manifest { what, source })?;
        let descriptor = Descriptor::new(manifest.media_type, digest, bytes.len() as u64);
        Ok(Named { descriptor, bytes })
    }

    /// The image for a platform that is somewhere below a manifest.
    async fn choose(
        &self,
        repository: &Repository,
        mut at: Named,
        wanted: &Platform,
    ) -> Result<(Named, Option<Platform>), RemoteError> {
        let mut platform = None;
        for _ in 0..MAX_DEPTH {
            let what = at.descriptor.digest.to_string();
            let manifest = Manifest::parse(&at.bytes, Some(&at.descriptor.media_type))
                .map_err(|source| RemoteError::Manifest { what: what.clone(), source })?;
            if manifest.kind == ManifestKind::Image {
                return Ok((at, platform));
            }
            let fits = |child: &Descriptor| child.platform.as_ref().is_some_and(|offered| matches_platform(wanted, offered));
            let mut children: Vec<_> = manifest.manifests.into_iter().filter(is_manifest).collect();
            let Some(chosen) = children.iter().position(fits).or_else(|| children.iter().position(|it| it.platform.is_none()))
            else {
                break;
            };
            let child = children.swap_remove(chosen);
            at = self.manifest(repository, &Reference::Digest(child.digest)).await?;
            platform = child.platform;
        }
        Err(RemoteError::NoSuchPlatform(format!("{repository}@{}", at.descriptor.digest)))
    }

    /// What refers to a manifest, if the registry tells: by its API, or by the tag that stands for it where there is none.
    pub(super) async fn referrers(&self, repository: &Repository, digest: &Digest) -> Result<Vec<Descriptor>, RemoteError> {
        let tag = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
        for way in [format!("referrers/{digest}"), format!("manifests/{tag}")] {
            let make = |request: reqwest::RequestBuilder| request.header(ACCEPT, media_type::OCI_INDEX);
            let url = self.url(repository, &way);
            let response = self.send(Method::GET, url, &Scope::pull(repository), self.options.patience, &make).await?;
            if response.status() != StatusCode::OK {
                continue;
            }
            let bytes = self.body(response, MAX_MANIFEST_BYTES, &way).await?;
            // What is no index says nothing of referrers.
            if let Ok(index) = Manifest::parse(&bytes, None)
                && index.kind == ManifestKind::Index
            {
                return Ok(index.manifests.into_iter().filter(is_manifest).collect());
            }
        }
        Ok(Vec::new())
    }

    /// Fetches a blob into the store. A body that is cut off goes on where it ended.
    async fn blob(
        &self,
        content: &Content,
        repository: &Repository,
        part: &Descriptor,
        progress: &PartProgress<'_>,
    ) -> Result<Ingested, RemoteError> {
        let what = format!("{repository} {}", part.digest);
        if part.size > self.options.max_blob_bytes {
            return Err(self.protocol(200, &what, &format!("it has {} bytes, over the limit", part.size)));
        }
        let (pieces, waiting) = mpsc::channel(WAITING);
        let (writing, digest) = (content.clone(), part.digest);
        let written = tokio::task::spawn_blocking(move || write(&writing, digest, pieces_of(waiting)));
        let came = self.body_of(repository, part, &what, pieces, progress).await;
        // The writer ends when no piece can come any more, and keeps what is whole and right alone.
        let written = written.await.map_err(|_| ContentError::Stopped)?;
        came?;
        written?.ok_or_else(|| RemoteError::Mismatch { registry: self.registry.clone(), digest: part.digest })
    }

    async fn body_of(
        &self,
        repository: &Repository,
        part: &Descriptor,
        what: &str,
        pieces: mpsc::Sender<Piece>,
        progress: &PartProgress<'_>,
    ) -> Result<(), RemoteError> {
        let (mut at, mut failures, mut pause) = (0, 0, PAUSE);
        loop {
            let begun = at;
            let failed = match self.attempt(repository, part, what, &mut at, &pieces, progress).await {
                Ok(()) => {
                    // The last piece says that it was the last: a writer that is left alone keeps nothing.
                    let _ = pieces.send(Piece::End).await;
                    return Ok(());
                }
                Err(error @ (RemoteError::Unreachable { .. } | RemoteError::Stalled { .. } | RemoteError::Cut { .. })) => error,
                Err(error) => return Err(error),
            };
            if at > begun {
                (failures, pause) = (0, PAUSE);
            }
            failures += 1;
            if failures >= ATTEMPTS {
                return Err(failed);
            }
            tracing::debug!(blob = %part.digest, at, error = %failed, "a body was cut off, and goes on");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Asks for the rest of a blob once, and passes on what comes.
    async fn attempt(
        &self,
        repository: &Repository,
        part: &Descriptor,
        what: &str,
        at: &mut u64,
        pieces: &mpsc::Sender<Piece>,
        progress: &PartProgress<'_>,
    ) -> Result<(), RemoteError> {
        if *at == part.size && *at > 0 {
            return Ok(());
        }
        let begin = *at;
        let url = self.url(repository, &format!("blobs/{}", part.digest));
        let make =
            |request: reqwest::RequestBuilder| if begin > 0 { request.header(RANGE, format!("bytes={begin}-")) } else { request };
        let mut response = self.send(Method::GET, url, &Scope::pull(repository), self.options.patience, &make).await?;
        let status = response.status();
        // One that knows no ranges begins anew.
        let mut skip = match status {
            StatusCode::OK => begin,
            StatusCode::PARTIAL_CONTENT if begin > 0 && range_begins(&response) == Some(begin) => 0,
            status if status.is_server_error() => {
                return Err(RemoteError::Cut {
                    registry: self.registry.clone(),
                    digest: part.digest,
                    attempts: ATTEMPTS,
                    at: begin,
                });
            }
            _ => return Err(self.refusal(response, what).await),
        };
        while let Some(mut piece) = self.piece(&mut response).await? {
            let known = skip.min(piece.len() as u64);
            skip -= known;
            let _ = piece.split_to(usize::try_from(known).expect("no more than the piece has"));
            if *at + piece.len() as u64 > part.size {
                return Err(self.protocol(status.as_u16(), what, &format!("more comes than {} bytes", part.size)));
            }
            let length = piece.len() as u64;
            if length > 0 && pieces.send(Piece::Bytes(piece)).await.is_err() {
                // The writer has said why.
                return Ok(());
            }
            *at += length;
            progress(part, PartStep::Moved(*at));
        }
        match *at == part.size {
            true => Ok(()),
            false => Err(RemoteError::Cut { registry: self.registry.clone(), digest: part.digest, attempts: ATTEMPTS, at: *at }),
        }
    }
}

/// Some of a body, for the writer.
enum Piece {
    Bytes(bytes::Bytes),
    End,
}

/// The pieces as they come, waited for on a blocking thread.
fn pieces_of(mut waiting: mpsc::Receiver<Piece>) -> impl FnMut() -> Option<Piece> {
    move || waiting.blocking_recv()
}

/// Writes what comes, and keeps it if it ended and is what the digest names.
fn write(content: &Content, digest: Digest, mut next: impl FnMut() -> Option<Piece>) -> Result<Option<Ingested>, ContentError> {
    let mut sha512 = (digest.algorithm() == Algorithm::Sha512).then(Sha512::new);
    let mut spool = content.spool()?;
    loop {
        match next() {
            Some(Piece::Bytes(bytes)) => {
                spool.write(&bytes)?;
                if let Some(sha512) = &mut sha512 {
                    sha512.update(&bytes);
                }
            }
            Some(Piece::End) => break,
            None => return Ok(None),
        }
    }
    let hashed = content.hash_spooled(spool.end())?;
    let right = match digest {
        Digest::Sha256(sha256) => hashed.blob().sha256 == sha256,
        Digest::Sha512(bytes) => sha512.is_some_and(|sha512| sha512.finalize()[..] == bytes[..]),
    };
    if !right {
        return Ok(None);
    }
    let mut batch = content.batch();
    let blob = batch.add_hashed(hashed)?;
    batch.commit()?;
    Ok(Some(blob))
}

pub(super) fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Where the bytes of a partial answer begin.
pub(super) fn range_begins(response: &Response) -> Option<u64> {
    header(response, CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
