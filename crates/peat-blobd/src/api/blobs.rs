//! Single blobs over the attachment API: taken in, given out, looked at. The store and the registry do the work.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::ConnectError;
use peat_blobapi::sidecar::oneof::{export_blob_request, get_blob_status_request, import_blob_request};
use peat_blobapi::sidecar::{self, BlobState, ExportMethod};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::content::{BlobStatus, Exported, Ingested, Listed, Pin};
use peat_blobcore::exchange::{Placed, export};
use peat_blobcore::model::{BlobHash, FileEntry, Files, RelativePath};
use peat_blobcore::oci::{Digest, ImageReference, Repository};
use peat_blobcore::registry::RegistryError;
use peat_blobcore::{Error, ErrorKind};

use super::Daemon;
use super::errors::{answer, failed, invalid};
use super::images::{platform, pull_from, remote_of};
use super::upload::too_much;

/// The most that a call takes in itself.
const MAX_DATA_BYTES: usize = 4 * 1024 * 1024;
/// Blobs of a page, where it is not said, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Blobs that are looked at for one page, so that a filter that fits little ends the call all the same.
const MAX_LOOKED_AT: usize = 100_000;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| failed(Error::Stopped))?.map_err(failed)
}

/// Something that is in the store now.
struct TakenIn {
    hash: BlobHash,
    digest: Digest,
    size: u64,
    blobs: Vec<sidecar::ImportedBlob>,
}

impl Daemon {
    pub(super) async fn import_blob(
        &self,
        request: sidecar::ImportBlobRequest,
    ) -> Result<sidecar::ImportBlobResponse, ConnectError> {
        use import_blob_request::Source;
        let expected = request.expected_digest.as_deref().map(|text| digest_of("expected_digest", text)).transpose()?;
        if matches!(expected, Some(Digest::Sha512(_))) && !matches!(request.source, Some(Source::Registry(_))) {
            return Err(invalid("expected_digest", "files and bytes are named by sha256 here"));
        }
        if request.pin_name.as_deref().is_some_and(|name| name.is_empty() || name.len() > 1024) {
            return Err(invalid("pin_name", "give 1 to 1024 bytes, or none"));
        }
        let began = SystemClock.now();
        let taken = match request.source {
            None => return Err(invalid("source", "say what: root_path, data or registry")),
            Some(Source::Data(bytes)) if bytes.len() > MAX_DATA_BYTES => {
                return Err(invalid("data", format_args!("{} bytes, more than {MAX_DATA_BYTES}; use root_path", bytes.len())));
            }
            Some(Source::Data(bytes)) => {
                let Ingested { hash, sha256, size } = self.node.take_bytes(bytes).await.map_err(failed)?;
                TakenIn { hash, digest: Digest::Sha256(sha256), size, blobs: Vec::new() }
            }
            Some(Source::RootPath(path)) => self.take_file(&path).await?,
            Some(Source::Registry(named)) => self.take_image(&named).await?,
        };
        if let Some(expected) = expected.filter(|expected| *expected != taken.digest) {
            let why = format_args!("what was taken in is {}, not {expected}; it goes by itself in an hour", taken.digest);
            return Err(invalid("expected_digest", why));
        }
        let hashes: Vec<BlobHash> = match taken.blobs.is_empty() {
            true => vec![taken.hash],
            false => taken.blobs.iter().filter_map(|blob| blob.blob_token.parse().ok()).collect(),
        };
        let (content, pin) = (self.node.content().clone(), request.pin_name.map(Pin::User));
        let kept = hashes.clone();
        blocking(move || Ok(pin.map_or(Ok(()), |pin| content.pin(&pin, &kept))?)).await?;
        let content = self.node.content().clone();
        let is_old = move |listed: Option<Listed>| listed.is_some_and(|listed| listed.added < began);
        let already_present = blocking(move || {
            let mut all = true;
            for hash in hashes {
                all &= is_old(content.listed(&hash)?);
            }
            Ok(all)
        })
        .await?;
        Ok(sidecar::ImportBlobResponse {
            digest: taken.digest.to_string(),
            blob_token: taken.hash.to_string(),
            size_bytes: taken.size,
            already_present,
            blobs: taken.blobs,
            ..Default::default()
        })
    }

    async fn take_file(&self, path: &sidecar::RootPath) -> Result<TakenIn, ConnectError> {
        let root = self.root(&path.root_name)?;
        let relative =
            RelativePath::parse(path.relative_path.as_bytes()).map_err(|why| invalid("root_path.relative_path", why))?;
        let found = tokio::fs::symlink_metadata(root.join(relative.as_str())).await;
        if let (Ok(found), Some(most)) = (&found, self.config().max_file_bytes)
            && found.len() > most
        {
            return Err(too_much(format!("root_path: more than {most}"), "max_file_bytes"));
        }
        let taken =
            self.node.take_in(root, path.root_name.clone(), vec![PathBuf::from(relative.as_str())]).await.map_err(failed)?;
        if let Some(skipped) = taken.skipped.first() {
            return Err(invalid("root_path.relative_path", &skipped.reason));
        }
        let Ok([file]) = <[FileEntry; 1]>::try_from(taken.files) else {
            return Err(invalid("root_path.relative_path", "it is not a regular file"));
        };
        Ok(TakenIn { hash: file.blob, digest: Digest::Sha256(file.sha256), size: file.size, blobs: Vec::new() })
    }

    async fn take_image(&self, named: &sidecar::RegistryReference) -> Result<TakenIn, ConnectError> {
        let image: ImageReference = named.reference.parse().map_err(|why| invalid("registry.reference", why))?;
        let Some(host) = image.registry.clone() else {
            return Err(invalid("registry.reference", "name the registry too: registry.example/team/app:1"));
        };
        let remote = remote_of(&host, named.insecure, None)?;
        let platform = platform(named.platform.as_deref().unwrap_or_default())?;
        let repository = image.repository.clone();
        let digest = pull_from(self, remote, image, platform).await?;
        let registry = self.node.registry().clone();
        let (_, parts) = blocking(move || Ok(registry.package(&repository, &digest)?)).await?;
        let hash = parts.first().expect("a package has its manifest first").hash;
        let size = parts.first().map_or(0, |part| part.size);
        let blobs = parts.into_iter().map(|part| sidecar::ImportedBlob {
            digest: part.digest.to_string(),
            blob_token: part.hash.to_string(),
            size_bytes: part.size,
            media_type: part.media_type,
            ..Default::default()
        });
        Ok(TakenIn { hash, digest, size, blobs: blobs.collect() })
    }

    pub(super) async fn export_blob(
        &self,
        request: sidecar::ExportBlobRequest,
    ) -> Result<sidecar::ExportBlobResponse, ConnectError> {
        use export_blob_request::{Blob, Target};
        let (hash, digest) = match request.blob {
            None => return Err(invalid("blob", "say which: blob_token or digest")),
            Some(Blob::BlobToken(token)) => (token_of(&token)?, None),
            Some(Blob::Digest(text)) => {
                let digest = digest_of("digest", &text)?;
                (self.hash_of(digest).await?, Some(digest))
            }
        };
        match request.target {
            None => Err(invalid("target", "say where to: root_path or registry")),
            Some(Target::RootPath(path)) => self.export_to_file(hash, &path).await,
            Some(Target::Registry(named)) => self.export_to_registry(hash, digest, &named).await,
        }
    }

    async fn export_to_file(
        &self,
        hash: BlobHash,
        path: &sidecar::RootPath,
    ) -> Result<sidecar::ExportBlobResponse, ConnectError> {
        let root = self.root(&path.root_name)?;
        let relative =
            RelativePath::parse(path.relative_path.as_bytes()).map_err(|why| invalid("root_path.relative_path", why))?;
        let content = self.node.content().clone();
        let (placed, size) = blocking(move || {
            let size = content.open_blob(&hash)?.size();
            Ok((export(&content, &hash, &root, &relative)?, size))
        })
        .await?;
        let (bytes_written, method) = match placed {
            Placed::Present => (0, ExportMethod::EXPORT_METHOD_PRESENT),
            Placed::New(Exported::Reflinked) => (size, ExportMethod::EXPORT_METHOD_REFLINKED),
            Placed::New(Exported::Copied) => (size, ExportMethod::EXPORT_METHOD_COPIED),
        };
        Ok(sidecar::ExportBlobResponse { bytes_written, method: method.into(), ..Default::default() })
    }

    async fn export_to_registry(
        &self,
        hash: BlobHash,
        digest: Option<Digest>,
        named: &sidecar::RegistryReference,
    ) -> Result<sidecar::ExportBlobResponse, ConnectError> {
        let image: ImageReference = named.reference.parse().map_err(|why| invalid("registry.reference", why))?;
        let Some(host) = image.registry.clone() else {
            return Err(invalid("registry.reference", "name the registry too: registry.example/team/app:1"));
        };
        let remote = remote_of(&host, named.insecure, None)?;
        let content = self.node.content().clone();
        let digest = match digest {
            Some(digest) => digest,
            None => Digest::Sha256(blocking(move || Ok(content.sha256_of(&hash)?)).await?.ok_or_else(|| absent(&hash))?),
        };
        let repository = self.repository_with(&image.repository, digest).await?;
        let (registry, runtime) = (self.node.registry().clone(), tokio::runtime::Handle::current());
        let push = blocking(move || Ok(registry.push(&repository, &digest, &remote, &image, &runtime)?));
        let pushed = tokio::select! {
            pushed = push => pushed?,
            () = self.stopped() => return Err(failed(Error::Stopped)),
        };
        let method = if pushed.sent == 0 { ExportMethod::EXPORT_METHOD_PRESENT } else { ExportMethod::EXPORT_METHOD_PUSHED };
        Ok(sidecar::ExportBlobResponse { bytes_written: pushed.bytes, method: method.into(), ..Default::default() })
    }

    /// A repository of this node that has a manifest, that of the same name before others.
    async fn repository_with(&self, like: &Repository, digest: Digest) -> Result<Repository, ConnectError> {
        let (registry, like) = (self.node.registry().clone(), like.clone());
        let missing = RegistryError::NoManifest { repository: like.clone(), reference: digest.into() };
        let found = blocking(move || {
            if registry.describe(&like, &digest)?.is_some() {
                return Ok(Some(like));
            }
            let mut after: Option<String> = None;
            loop {
                let page = registry.repositories(after.as_deref(), MAX_PAGE)?;
                for repository in &page.items {
                    if registry.describe(repository, &digest)?.is_some() {
                        return Ok(Some(repository.clone()));
                    }
                }
                match page.items.last() {
                    Some(last) if page.more => after = Some(last.to_string()),
                    _ => return Ok(None),
                }
            }
        });
        found.await?.ok_or_else(|| failed(missing))
    }

    pub(super) async fn blob_status(
        &self,
        request: sidecar::GetBlobStatusRequest,
    ) -> Result<sidecar::GetBlobStatusResponse, ConnectError> {
        use get_blob_status_request::Blob;
        let hash = match request.blob {
            None => return Err(invalid("blob", "say which: blob_token or digest")),
            Some(Blob::BlobToken(token)) => token_of(&token)?,
            Some(Blob::Digest(text)) => match self.hash_of(digest_of("digest", &text)?).await {
                Ok(hash) => hash,
                // A digest that was never computed here is of nothing that is here.
                Err(_) => {
                    return Ok(sidecar::GetBlobStatusResponse {
                        state: BlobState::BLOB_STATE_ABSENT.into(),
                        ..Default::default()
                    });
                }
            },
        };
        let content = self.node.content().clone();
        let (status, reasons, size) = blocking(move || {
            Ok((content.status(&hash)?, content.reasons(&hash)?, content.listed(&hash)?.map(|listed| listed.size)))
        })
        .await?;
        let (state, size_bytes, bytes_held) = match status {
            BlobStatus::Absent => (BlobState::BLOB_STATE_ABSENT, 0, 0),
            BlobStatus::Partial { size, held } => (BlobState::BLOB_STATE_PARTIAL, size, held),
            BlobStatus::Held { size } => (BlobState::BLOB_STATE_HELD, size, size),
            BlobStatus::Damaged => (BlobState::BLOB_STATE_DAMAGED, size.unwrap_or_default(), 0),
        };
        Ok(sidecar::GetBlobStatusResponse {
            state: state.into(),
            size_bytes,
            bytes_held,
            holders: self.holders(&hash).await?.into_iter().collect(),
            pins: reasons.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    }

    /// Who says in a document that names the blob that they have all of that.
    async fn holders(&self, hash: &BlobHash) -> Result<BTreeSet<String>, ConnectError> {
        let mut holders = BTreeSet::new();
        for id in self.node.distributions() {
            // It may have been forgotten since.
            let Ok(distribution) = self.node.distribution(id).await else { continue };
            let names = match &distribution.manifest.files {
                Files::Inline(files) => files.iter().any(|file| file.blob == *hash),
                Files::List { blob, .. } => blob == hash,
            };
            if names {
                let records = distribution.targets.iter().chain(&distribution.carriers);
                holders.extend(records.filter(|(_, record)| record.state.is_holder()).map(|(id, _)| *id));
                holders.insert(distribution.manifest.sender);
            }
        }
        holders.remove(&self.node.id());
        Ok(holders.iter().map(ToString::to_string).collect())
    }

    pub(super) async fn list_blobs(
        &self,
        request: sidecar::ListBlobsRequest,
    ) -> Result<sidecar::ListBlobsResponse, ConnectError> {
        let size = match request.page_size as usize {
            0 => PAGE,
            size => size.min(MAX_PAGE),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| invalid("page_token", "give what the page before gave"))?),
        };
        let state = match request.state.map(|state| state.as_known()) {
            None | Some(Some(BlobState::BLOB_STATE_UNSPECIFIED)) => None,
            Some(Some(state @ (BlobState::BLOB_STATE_HELD | BlobState::BLOB_STATE_DAMAGED))) => Some(state),
            _ => return Err(invalid("state", "the list has what is held or damaged")),
        };
        let content = self.node.content().clone();
        let (blobs, next) = blocking(move || {
            let (mut blobs, mut after, mut looked_at) = (Vec::new(), after, 0);
            loop {
                let page = content.list(after, MAX_PAGE)?;
                let whole = page.len() == MAX_PAGE;
                for listed in page {
                    after = Some(listed.hash);
                    looked_at += 1;
                    let is = state_of(listed.status);
                    let pins: Vec<String> = content.reasons(&listed.hash)?.iter().map(ToString::to_string).collect();
                    let kept = request.pin_prefix.as_ref().is_none_or(|prefix| pins.iter().any(|pin| pin.starts_with(prefix)));
                    if kept && state.is_none_or(|state| state == is) {
                        blobs.push(sidecar::ListedBlob {
                            blob_token: listed.hash.to_string(),
                            digest: Digest::Sha256(listed.sha256).to_string(),
                            size_bytes: listed.size,
                            state: is.into(),
                            pins,
                            ..Default::default()
                        });
                    }
                    if blobs.len() == size || looked_at == MAX_LOOKED_AT {
                        return Ok((blobs, after));
                    }
                }
                if !whole {
                    return Ok((blobs, None));
                }
            }
        })
        .await?;
        let next_page_token = next.map(|hash| hash.to_string()).unwrap_or_default();
        Ok(sidecar::ListBlobsResponse { blobs, next_page_token, ..Default::default() })
    }

    /// The blob with a digest, by what was hashed here.
    async fn hash_of(&self, digest: Digest) -> Result<BlobHash, ConnectError> {
        let Digest::Sha256(sha256) = digest else {
            return Err(invalid("digest", "blobs are found by sha256 alone; give blob_token"));
        };
        let content = self.node.content().clone();
        let found = blocking(move || Ok(content.digest(&sha256)?)).await?;
        found.ok_or_else(|| unknown(format!("no blob {digest} is known here")))
    }

    fn root(&self, name: &str) -> Result<PathBuf, ConnectError> {
        let config: Arc<crate::Config> = self.config();
        config
            .outbox
            .get(name)
            .cloned()
            .ok_or_else(|| invalid("root_path.root_name", format_args!("{name:?} is no outbox root of this node")))
    }
}

fn state_of(status: BlobStatus) -> BlobState {
    if status == BlobStatus::Damaged { BlobState::BLOB_STATE_DAMAGED } else { BlobState::BLOB_STATE_HELD }
}

fn token_of(text: &str) -> Result<BlobHash, ConnectError> {
    text.parse().map_err(|why| invalid("blob_token", why))
}

fn digest_of(field: &str, text: &str) -> Result<Digest, ConnectError> {
    text.parse().map_err(|why| invalid(field, why))
}

fn absent(hash: &BlobHash) -> ConnectError {
    unknown(format!("blob {hash} is not here"))
}

fn unknown(message: String) -> ConnectError {
    answer(ErrorKind::NotFound, message, Some("look with ListBlobs for what is here".to_owned()))
}
