//! From the store into a registry: what it has is not sent, what another repository of it has is mounted, and a manifest comes
//! after all that it names.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::{Inner, Remote, RemoteError, Scope, blocking};
use crate::content::{Content, ContentError};
use crate::model::BlobHash;
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Reference, Repository};
use crate::registry::closure::{Closure, is_manifest};
use crate::registry::{PartProgress, PartStep};

/// Bytes of the first piece of an upload; what is no longer is sent in one request.
const FIRST_PIECE_BYTES: u64 = 1024 * 1024;
/// Most bytes of a piece, all of which are in memory.
const MAX_PIECE_BYTES: u64 = 16 * 1024 * 1024;
/// A piece takes about as long, by the rate of the one before.
const PIECE_TIME: Duration = Duration::from_secs(2);
/// How often a piece is tried before the upload is given up.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// What a push did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Blobs and manifests that were sent.
    pub sent: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Blobs that were mounted from another repository.
    pub mounted: u64,
    /// Blobs and manifests that were there.
    pub present: u64,
}

impl std::ops::AddAssign for Pushed {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.bytes += other.bytes;
        self.mounted += other.mounted;
        self.present += other.present;
    }
}

impl Remote {
    /// Pushes an image or artifact with all that belongs to it. `reference` is the tag that it gets, or its digest; `mount_from`
    /// says in which repositories of the registry a blob may be. `lookup` says where the bytes of a digest are. `progress` hears
    /// what becomes of each blob and manifest.
    ///
    /// # Errors
    /// [`RemoteError`]; what was sent by then stays, and is not sent again.
    #[allow(clippy::too_many_arguments, reason = "each is something else, and a struct of them would have one user")]
    pub async fn push(
        &self,
        content: &Content,
        lookup: &(dyn Fn(&Digest) -> Option<BlobHash> + Sync),
        root: &Descriptor,
        repository: &Repository,
        reference: &Reference,
        mount_from: &(dyn Fn(&Digest) -> Vec<Repository> + Sync),
        progress: &PartProgress<'_>,
    ) -> Result<Pushed, RemoteError> {
        let mut closure = Closure::of(root.clone());
        let (mut manifests, mut pushed) = (BTreeMap::new(), Pushed::default());
        let push = Push { remote: &self.0, content, repository, mount_from, progress };
        while let Some(part) = closure.step() {
            let hash = lookup(&part.digest).ok_or(RemoteError::Missing(part.digest))?;
            if is_manifest(&part) {
                let bytes =
                    blocking(push.content, move |content| content.read_blob(&hash, MAX_MANIFEST_BYTES as u64 + 1)).await?;
                closure.read(&part, &bytes)?;
                manifests.insert(part.digest, (part, bytes));
            } else {
                let step = push.blob(&part, hash).await?;
                push.count(&part, step, &mut pushed);
            }
        }
        for digest in closure.upwards() {
            let Some((part, bytes)) = manifests.remove(&digest) else { continue };
            let reference = if digest == root.digest { reference.clone() } else { Reference::Digest(digest) };
            let step = push.manifest(&part, &reference, bytes).await?;
            push.count(&part, step, &mut pushed);
        }
        Ok(pushed)
    }
}

/// A push that is under way.
struct Push<'a> {
    remote: &'a Inner,
    content: &'a Content,
    repository: &'a Repository,
    mount_from: &'a (dyn Fn(&Digest) -> Vec<Repository> + Sync),
    progress: &'a PartProgress<'a>,
}

impl Push<'_> {
    fn count(&self, part: &Descriptor, step: PartStep, pushed: &mut Pushed) {
        match step {
            PartStep::Mounted => pushed.mounted += 1,
            PartStep::Present => pushed.present += 1,
            PartStep::Moved(_) | PartStep::Done => {
                pushed.sent += 1;
                pushed.bytes += part.size;
            }
        }
        (self.progress)(part, step);
    }

    async fn manifest(&self, part: &Descriptor, reference: &Reference, bytes: Vec<u8>) -> Result<PartStep, RemoteError> {
        let what = format!("{} {reference}", self.repository);
        let url = self.remote.url(self.repository, &format!("manifests/{reference}"));
        if matches!(reference, Reference::Digest(_)) && self.has(url.clone()).await? {
            return Ok(PartStep::Present);
        }
        let length = bytes.len() as u64;
        let bytes = bytes::Bytes::from(bytes);
        let make = |request: RequestBuilder| request.header(CONTENT_TYPE, &part.media_type).body(bytes.clone());
        let response = self.send(Method::PUT, url, length, &make).await?;
        if response.status() != StatusCode::CREATED {
            return Err(self.remote.refusal(response, &what).await);
        }
        let told = response.headers().get("docker-content-digest").and_then(|told| told.to_str().ok());
        if told.is_some_and(|told| told != part.digest.to_string() && told.starts_with(part.digest.algorithm().as_str())) {
            return Err(RemoteError::Mismatch { registry: self.remote.registry.clone(), digest: part.digest });
        }
        Ok(PartStep::Done)
    }

    async fn blob(&self, part: &Descriptor, hash: BlobHash) -> Result<PartStep, RemoteError> {
        if self.has(self.remote.url(self.repository, &format!("blobs/{}", part.digest))).await? {
            return Ok(PartStep::Present);
        }
        let what = format!("{} {}", self.repository, part.digest);
        let mut begun = None;
        for from in (self.mount_from)(&part.digest).iter().filter(|from| *from != self.repository) {
            // A mount from where it is not would begin an upload, and be the only one that is tried. Where it cannot even be asked, it is
            // sent.
            if !self.is_in(from, &part.digest).await.unwrap_or(false) {
                continue;
            }
            let mut url = self.remote.url(self.repository, "blobs/uploads/");
            url.query_pairs_mut().append_pair("mount", &part.digest.to_string()).append_pair("from", from.as_str());
            let mut scope = Scope::push(self.repository);
            scope.scopes.extend(Scope::pull(from).scopes);
            let patience = self.remote.options.patience;
            let Ok(response) = self.remote.send(Method::POST, url, &scope, patience, &empty).await else { continue };
            match response.status() {
                StatusCode::CREATED => return Ok(PartStep::Mounted),
                // It mounts nothing, and has begun an upload instead.
                StatusCode::ACCEPTED => {
                    begun = Some(response);
                    break;
                }
                _ => {}
            }
        }
        let begun = match begun {
            Some(begun) => begun,
            None => self.send(Method::POST, self.remote.url(self.repository, "blobs/uploads/"), 0, &empty).await?,
        };
        if begun.status() != StatusCode::ACCEPTED {
            return Err(self.remote.refusal(begun, &what).await);
        }
        self.upload(part, hash, begun, &what).await?;
        Ok(PartStep::Done)
    }

    /// Whether another repository of the registry has a blob that whoever asks may read.
    async fn is_in(&self, repository: &Repository, digest: &Digest) -> Result<bool, RemoteError> {
        let url = self.remote.url(repository, &format!("blobs/{digest}"));
        let patience = self.remote.options.patience;
        let response = self.remote.send(Method::HEAD, url, &Scope::pull(repository), patience, &|request| request).await?;
        Ok(response.status() == StatusCode::OK)
    }

    /// Sends a blob's bytes, in one request if it is small, else piece by piece.
    async fn upload(&self, part: &Descriptor, hash: BlobHash, begun: Response, what: &str) -> Result<(), RemoteError> {
        let least = begun.headers().get("oci-chunk-min-length").and_then(|least| least.to_str().ok()?.parse::<u64>().ok());
        let least = least.unwrap_or(0).min(MAX_PIECE_BYTES);
        let mut at_url = self.location(&begun)?;
        let (mut at, mut length) = (0, FIRST_PIECE_BYTES.max(least));
        while part.size > FIRST_PIECE_BYTES.max(least) && at < part.size {
            let bytes = self.read(part, hash, at, length.min(part.size - at)).await?;
            let started = Instant::now();
            let sent = bytes.len() as u64;
            at_url = self.piece(at_url, at, bytes, what).await?;
            at += sent;
            (self.progress)(part, PartStep::Moved(at));
            length = next_length(sent, started.elapsed()).max(least);
        }
        let rest = if at < part.size { self.read(part, hash, at, part.size - at).await? } else { bytes::Bytes::new() };
        let sent = rest.len() as u64;
        at_url.query_pairs_mut().append_pair("digest", &part.digest.to_string());
        let make = |request: RequestBuilder| {
            request.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, sent).body(rest.clone())
        };
        let response = self.send(Method::PUT, at_url, sent, &make).await?;
        if response.status() != StatusCode::CREATED {
            return Err(self.remote.refusal(response, what).await);
        }
        Ok(())
    }

    /// Sends a piece, and what the registry does not have of it again where the connection broke. Gives where the next one goes.
    async fn piece(&self, mut url: Url, mut at: u64, mut bytes: bytes::Bytes, what: &str) -> Result<Url, RemoteError> {
        let end = at + bytes.len() as u64;
        let (mut pause, mut failures) = (PAUSE, 0);
        // Whether it came is known to the registry alone.
        let mut asks = false;
        loop {
            let failed = match asks {
                false => match self.send_piece(url.clone(), at, bytes.clone()).await {
                    Ok(response) if response.status() == StatusCode::ACCEPTED => return self.location(&response),
                    Ok(response) => return Err(self.remote.refusal(response, what).await),
                    Err(error) => error,
                },
                true => match self.send(Method::GET, url.clone(), 0, &|request| request).await {
                    Ok(response) if response.status() == StatusCode::NO_CONTENT => {
                        url = self.location(&response).unwrap_or(url);
                        let has = received(&response);
                        if has == end {
                            return Ok(url);
                        }
                        // Of nothing it says the same as of one byte: that one is sent again, where it is not there.
                        let has = if at == 0 && has <= 1 { 0 } else { has };
                        if has < at || has > end {
                            return Err(self.remote.protocol(204, what, &format!("it has {has} bytes of an upload of {at}")));
                        }
                        let known = usize::try_from(has - at).expect("no more than the piece has");
                        (at, bytes, asks) = (has, bytes.slice(known..), false);
                        continue;
                    }
                    Ok(response) => return Err(self.remote.refusal(response, what).await),
                    Err(error) => error,
                },
            };
            failures += 1;
            let again = matches!(failed, RemoteError::Unreachable { .. } | RemoteError::Stalled { .. });
            if !again || failures >= ATTEMPTS {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            (pause, asks) = (pause * 2, true);
        }
    }

    async fn send_piece(&self, url: Url, at: u64, bytes: bytes::Bytes) -> Result<Response, RemoteError> {
        let length = bytes.len() as u64;
        let make = |request: RequestBuilder| {
            let range = format!("{at}-{}", at + length - 1);
            let request = request.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_RANGE, range);
            request.header(CONTENT_LENGTH, length).body(bytes.clone())
        };
        self.send(Method::PATCH, url, length, &make).await
    }

    /// Where an upload goes on: as it is told, relative or not.
    fn location(&self, response: &Response) -> Result<Url, RemoteError> {
        let told = response.headers().get(LOCATION).and_then(|told| told.to_str().ok()).unwrap_or_default();
        let url = response.url().join(told).ok().filter(|_| !told.is_empty());
        url.ok_or_else(|| RemoteError::BadAddress(told.chars().take(200).collect(), "an upload cannot go on there"))
    }

    /// Whether the registry has something.
    async fn has(&self, url: Url) -> Result<bool, RemoteError> {
        let what = url.path().to_owned();
        let make =
            |request: RequestBuilder| request.header(reqwest::header::ACCEPT, crate::oci::media_type::MANIFESTS.join(", "));
        let response = self.send(Method::HEAD, url, 0, &make).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.remote.refusal(response, &what).await),
        }
    }

    /// Sends a request, with time for so many bytes to go out.
    async fn send(
        &self,
        method: Method,
        url: Url,
        bytes: u64,
        make: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, RemoteError> {
        // Over slower links than 8 KiB a second nothing is pushed.
        let patience = self.remote.options.patience + Duration::from_secs(bytes / 8192);
        self.remote.send(method, url, &Scope::push(self.repository), patience, make).await
    }

    async fn read(&self, part: &Descriptor, hash: BlobHash, at: u64, length: u64) -> Result<bytes::Bytes, RemoteError> {
        let size = part.size;
        let bytes = blocking(self.content, move |content| {
            let reader = content.open_blob(&hash)?;
            if reader.size() != size {
                return Err(ContentError::SizeDiffers { hash, claimed: size, actual: reader.size() });
            }
            let mut bytes = vec![0; usize::try_from(length).expect("at most a piece")];
            let mut read = 0;
            while read < bytes.len() {
                match reader.read_at(at + read as u64, &mut bytes[read..])? {
                    0 => return Err(ContentError::Absent(hash)),
                    more => read += more,
                }
            }
            Ok(bytes)
        })
        .await?;
        Ok(bytes.into())
    }
}

/// A request without a body says so.
fn empty(request: RequestBuilder) -> RequestBuilder {
    request.header(CONTENT_LENGTH, 0)
}

/// How long the next piece may be, after one of so many bytes took so long.
fn next_length(sent: u64, took: Duration) -> u64 {
    let rate = sent as f64 / took.as_secs_f64().max(0.001);
    ((rate * PIECE_TIME.as_secs_f64()) as u64).clamp(sent / 4, sent.saturating_mul(2)).clamp(64 * 1024, MAX_PIECE_BYTES)
}

/// Bytes of an upload that the registry says that it has.
fn received(response: &Response) -> u64 {
    let range = response.headers().get(RANGE).and_then(|range| range.to_str().ok());
    range.and_then(|range| range.rsplit_once('-')?.1.parse::<u64>().ok()).map_or(0, |last| last.saturating_add(1))
}
