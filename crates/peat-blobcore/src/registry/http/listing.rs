//! Lists (distribution-spec 1.1, "Content Discovery"): tags, referrers, and the repositories as Docker's registry lists them.

use axum::body::Body;
use axum::http::{HeaderName, Response, StatusCode, header, request};
use serde_json::{Value, json};

use super::route::{encode, parameter};
use super::{Problem, Served, rights_of, set};
use crate::oci::{Descriptor, Digest, NameError, Repository, media_type};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Most items of a page, and how many there are when the client does not say.
const MOST_ITEMS: usize = 1000;
/// Most referrers of a page, and their bytes: clients read no larger index.
const MOST_REFERRERS: usize = 100;
const MOST_REFERRERS_BYTES: usize = 3 * 1024 * 1024;

/// How many items the client wants, and behind which.
fn page(parts: &request::Parts) -> Result<(usize, Option<String>), Problem> {
    let query = parts.uri.query();
    let most = match parameter(query, "n") {
        None => MOST_ITEMS,
        Some(text) => text.parse::<usize>().map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", format!("n={text} is not a number of items"))
        })?,
    };
    Ok((most.min(MOST_ITEMS), parameter(query, "last").filter(|last| !last.is_empty())))
}

fn link(response: &mut Response<Body>, path: &str, query: &str) {
    set(response, header::LINK, &format!("<{path}?{query}>; rel=\"next\""));
}

impl Served {
    pub(super) async fn tags(&self, parts: &request::Parts, repository: Repository) -> Result<Response<Body>, Problem> {
        let (most, last) = page(parts)?;
        let name = repository.clone();
        let page = self.with(move |registry| registry.tags(&name, last.as_deref(), most)).await?;
        let tags: Vec<_> = page.items.iter().map(|tag| tag.as_str()).collect();
        let mut response = super::json("application/json", json!({ "name": repository.as_str(), "tags": tags }).to_string());
        if let (true, Some(last)) = (page.more, page.items.last()) {
            link(&mut response, &format!("/v2/{repository}/tags/list"), &format!("n={most}&last={last}"));
        }
        Ok(response)
    }

    pub(super) async fn catalog(&self, parts: &request::Parts) -> Result<Response<Body>, Problem> {
        let (most, last) = page(parts)?;
        let rights = rights_of(parts).cloned();
        let listed = move |name: &Repository| rights.as_ref().is_none_or(|rights| rights.may_pull(name));
        let page = self.with(move |registry| registry.repositories_that(last.as_deref(), most, listed)).await?;
        let names: Vec<_> = page.items.iter().map(|name| name.as_str()).collect();
        let mut response = super::json("application/json", json!({ "repositories": names }).to_string());
        if let (true, Some(last)) = (page.more, page.items.last()) {
            link(&mut response, "/v2/_catalog", &format!("n={most}&last={last}"));
        }
        Ok(response)
    }

    pub(super) async fn referrers(
        &self,
        parts: &request::Parts,
        repository: Repository,
        subject: Digest,
    ) -> Result<Response<Body>, Problem> {
        let query = parts.uri.query();
        let wanted = parameter(query, "artifactType").filter(|wanted| !wanted.is_empty());
        let after = parameter(query, "last").map(|last| last.parse::<Digest>()).transpose().map_err(NameError::Digest)?;
        let (name, filter) = (repository.clone(), wanted.clone());
        let page =
            self.with(move |registry| registry.referrers(&name, &subject, filter.as_deref(), after.as_ref(), MOST_REFERRERS));
        let page = page.await?;
        let (mut manifests, mut bytes, mut last) = (Vec::new(), 0, None);
        for item in &page.items {
            let described = describe(item);
            bytes += described.to_string().len();
            if bytes > MOST_REFERRERS_BYTES && last.is_some() {
                break;
            }
            manifests.push(described);
            last = Some(item.digest);
        }
        let more = page.more || manifests.len() < page.items.len();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
        let mut response = super::json(media_type::OCI_INDEX, index.to_string());
        if wanted.is_some() {
            set(&mut response, FILTERS_APPLIED, "artifactType");
        }
        if let (true, Some(last)) = (more, last) {
            let filter = wanted.map(|wanted| format!("artifactType={}&", encode(&wanted))).unwrap_or_default();
            link(&mut response, &format!("/v2/{repository}/referrers/{subject}"), &format!("{filter}last={last}"));
        }
        Ok(response)
    }
}

fn describe(item: &Descriptor) -> Value {
    let mut described = json!({ "mediaType": item.media_type, "digest": item.digest.to_string(), "size": item.size });
    if let Some(artifact_type) = &item.artifact_type {
        described["artifactType"] = json!(artifact_type);
    }
    if !item.annotations.is_empty() {
        described["annotations"] = json!(item.annotations);
    }
    described
}
