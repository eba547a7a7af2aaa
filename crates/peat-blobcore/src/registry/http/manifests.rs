//! Manifests going out, coming in and being deleted (distribution-spec 1.1, "Pulling manifests", "Pushing Manifests", "Deleting
//! Manifests"). Their bytes go out as they came in.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, Response, StatusCode, header, request};

use super::{CONTENT_DIGEST, Problem, Served, identify, is_known, is_passed_on, not_modified, set, status, text};
use crate::oci::{Digest, MAX_MANIFEST_BYTES, Manifest, NameError, Reference, Repository, Tag};
use crate::registry::{Named, RegistryError, Stored};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// What a tag says that could not be asked for anew (RFC 9111, section 5.5).
const SUPERSEDED: &str = "299 - \"the tag has been set anew, and what it points to cannot be had\"";
/// The same where who decides over it could not be asked.
const UNSURE: &str = "299 - \"the upstream cannot be asked; this is what the tag was last known to point to\"";

/// A manifest, or what is known of it.
enum Found {
    Here(Stored),
    Elsewhere(Named),
}

impl Served {
    pub(super) async fn get_manifest(
        &self,
        parts: &request::Parts,
        repository: Repository,
        reference: &str,
        head: bool,
    ) -> Result<Response<Body>, Problem> {
        // Nothing has a name that is none.
        let reference: Reference = reference
            .parse()
            .map_err(|error: NameError| Problem::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", error.to_string()))?;
        let (found, stale) = match &reference {
            Reference::Digest(digest) => (self.manifest(parts, &repository, *digest, head).await?, None),
            Reference::Tag(tag) => self.tagged(parts, &repository, tag, head).await?,
        };
        let (digest, media_type, size) = match &found {
            Found::Here(stored) => (stored.digest, stored.media_type.as_str(), stored.bytes.len() as u64),
            Found::Elsewhere(named) => (named.digest, named.media_type.as_str(), named.size),
        };
        if is_known(&parts.headers, &digest) {
            return Ok(not_modified(&digest));
        }
        if !accepts(&parts.headers, media_type) {
            let why = format!("the manifest {digest} is of the type {media_type}, which the client does not accept");
            return Err(Problem::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", why));
        }
        let mut response = status(StatusCode::OK);
        identify(&mut response, &digest);
        set(&mut response, header::CONTENT_TYPE, media_type);
        set(&mut response, header::CONTENT_LENGTH, &size.to_string());
        if let Some(stale) = stale {
            set(&mut response, header::WARNING, stale);
        }
        if let Found::Here(stored) = found
            && !head
        {
            *response.body_mut() = Body::from(stored.bytes);
        }
        Ok(response)
    }

    /// What a tag points to; and what is to be said if that may not be the last that was said of it.
    async fn tagged(
        &self,
        parts: &request::Parts,
        repository: &Repository,
        tag: &Tag,
        head: bool,
    ) -> Result<(Found, Option<&'static str>), RegistryError> {
        let here = self.registry.tag_here(repository, tag).await?;
        let named = match is_passed_on(parts) {
            true => here.clone(),
            false => self.patiently(self.registry.resolve(repository, tag)).await.unwrap_or_else(|| Ok(here.clone()))?,
        };
        let unknown = || RegistryError::NoManifest { repository: repository.clone(), reference: Reference::Tag(tag.clone()) };
        let named = named.ok_or_else(unknown)?;
        let unsure = !is_passed_on(parts) && self.registry.elsewhere().is_some_and(|it| it.is_unsure(repository));
        let unsure = unsure.then_some(UNSURE);
        if head && here.as_ref() != Some(&named) {
            return Ok((Found::Elsewhere(named), unsure));
        }
        match (self.manifest(parts, repository, named.digest, head).await, here) {
            (Ok(found), _) => Ok((found, unsure)),
            (Err(_), Some(here)) if here.digest != named.digest => {
                Ok((self.manifest(parts, repository, here.digest, head).await?, Some(SUPERSEDED)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// A manifest that is here, or comes in time.
    async fn manifest(
        &self,
        parts: &request::Parts,
        repository: &Repository,
        digest: Digest,
        head: bool,
    ) -> Result<Found, RegistryError> {
        let within = repository.clone();
        if let Some(stored) = self.with(move |registry| registry.manifest(&within, &digest)).await? {
            return Ok(Found::Here(stored));
        }
        let missing = RegistryError::NoManifest { repository: repository.clone(), reference: Reference::Digest(digest) };
        if is_passed_on(parts) {
            return Err(missing);
        }
        let fetched = self.patiently(async {
            let Some(found) = self.registry.find_manifest(repository, &digest).await? else {
                return Ok::<_, RegistryError>(None);
            };
            let (size, media_type) = (found.size(), found.media_type().to_owned());
            if size > MAX_MANIFEST_BYTES as u64 {
                return Ok(None);
            }
            if head {
                let set_at = crate::model::Timestamp::default();
                return Ok(Some(Found::Elsewhere(Named { digest, media_type, size, set_at })));
            }
            let held = self.registry.settle_found(repository, &digest, &found).await?;
            let bytes = self.with(move |registry| Ok(registry.content().read_blob(&held.hash, held.size)?)).await?;
            // Its own word counts for more than what somebody claims.
            let media_type = Manifest::parse(&bytes, None).map_or(media_type, |manifest| manifest.media_type);
            Ok(Some(Found::Here(Stored { digest, media_type, bytes })))
        });
        match fetched.await {
            Some(found) => found?.ok_or(missing),
            None => Err(RegistryError::NotComing { digest, why: "it has not come in time".to_owned() }),
        }
    }

    /// Waits for what is elsewhere, as long as that is waited for.
    pub(super) async fn patiently<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.options.patience, work).await.ok()
    }

    pub(super) async fn put_manifest(
        &self,
        parts: &request::Parts,
        repository: Repository,
        reference: Reference,
        body: Body,
    ) -> Result<Response<Body>, Problem> {
        let bytes = whole(body).await?;
        let media_type = text(&parts.headers, header::CONTENT_TYPE).map(str::to_owned);
        let put = || {
            let (repository, reference, media_type, bytes) =
                (repository.clone(), reference.clone(), media_type.clone(), bytes.clone());
            self.with(move |registry| registry.put_manifest(&repository, &reference, media_type.as_deref(), &bytes))
        };
        let put = match put().await {
            // A client that was told that a blob is elsewhere does not push it.
            Err(RegistryError::Missing(missing)) if self.registry.elsewhere().is_some() && !is_passed_on(parts) => {
                let late = RegistryError::Missing(missing.clone());
                let manifest = Manifest::parse(&bytes, media_type.as_deref()).map_err(RegistryError::from)?;
                let bring = self.registry.bring_missing(&repository, &manifest, &missing);
                if let Err(error) = self.patiently(bring).await.unwrap_or(Err(late)) {
                    // It is to be told so when it asks again of what it did not push because of a claim.
                    let within = repository.clone();
                    let claimed = self.with(move |registry| registry.claimed_elsewhere(&within, missing)).await?;
                    self.lacking.add(&repository, &claimed);
                    return Err(error.into());
                }
                put().await?
            }
            outcome => outcome?,
        };
        let mut response = status(StatusCode::CREATED);
        set(&mut response, header::LOCATION, &format!("/v2/{repository}/manifests/{}", put.digest));
        set(&mut response, CONTENT_DIGEST, &put.digest.to_string());
        if let Some(subject) = put.subject {
            set(&mut response, SUBJECT, &subject.to_string());
        }
        Ok(response)
    }

    pub(super) async fn delete_manifest(&self, repository: Repository, reference: Reference) -> Result<Response<Body>, Problem> {
        self.with(move |registry| registry.delete_manifest(&repository, &reference)).await?;
        Ok(status(StatusCode::ACCEPTED))
    }
}

/// A manifest's bytes, unless there are too many.
async fn whole(body: Body) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, MAX_MANIFEST_BYTES).await.map_err(|error| {
        let too_large = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .any(|error| error.to_string() == "length limit exceeded");
        match too_large {
            true => {
                let why = format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", why)
            }
            false => Problem::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", format!("the request broke off: {error}")),
        }
    })
}

/// Whether a client takes this type. Clients say what they take in one header, or in one for each type; who says nothing takes
/// everything.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let given = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = given.flat_map(|value| value.split(',')).filter_map(|item| item.split(';').next()).map(str::trim).peekable();
    let wide = |accepted: &str| {
        accepted == "*/*" || accepted.strip_suffix("/*").is_some_and(|kind| media_type.split('/').next() == Some(kind))
    };
    types.peek().is_none() || types.any(|accepted| accepted == media_type || wide(accepted))
}
