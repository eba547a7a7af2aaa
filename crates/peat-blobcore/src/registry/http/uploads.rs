//! Blobs coming in (distribution-spec 1.1, "Pushing blobs"): at once, in one piece, in many, or from another repository.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderName, Response, StatusCode, header, request};

use super::route::{content_range, parameter};
use super::{CONTENT_DIGEST, Problem, Repositories, Rights, Served, body, rights_of, set, status, text};
use crate::oci::{Digest, NameError, Repository};
use crate::registry::{Registry, RegistryError, UploadId};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const RANGE: HeaderName = header::RANGE;

/// Gives an upload up unless it is ended: one that nobody could continue, since nobody has heard of it.
struct Unheard<'a> {
    registry: &'a Registry,
    repository: &'a Repository,
    id: UploadId,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        // One that is ended is not there any more.
        let _ = self.registry.cancel_upload(self.repository, &self.id);
    }
}

impl Served {
    pub(super) async fn begin_upload(
        &self,
        parts: &request::Parts,
        repository: Repository,
        body: Body,
    ) -> Result<Response<Body>, Problem> {
        let query = parts.uri.query();
        if let Some(digest) = parameter(query, "mount") {
            let digest = parse_digest(&digest)?;
            let from: Option<Repository> =
                parameter(query, "from").filter(|from| !from.is_empty()).map(|from| from.parse()).transpose()?;
            let into = repository.clone();
            // To mount from anywhere is to pull from everywhere.
            let may = |rights: &Arc<Rights>| match &from {
                Some(from) => rights.may_pull(from),
                None => rights.pull.contains(&Repositories::All),
            };
            if rights_of(parts).is_none_or(may)
                && self.with(move |registry| registry.mount(&into, &digest, from.as_ref())).await?.is_some()
            {
                return Ok(created(&repository, &digest));
            }
            // What is not here, or not his to take, is pushed instead.
        }
        let begun = repository.clone();
        let id = self.with(move |registry| registry.begin_upload(&begun)).await?;
        let Some(digest) = parameter(query, "digest") else { return Ok(under_way(StatusCode::ACCEPTED, &repository, &id, 0)) };
        let _unheard = Unheard { registry: &self.registry, repository: &repository, id };
        let digest = parse_digest(&digest)?;
        body::take(&self.registry, (&repository, &id), 0, None, body, &self.streams.enter()?).await?;
        self.end(&repository, id, digest).await
    }

    pub(super) async fn append_upload(
        &self,
        parts: &request::Parts,
        repository: Repository,
        id: UploadId,
        body: Body,
    ) -> Result<Response<Body>, Problem> {
        let size = self.take(parts, &repository, id, body).await?;
        Ok(under_way(StatusCode::ACCEPTED, &repository, &id, size))
    }

    pub(super) async fn finish_upload(
        &self,
        parts: &request::Parts,
        repository: Repository,
        id: UploadId,
        body: Body,
    ) -> Result<Response<Body>, Problem> {
        let Some(digest) = parameter(parts.uri.query(), "digest") else {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "an upload ends with ?digest="));
        };
        let digest = parse_digest(&digest)?;
        self.take(parts, &repository, id, body).await?;
        self.end(&repository, id, digest).await
    }

    pub(super) async fn upload_status(&self, repository: Repository, id: UploadId) -> Result<Response<Body>, Problem> {
        let size = self.upload_size(&repository, id).await?;
        Ok(under_way(StatusCode::NO_CONTENT, &repository, &id, size))
    }

    pub(super) async fn cancel_upload(&self, repository: Repository, id: UploadId) -> Result<Response<Body>, Problem> {
        self.with(move |registry| registry.cancel_upload(&repository, &id)).await?;
        Ok(status(StatusCode::NO_CONTENT))
    }

    async fn upload_size(&self, repository: &Repository, id: UploadId) -> Result<u64, RegistryError> {
        let repository = repository.clone();
        self.with(move |registry| registry.upload_size(&repository, &id)).await
    }

    /// Takes the body of a request, which is the next piece, and says how many bytes have come then.
    async fn take(&self, parts: &request::Parts, repository: &Repository, id: UploadId, body: Body) -> Result<u64, Problem> {
        let has = self.upload_size(repository, id).await?;
        let length = text(&parts.headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let Range { start, end } = match text(&parts.headers, header::CONTENT_RANGE) {
            None => has..has.saturating_add(length.unwrap_or(u64::MAX)),
            Some(given) => {
                let range = content_range(given).ok_or_else(|| {
                    Problem::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", "the content-range is not <start>-<end>")
                })?;
                if length.is_some_and(|length| length != range.end - range.start) {
                    let why = "the content-range and the content-length are not of the same length";
                    return Err(Problem::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", why));
                }
                range
            }
        };
        let out_of_order =
            |problem: Problem, has| problem.with(header::LOCATION, &location(repository, &id)).with(RANGE, &received(has));
        if start != has {
            return Err(out_of_order(RegistryError::OutOfOrder { has, at: start }.into(), has));
        }
        body::take(&self.registry, (repository, &id), start, Some(end), body, &self.streams.enter()?).await
    }

    async fn end(&self, repository: &Repository, id: UploadId, digest: Digest) -> Result<Response<Body>, Problem> {
        let within = repository.clone();
        self.with(move |registry| registry.finish_upload(&within, &id, &digest)).await?;
        self.lacking.remove(repository, &digest);
        Ok(created(repository, &digest))
    }
}

fn parse_digest(text: &str) -> Result<Digest, Problem> {
    text.parse().map_err(|error| NameError::Digest(error).into())
}

fn location(repository: &Repository, id: &UploadId) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

/// What has come, as the specification writes it: of nothing it says the same as of one byte.
fn received(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn under_way(code: StatusCode, repository: &Repository, id: &UploadId, size: u64) -> Response<Body> {
    let mut response = status(code);
    set(&mut response, header::LOCATION, &location(repository, id));
    set(&mut response, RANGE, &received(size));
    set(&mut response, UPLOAD_ID, &id.to_string());
    response
}

fn created(repository: &Repository, digest: &Digest) -> Response<Body> {
    let mut response = status(StatusCode::CREATED);
    set(&mut response, header::LOCATION, &format!("/v2/{repository}/blobs/{digest}"));
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    response
}
