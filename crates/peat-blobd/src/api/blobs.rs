//! Single blobs over both APIs, as far as they have it in common, and in the words of the attachment API. The library does the work.

use std::sync::Arc;

use connectrpc::ConnectError;
use peat_blobapi::blob::RegistryTarget;
use peat_blobapi::sidecar::oneof::{export_blob_request, get_blob_status_request, import_blob_request};
use peat_blobapi::sidecar::{self, BlobState, ExportMethod};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::content::{BlobStatus, Exported, Pin};
use peat_blobcore::exchange::{ExchangeError, Placed};
use peat_blobcore::model::{BlobHash, RelativePath, Sha256Digest};
use peat_blobcore::oci::{Digest, ImageReference, Repository};
use peat_blobcore::registry::RegistryError;
use peat_blobcore::{BlobFilter, BlobSource, Error, ErrorKind};

use super::Daemon;
use super::errors::{answer, failed, invalid};
use super::images::{differs, platform, pull_from, remote_of};
use super::progress::Told;
use super::push::Target;
use super::upload::too_much;

/// The most that a call takes in itself.
const MAX_DATA_BYTES: usize = 4 * 1024 * 1024;
/// Blobs of a page, where it is not said, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| failed(Error::Stopped))?.map_err(failed)
}

/// Something that is in the store now.
pub(super) struct TakenIn {
    pub(super) hash: BlobHash,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) already_present: bool,
    blobs: Vec<sidecar::ImportedBlob>,
}

/// What both APIs do.
impl Daemon {
    /// Takes in a blob, if it is what was expected, and keeps it under the name of a pin if there is one.
    pub(super) async fn take_blob(
        &self,
        source: BlobSource,
        expected: Option<Sha256Digest>,
        pin: Option<String>,
    ) -> Result<TakenIn, ConnectError> {
        let taken = self.node.import_blob(source, expected, pin).await.map_err(|error| match error {
            Error::Registry(RegistryError::DigestDiffers { claimed, actual }) => differs(&claimed, &actual),
            Error::NothingToSend(why) => invalid("root_path.relative_path", why),
            Error::Exchange(ExchangeError::TooLarge { .. }) => too_much(format!("root_path: {error}"), "max_file_bytes"),
            error => failed(error),
        })?;
        let (blob, already_present) = (taken.blob, taken.already_present);
        Ok(TakenIn { hash: blob.hash, digest: Digest::Sha256(blob.sha256), size: blob.size, already_present, blobs: Vec::new() })
    }

    /// A file beneath a root, of no more bytes than the configuration allows.
    pub(super) fn file(&self, root_name: &str, relative_path: &str) -> Result<BlobSource, ConnectError> {
        let (root, path) = (self.root(root_name)?, relative(relative_path)?);
        Ok(BlobSource::File { root, path, most: self.config().max_file_bytes })
    }

    /// Writes a blob into a file beneath a root; how, and how many bytes that were.
    pub(super) async fn export_to_file(
        &self,
        hash: BlobHash,
        root_name: &str,
        relative_path: &str,
    ) -> Result<(Placed, u64), ConnectError> {
        let exported = self.node.export_blob(hash, self.root(root_name)?, relative(relative_path)?).await;
        exported.map_err(|error| match error {
            Error::Exchange(ExchangeError::SymlinkInTheWay { .. }) => invalid("root_path.relative_path", error),
            error => failed(error),
        })
    }

    /// What pushing a blob that is a manifest comes to: the digest, and a repository of this node that has it, that of the same
    /// name before others.
    pub(super) async fn manifest_of(
        &self,
        hash: BlobHash,
        digest: Option<Digest>,
        target: &Target,
    ) -> Result<(Repository, Digest), ConnectError> {
        let (content, registry) = (self.node.content().clone(), self.node.registry().clone());
        let like = target.image.repository.clone();
        let found = blocking(move || {
            let digest = match digest {
                Some(digest) => digest,
                None => match content.sha256_of(&hash)? {
                    Some(sha256) => Digest::Sha256(sha256),
                    None => return Ok(None),
                },
            };
            Ok(Some((registry.repository_with(&like, &digest)?, digest)))
        });
        found.await?.ok_or_else(|| unknown(format!("blob {hash} is not here")))
    }

    /// The blob with a digest, by what was hashed here.
    pub(super) async fn hash_of(&self, digest: Digest) -> Result<BlobHash, ConnectError> {
        let Digest::Sha256(sha256) = digest else {
            return Err(invalid("digest", "blobs are found by sha256 alone; give the BLAKE3 hash"));
        };
        let found = self.node.blob_of(sha256).await.map_err(failed)?;
        found.ok_or_else(|| unknown(format!("no blob {digest} is known here")))
    }

    fn root(&self, name: &str) -> Result<std::path::PathBuf, ConnectError> {
        let config: Arc<crate::Config> = self.config();
        config
            .outbox
            .get(name)
            .cloned()
            .ok_or_else(|| invalid("root_path.root_name", format_args!("{name:?} is no outbox root of this node")))
    }
}

/// How many a page has that is to have so many.
pub(super) fn page_size(asked: u32) -> usize {
    match asked as usize {
        0 => PAGE,
        size => size.min(MAX_PAGE),
    }
}

/// What a blob imported is to be, if it is said. Bytes and files are named by SHA-256.
pub(super) fn expected(text: &str) -> Result<Option<Sha256Digest>, ConnectError> {
    match text {
        "" => Ok(None),
        text => match digest_of("expected_digest", text)? {
            Digest::Sha256(sha256) => Ok(Some(sha256)),
            Digest::Sha512(_) => Err(invalid("expected_digest", "files and bytes are named by sha256 here")),
        },
    }
}

/// The name of a user's pin.
pub(super) fn pin_name(name: String) -> Result<String, ConnectError> {
    match name.len() {
        1..=1024 => Ok(name),
        _ => Err(invalid("pin_name", "give 1 to 1024 bytes, or none")),
    }
}

pub(super) fn pins(reasons: &[Pin]) -> Vec<String> {
    reasons.iter().map(ToString::to_string).collect()
}

fn relative(path: &str) -> Result<RelativePath, ConnectError> {
    RelativePath::parse(path.as_bytes()).map_err(|why| invalid("root_path.relative_path", why))
}

/// The attachment API.
impl Daemon {
    pub(super) async fn import_blob(
        &self,
        request: sidecar::ImportBlobRequest,
    ) -> Result<sidecar::ImportBlobResponse, ConnectError> {
        use import_blob_request::Source;
        let text = request.expected_digest.unwrap_or_default();
        let pin = request.pin_name.map(pin_name).transpose()?;
        let taken = match request.source {
            None => return Err(invalid("source", "say what: root_path, data or registry")),
            Some(Source::Data(bytes)) if bytes.len() > MAX_DATA_BYTES => {
                return Err(invalid("data", format_args!("{} bytes, more than {MAX_DATA_BYTES}; use root_path", bytes.len())));
            }
            Some(Source::Data(bytes)) => self.take_blob(BlobSource::Bytes(bytes), expected(&text)?, pin).await?,
            Some(Source::RootPath(path)) => {
                let file = self.file(&path.root_name, &path.relative_path)?;
                self.take_blob(file, expected(&text)?, pin).await?
            }
            Some(Source::Registry(named)) => self.take_image(&named, &text, pin).await?,
        };
        Ok(sidecar::ImportBlobResponse {
            digest: taken.digest.to_string(),
            blob_token: taken.hash.to_string(),
            size_bytes: taken.size,
            already_present: taken.already_present,
            blobs: taken.blobs,
            ..Default::default()
        })
    }

    async fn take_image(
        &self,
        named: &sidecar::RegistryReference,
        expected: &str,
        pin: Option<String>,
    ) -> Result<TakenIn, ConnectError> {
        let expected =
            Some(expected).filter(|text| !text.is_empty()).map(|text| digest_of("expected_digest", text)).transpose()?;
        let began = SystemClock.now();
        let image: ImageReference = named.reference.parse().map_err(|why| invalid("registry.reference", why))?;
        let Some(host) = image.registry.clone() else {
            return Err(invalid("registry.reference", "name the registry too: registry.example/team/app:1"));
        };
        let remote = remote_of(&host, named.insecure, None)?;
        let platform = platform(named.platform.as_deref().unwrap_or_default())?;
        let repository = image.repository.clone();
        let digest = pull_from(self, remote, image, platform, expected, Arc::default()).await?;
        let (registry, content) = (self.node.registry().clone(), self.node.content().clone());
        let (parts, already_present) = blocking(move || {
            let (_, parts) = registry.package(&repository, &digest)?;
            let mut all = true;
            for part in &parts {
                all &= content.listed(&part.hash)?.is_some_and(|listed| listed.added < began);
            }
            Ok((parts, all))
        })
        .await?;
        if let Some(pin) = pin {
            self.node.keep_blobs(pin, parts.iter().map(|part| part.hash).collect()).await.map_err(failed)?;
        }
        let hash = parts.first().expect("a package has its manifest first").hash;
        let size = parts.first().map_or(0, |part| part.size);
        let blobs = parts.into_iter().map(|part| sidecar::ImportedBlob {
            digest: part.digest.to_string(),
            blob_token: part.hash.to_string(),
            size_bytes: part.size,
            media_type: part.media_type,
            ..Default::default()
        });
        Ok(TakenIn { hash, digest, size, already_present, blobs: blobs.collect() })
    }

    pub(super) async fn export_blob(
        self: &Arc<Self>,
        request: sidecar::ExportBlobRequest,
    ) -> Result<sidecar::ExportBlobResponse, ConnectError> {
        use export_blob_request::{Blob, Target as To};
        let (hash, digest) = match request.blob {
            None => return Err(invalid("blob", "say which: blob_token or digest")),
            Some(Blob::BlobToken(token)) => (token_of(&token)?, None),
            Some(Blob::Digest(text)) => {
                let digest = digest_of("digest", &text)?;
                (self.hash_of(digest).await?, Some(digest))
            }
        };
        let (bytes_written, method) = match request.target {
            None => return Err(invalid("target", "say where to: root_path or registry")),
            Some(To::RootPath(path)) => {
                let (placed, bytes) = self.export_to_file(hash, &path.root_name, &path.relative_path).await?;
                let method = match placed {
                    Placed::Present => ExportMethod::EXPORT_METHOD_PRESENT,
                    Placed::New(Exported::Reflinked) => ExportMethod::EXPORT_METHOD_REFLINKED,
                    Placed::New(Exported::Copied) => ExportMethod::EXPORT_METHOD_COPIED,
                };
                (bytes, method)
            }
            Some(To::Registry(named)) => {
                let named = RegistryTarget { reference: named.reference, insecure: named.insecure, ..Default::default() };
                let target = Target::parse("registry", named)?;
                let (repository, digest) = self.manifest_of(hash, digest, &target).await?;
                let pushed = target.push(Arc::clone(self), repository, digest, Arc::<Told>::default()).await?;
                let is_new = pushed.sent > 0;
                (pushed.bytes, if is_new { ExportMethod::EXPORT_METHOD_PUSHED } else { ExportMethod::EXPORT_METHOD_PRESENT })
            }
        };
        Ok(sidecar::ExportBlobResponse { bytes_written, method: method.into(), ..Default::default() })
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
                Err(error) if error.code == connectrpc::ErrorCode::NotFound => {
                    return Ok(sidecar::GetBlobStatusResponse {
                        state: BlobState::BLOB_STATE_ABSENT.into(),
                        ..Default::default()
                    });
                }
                Err(error) => return Err(error),
            },
        };
        let details = self.node.blob(hash).await.map_err(failed)?;
        let (state, size_bytes, bytes_held) = match details.status {
            BlobStatus::Absent => (BlobState::BLOB_STATE_ABSENT, 0, 0),
            BlobStatus::Partial { size, held } => (BlobState::BLOB_STATE_PARTIAL, size, held),
            BlobStatus::Held { size } => (BlobState::BLOB_STATE_HELD, size, size),
            BlobStatus::Damaged => (BlobState::BLOB_STATE_DAMAGED, details.listed.map_or(0, |listed| listed.size), 0),
        };
        Ok(sidecar::GetBlobStatusResponse {
            state: state.into(),
            size_bytes,
            bytes_held,
            holders: details.holders.iter().map(ToString::to_string).collect(),
            pins: pins(&details.reasons),
            ..Default::default()
        })
    }

    pub(super) async fn list_blobs(
        &self,
        request: sidecar::ListBlobsRequest,
    ) -> Result<sidecar::ListBlobsResponse, ConnectError> {
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| invalid("page_token", "give what the page before gave"))?),
        };
        let damaged = match request.state.map(|state| state.as_known()) {
            None | Some(Some(BlobState::BLOB_STATE_UNSPECIFIED)) => None,
            Some(Some(BlobState::BLOB_STATE_HELD)) => Some(false),
            Some(Some(BlobState::BLOB_STATE_DAMAGED)) => Some(true),
            _ => return Err(invalid("state", "the list has what is held or damaged")),
        };
        let filter = BlobFilter { after, most: page_size(request.page_size), reason: request.pin_prefix, damaged };
        let page = self.node.blobs(filter).await.map_err(failed)?;
        let blobs = page.blobs.into_iter().map(|(listed, reasons)| sidecar::ListedBlob {
            blob_token: listed.hash.to_string(),
            digest: Digest::Sha256(listed.sha256).to_string(),
            size_bytes: listed.size,
            state: state_of(listed.status).into(),
            pins: pins(&reasons),
            ..Default::default()
        });
        let next_page_token = page.next.map(|hash| hash.to_string()).unwrap_or_default();
        Ok(sidecar::ListBlobsResponse { blobs: blobs.collect(), next_page_token, ..Default::default() })
    }
}

fn state_of(status: BlobStatus) -> BlobState {
    if status == BlobStatus::Damaged { BlobState::BLOB_STATE_DAMAGED } else { BlobState::BLOB_STATE_HELD }
}

fn token_of(text: &str) -> Result<BlobHash, ConnectError> {
    text.parse().map_err(|why| invalid("blob_token", why))
}

pub(super) fn digest_of(field: &str, text: &str) -> Result<Digest, ConnectError> {
    text.parse().map_err(|why| invalid(field, why))
}

fn unknown(message: String) -> ConnectError {
    answer(ErrorKind::NotFound, message, Some("look with ListBlobs for what is here".to_owned()))
}
