//! Single blobs over the API of our own.

use std::collections::BTreeMap;
use std::sync::Arc;

use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use n0_future::{StreamExt as _, stream};
use peat_blobapi::blob::oneof::{export_blob_request, export_blob_response, import_blob_request};
use peat_blobapi::blob::{self, BlobState, ExportMethod, StoreService};
use peat_blobcore::content::{BlobStatus, Exported, Listed, Pin, Release};
use peat_blobcore::exchange::Placed;
use peat_blobcore::model::BlobHash;
use peat_blobcore::oci::Digest;
use peat_blobcore::registry::remote::Pushed;
use peat_blobcore::{BlobFilter, BlobSource, Error};

use super::blobs::{TakenIn, digest_of, expected, page_size, pin_name, pins};
use super::errors::{failed, invalid};
use super::progress::{Told, follow};
use super::push::Target;
use super::upload::too_much;
use super::{Daemon, streams};
use crate::silence;

/// The service.
pub(crate) struct Store(pub(crate) Arc<Daemon>);

impl Store {
    /// The blob that somebody names by its hash or its digest, and the digest if it was that.
    async fn named(&self, text: &str) -> Result<(BlobHash, Option<Digest>), ConnectError> {
        if text.contains(':') {
            let digest = digest_of("blob", text)?;
            return Ok((self.0.hash_of(digest).await?, Some(digest)));
        }
        let hash =
            text.parse().map_err(|_| invalid("blob", format_args!("{text:?} is none: give 64 hex digits, or sha256:…")))?;
        Ok((hash, None))
    }

    async fn import(&self, mut requests: InboundStream<blob::ImportBlobRequest>) -> Result<TakenIn, ConnectError> {
        use import_blob_request::Part;
        let options = match requests.next().await.transpose()?.and_then(|first| first.to_owned_message().part) {
            Some(Part::Options(options)) => options,
            _ => return Err(invalid("options", "they come first")),
        };
        let digest = expected(&options.expected_digest)?;
        let pin = Some(options.pin_name.clone()).filter(|name| !name.is_empty()).map(pin_name).transpose()?;
        if let Some(path) = options.root_path.as_option() {
            let file = self.0.file(&path.root_name, &path.relative_path)?;
            return self.0.take_blob(file, digest, pin).await;
        }
        let most = self.0.config().max_file_bytes;
        let mut spool = self.0.node.content().spool().map_err(failed)?;
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = self.0.stopped() => return Err(failed(Error::Stopped)),
            };
            match request.transpose()?.map(|request| request.to_owned_message().part) {
                Some(Some(Part::Chunk(chunk))) => {
                    if let Some(most) = most.filter(|most| spool.size() + chunk.len() as u64 > *most) {
                        return Err(too_much(format!("chunk: more than {most} bytes"), "max_file_bytes"));
                    }
                    // Writing may block, on a full page cache for seconds.
                    let written = tokio::task::spawn_blocking(move || spool.write(&chunk).map(|()| spool));
                    spool = written.await.map_err(|_| failed(Error::Stopped))?.map_err(failed)?;
                }
                Some(_) => return Err(invalid("part", "after the options come chunks")),
                None => break,
            }
        }
        self.0.take_blob(BlobSource::Spooled(spool.end()), digest, pin).await
    }
}

// The generated traits return what can be encoded as a message; these return the messages.
#[allow(refining_impl_trait)]
impl StoreService for Store {
    async fn import_blob(
        &self,
        ctx: RequestContext,
        requests: InboundStream<blob::ImportBlobRequest>,
    ) -> ServiceResult<blob::ImportBlobResponse> {
        let taken = self.import(silence::explained(&ctx, requests)).await?;
        Response::ok(blob::ImportBlobResponse {
            blob: taken.hash.to_string(),
            digest: taken.digest.to_string(),
            size: taken.size,
            already_present: taken.already_present,
            ..Default::default()
        })
    }

    async fn export_blob(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ExportBlobRequest>,
    ) -> ServiceResult<ServiceStream<blob::ExportBlobResponse>> {
        use export_blob_request::Target as To;
        let request = request.to_owned_message();
        let (hash, digest) = self.named(&request.blob).await?;
        let size = self.0.node.content().open_blob(&hash).map_err(failed)?.size();
        let stream: ServiceStream<blob::ExportBlobResponse> = match request.target {
            None => {
                let reader = self.0.node.content().open_blob(&hash).map_err(failed)?;
                let chunks = streams::read(reader, hash, 0).filter_map(|part| match part {
                    Ok(part) if part.chunk.is_empty() => None,
                    part => Some(part.map(|part| response(export_blob_response::Part::Chunk(part.chunk)))),
                });
                let end = report(hash, size, size, ExportMethod::EXPORT_METHOD_UNSPECIFIED);
                // The bytes are known to be right when they end well: an error ends the stream before this.
                Box::pin(until_error(Box::pin(chunks), end))
            }
            Some(To::RootPath(path)) => {
                let (placed, bytes) = self.0.export_to_file(hash, &path.root_name, &path.relative_path).await?;
                let method = match placed {
                    Placed::Present => ExportMethod::EXPORT_METHOD_PRESENT,
                    Placed::New(Exported::Reflinked) => ExportMethod::EXPORT_METHOD_REFLINKED,
                    Placed::New(Exported::Copied) => ExportMethod::EXPORT_METHOD_COPIED,
                };
                Box::pin(stream::once(Ok(report(hash, size, bytes, method))))
            }
            Some(To::Registry(target)) => {
                let target = Target::parse("registry", *target)?;
                let (repository, digest) = self.0.manifest_of(hash, digest, &target).await?;
                let told = Arc::<Told>::default();
                let work = target.push(Arc::clone(&self.0), repository, digest, Arc::clone(&told));
                let work = Box::pin(async move { work.await.map(|pushed| (hash, size, pushed)) });
                follow(told, work, |it| response(export_blob_response::Part::Progress(Box::new(it))), pushed)
            }
        };
        Ok(Response::new(stream))
    }

    async fn get_blob_status(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::GetBlobStatusRequest>,
    ) -> ServiceResult<blob::GetBlobStatusResponse> {
        let text = request.to_owned_message().blob;
        let hash = match self.named(&text).await {
            Ok((hash, _)) => hash,
            // A digest that was never computed here is of nothing that is here.
            Err(error) if error.code == connectrpc::ErrorCode::NotFound => {
                let absent = blob::Blob { digest: text, state: BlobState::BLOB_STATE_ABSENT.into(), ..Default::default() };
                return Response::ok(blob::GetBlobStatusResponse { blob: absent.into(), ..Default::default() });
            }
            Err(error) => return Err(error),
        };
        let details = self.0.node.blob(hash).await.map_err(failed)?;
        let (state, size, bytes_held) = match details.status {
            BlobStatus::Absent => (BlobState::BLOB_STATE_ABSENT, 0, 0),
            BlobStatus::Partial { size, held } => (BlobState::BLOB_STATE_PARTIAL, size, held),
            BlobStatus::Held { size } => (BlobState::BLOB_STATE_HELD, size, size),
            BlobStatus::Damaged => (BlobState::BLOB_STATE_DAMAGED, 0, 0),
        };
        let found = match &details.listed {
            Some(listed) => listed_blob(listed, &details.reasons),
            None => blob::Blob { blob: hash.to_string(), size, pins: pins(&details.reasons), ..Default::default() },
        };
        let names: BTreeMap<_, _> = self.0.node.members().into_iter().map(|(id, record)| (id, record.name)).collect();
        Response::ok(blob::GetBlobStatusResponse {
            blob: blob::Blob { state: state.into(), ..found }.into(),
            bytes_held,
            holders: details.holders.iter().map(ToString::to_string).collect(),
            holder_names: details.holders.iter().map(|id| names.get(id).cloned().unwrap_or_default()).collect(),
            ..Default::default()
        })
    }

    async fn list_blobs(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::ListBlobsRequest>,
    ) -> ServiceResult<blob::ListBlobsResponse> {
        let request = request.to_owned_message();
        let after = match request.after.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| invalid("after", "it is the `next` of the page before"))?),
        };
        let damaged = match request.state.as_known() {
            Some(BlobState::BLOB_STATE_UNSPECIFIED) => None,
            Some(BlobState::BLOB_STATE_HELD) => Some(false),
            Some(BlobState::BLOB_STATE_DAMAGED) => Some(true),
            _ => return Err(invalid("state", "the list has what is held or damaged")),
        };
        let reason = Some(request.pin_prefix).filter(|prefix| !prefix.is_empty());
        let filter = BlobFilter { after, most: page_size(request.limit), reason, damaged };
        let page = self.0.node.blobs(filter).await.map_err(failed)?;
        Response::ok(blob::ListBlobsResponse {
            blobs: page.blobs.iter().map(|(listed, reasons)| listed_blob(listed, reasons)).collect(),
            next: page.next.map(|hash| hash.to_string()).unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn delete_blob(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, blob::DeleteBlobRequest>,
    ) -> ServiceResult<blob::DeleteBlobResponse> {
        let request = request.to_owned_message();
        let (hash, _) = self.named(&request.blob).await?;
        let release = Release { users: request.pin_names, leases: request.leases };
        let freed = self.0.node.delete_blob(hash, release).await.map_err(failed)?;
        Response::ok(blob::DeleteBlobResponse { blob: hash.to_string(), freed, ..Default::default() })
    }
}

fn listed_blob(listed: &Listed, reasons: &[Pin]) -> blob::Blob {
    let state = if listed.status == BlobStatus::Damaged { BlobState::BLOB_STATE_DAMAGED } else { BlobState::BLOB_STATE_HELD };
    blob::Blob {
        blob: listed.hash.to_string(),
        digest: Digest::Sha256(listed.sha256).to_string(),
        size: listed.size,
        state: state.into(),
        pins: pins(reasons),
        added: listed.added.as_millis(),
        ..Default::default()
    }
}

fn response(part: export_blob_response::Part) -> blob::ExportBlobResponse {
    blob::ExportBlobResponse { part: Some(part), ..Default::default() }
}

fn report(hash: BlobHash, size: u64, bytes_written: u64, method: ExportMethod) -> blob::ExportBlobResponse {
    let report =
        blob::ExportBlobReport { blob: hash.to_string(), size, bytes_written, method: method.into(), ..Default::default() };
    response(export_blob_response::Part::Report(Box::new(report)))
}

fn pushed((hash, size, pushed): (BlobHash, u64, Pushed)) -> blob::ExportBlobResponse {
    let is_new = pushed.sent > 0;
    let method = if is_new { ExportMethod::EXPORT_METHOD_PUSHED } else { ExportMethod::EXPORT_METHOD_PRESENT };
    report(hash, size, pushed.bytes, method)
}

/// What comes, and `end` behind it unless it ended with an error.
fn until_error<M: Send + 'static>(parts: ServiceStream<M>, end: M) -> ServiceStream<M> {
    Box::pin(stream::unfold(Some((parts, end)), |state| async move {
        let (mut parts, end) = state?;
        match parts.next().await {
            Some(Ok(part)) => Some((Ok(part), Some((parts, end)))),
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Ok(end), None)),
        }
    }))
}
