//! Single things of a registry, for who gives them on while they come: what a tag points to, a manifest, a blob from some byte on.

use std::collections::BTreeSet;

use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LINK, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::pull::{Named, header, range_begins};
use super::{Remote, RemoteError, Scope};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Reference, Repository, Tag, media_type};

/// Tags that are asked for at a time.
const TAGS_OF_A_PAGE: usize = 1000;

/// A blob's bytes, as they come.
pub(in crate::registry) struct Body {
    remote: Remote,
    response: Response,
    size: u64,
    /// Bytes of it that are not wanted: one that knows no ranges begins anew.
    skip: u64,
}

impl Remote {
    /// What a tag points to: by its head, and by the manifest itself where that does not say enough.
    pub(in crate::registry) async fn resolve(&self, repository: &Repository, tag: &Tag) -> Result<Descriptor, RemoteError> {
        let (inner, reference) = (&self.0, Reference::Tag(tag.clone()));
        let url = inner.url(repository, &format!("manifests/{tag}"));
        let accept = media_type::MANIFESTS.join(", ");
        let make = |request: reqwest::RequestBuilder| request.header(ACCEPT, &accept);
        let response = inner.send(Method::HEAD, url, &Scope::pull(repository), inner.options.patience, &make).await?;
        if response.status() == StatusCode::OK
            && let Some(digest) = header(&response, "docker-content-digest").and_then(|digest| digest.parse().ok())
            && let Some(kind) = header(&response, CONTENT_TYPE.as_str()).filter(|kind| media_type::is_manifest(kind))
            && let Some(size) = header(&response, CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok())
        {
            return Ok(Descriptor::new(kind, digest, size));
        }
        if response.status() == StatusCode::NOT_FOUND {
            return Err(RemoteError::NotFound { registry: inner.registry.clone(), what: format!("{repository}:{tag}") });
        }
        Ok(inner.manifest(repository, &reference).await?.descriptor)
    }

    /// The tags of a repository, `most` at most, and whether there are more.
    pub(in crate::registry) async fn tags(&self, repository: &Repository, most: usize) -> Result<(Vec<Tag>, bool), RemoteError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let (inner, mut tags, mut last) = (&self.0, BTreeSet::new(), String::new());
        loop {
            let what = format!("tags/list?n={TAGS_OF_A_PAGE}{last}");
            let url = inner.url(repository, &what);
            let response =
                inner.send(Method::GET, url, &Scope::pull(repository), inner.options.patience, &|request| request).await?;
            if response.status() != StatusCode::OK {
                return Err(inner.refusal(response, &format!("{repository} {what}")).await);
            }
            let (status, goes_on) = (response.status().as_u16(), header(&response, LINK.as_str()).is_some());
            let bytes = inner.body(response, MAX_MANIFEST_BYTES, &what).await?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|_| inner.protocol(status, &what, "it is not a list of tags"))?;
            let before = tags.len();
            // What is no tag could not be asked for.
            tags.extend(page.tags.into_iter().flatten().filter_map(|tag| tag.parse::<Tag>().ok()));
            let more = tags.len() > most;
            // One that says nothing new would go on forever.
            match tags.last() {
                Some(tag) if goes_on && !more && tags.len() > before => last = format!("&last={tag}"),
                _ => return Ok((tags.into_iter().take(most).collect(), more)),
            }
        }
    }

    /// What refers to a manifest, if the registry tells.
    pub(in crate::registry) async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, RemoteError> {
        self.0.referrers(repository, digest).await
    }

    /// A manifest that is what its digest says.
    pub(in crate::registry) async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Named, RemoteError> {
        self.0.manifest(repository, &Reference::Digest(*digest)).await
    }

    /// A blob from a byte on.
    pub(in crate::registry) async fn blob_from(
        &self,
        repository: &Repository,
        digest: &Digest,
        begin: u64,
    ) -> Result<Body, RemoteError> {
        let (inner, what) = (&self.0, format!("{repository} {digest}"));
        let url = inner.url(repository, &format!("blobs/{digest}"));
        let make =
            |request: reqwest::RequestBuilder| if begin > 0 { request.header(RANGE, format!("bytes={begin}-")) } else { request };
        let response = inner.send(Method::GET, url, &Scope::pull(repository), inner.options.patience, &make).await?;
        let status = response.status();
        let (size, skip) = match status {
            StatusCode::OK => (header(&response, CONTENT_LENGTH.as_str()), begin),
            StatusCode::PARTIAL_CONTENT if begin > 0 && range_begins(&response) == Some(begin) => {
                let range = header(&response, CONTENT_RANGE.as_str());
                (range.and_then(|range| Some(range.rsplit_once('/')?.1.to_owned())), 0)
            }
            _ => return Err(inner.refusal(response, &what).await),
        };
        let size = size.and_then(|size| size.parse().ok());
        let size: u64 = size.ok_or_else(|| inner.protocol(status.as_u16(), &what, "it does not say how long it is"))?;
        if size > inner.options.max_blob_bytes {
            return Err(inner.protocol(status.as_u16(), &what, &format!("it has {size} bytes, over the limit")));
        }
        Ok(Body { remote: self.clone(), response, size, skip })
    }
}

impl Body {
    /// Bytes of the whole blob, as the registry says.
    pub(in crate::registry) fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes that are wanted; none at the end, which may come too early.
    pub(in crate::registry) async fn piece(&mut self) -> Result<Option<bytes::Bytes>, RemoteError> {
        while let Some(mut piece) = self.remote.0.piece(&mut self.response).await? {
            let known = self.skip.min(piece.len() as u64);
            self.skip -= known;
            let _ = piece.split_to(usize::try_from(known).expect("no more than the piece has"));
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}
