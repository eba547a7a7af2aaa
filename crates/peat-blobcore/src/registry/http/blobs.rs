//! Blobs going out and being deleted (distribution-spec 1.1, "Pulling blobs", "Deleting Blobs").

use std::ops::Range;

use axum::body::Body;
use axum::http::{Response, StatusCode, header, request};

use super::route::ByteRange;
use super::{Problem, Served, body, identify, is_known, is_passed_on, not_modified, set, status, text};
use crate::content::BlobReader;
use crate::oci::{Digest, Repository, media_type};
use crate::registry::{Found, RegistryError};

/// Where a blob's bytes come from.
enum Source {
    Here(BlobReader),
    Coming(Found),
    /// Nowhere yet: its size in bytes is all that was asked for.
    Claimed(u64),
}

impl Source {
    fn size(&self) -> u64 {
        match self {
            Self::Here(reader) => reader.size(),
            Self::Coming(found) => found.size(),
            Self::Claimed(size) => *size,
        }
    }
}

impl Served {
    /// Finds a blob here, else elsewhere. Who asks for its head alone is told of what is elsewhere too, and nothing is fetched for
    /// it; but not of what could not be had when a manifest needed it: he may be about to push it.
    async fn source(
        &self,
        parts: &request::Parts,
        repository: &Repository,
        digest: Digest,
        head: bool,
    ) -> Result<Source, RegistryError> {
        let within = repository.clone();
        let missing = match self.with(move |registry| registry.open_blob(&within, &digest)).await {
            Ok(reader) => return Ok(Source::Here(reader)),
            Err(error) => error,
        };
        if is_passed_on(parts) {
            return Err(missing);
        }
        if head {
            if self.lacking.has(repository, &digest) {
                return Err(missing);
            }
            let within = repository.clone();
            let claimed = self.with(move |registry| registry.size_elsewhere(&within, &digest)).await?;
            return claimed.map(Source::Claimed).ok_or(missing);
        }
        match self.patiently(self.registry.find(repository, &digest)).await.unwrap_or(Ok(None))? {
            Some(Found::Here(held, _)) => {
                self.with(move |registry| Ok(Source::Here(registry.content().open_blob(&held.hash)?))).await
            }
            Some(found) => Ok(Source::Coming(found)),
            None => Err(missing),
        }
    }

    pub(super) async fn get_blob(
        &self,
        parts: &request::Parts,
        repository: Repository,
        digest: Digest,
        head: bool,
    ) -> Result<Response<Body>, Problem> {
        let source = self.source(parts, &repository, digest, head).await?;
        if is_known(&parts.headers, &digest) {
            return Ok(not_modified(&digest));
        }
        let size = source.size();
        // What a range of another content would be is not for us to say.
        let etag = format!("\"{digest}\"");
        let applies = text(&parts.headers, header::IF_RANGE).is_none_or(|tag| tag == etag);
        let asked = text(&parts.headers, header::RANGE).filter(|_| applies && !head);
        let (code, range) = match ByteRange::parse(asked, size) {
            ByteRange::All => (StatusCode::OK, 0..size),
            ByteRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            ByteRange::Unsatisfiable => {
                let why = format!("the blob has {size} bytes, and none of them is in the range");
                return Err(Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", why)
                    .with(header::CONTENT_RANGE, &format!("bytes */{size}")));
            }
        };
        let Range { start, end } = range;
        let mut response = status(code);
        if !head && start < end {
            let place = self.streams.enter()?;
            *response.body_mut() = match source {
                Source::Here(reader) => body::held(reader, start..end, place),
                Source::Coming(found) => body::arriving(self.registry.clone(), repository, digest, found, start..end, place),
                Source::Claimed(_) => Body::empty(),
            };
        }
        identify(&mut response, &digest);
        set(&mut response, header::CONTENT_TYPE, media_type::OCTET_STREAM);
        set(&mut response, header::CONTENT_LENGTH, &(end - start).to_string());
        set(&mut response, header::ACCEPT_RANGES, "bytes");
        if code == StatusCode::PARTIAL_CONTENT {
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {start}-{}/{size}", end - 1));
        }
        Ok(response)
    }

    pub(super) async fn delete_blob(&self, repository: Repository, digest: Digest) -> Result<Response<Body>, Problem> {
        self.with(move |registry| registry.delete_blob(&repository, &digest)).await?;
        Ok(status(StatusCode::ACCEPTED))
    }
}
