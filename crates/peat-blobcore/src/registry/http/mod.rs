//! The registry over HTTP: the OCI's distribution-spec 1.1, all four groups (pull, push, content discovery, content management),
//! and Docker's media types.
//!
//! - `route`: paths, queries and ranges, read; `problem`: what a client is told when something is wrong; `body`: pieces;
//!   `lacking`: what is to be pushed though others say that they have it; `rights`: what a client may do in which repository
//! - `blobs`, `manifests`, `uploads`, `listing`: a part of the protocol each
//!
//! Who speaks is for whoever serves the router to find out. Nothing here waits on a client with a lock or a thread of its own.

mod blobs;
mod body;
mod lacking;
mod listing;
mod manifests;
mod problem;
mod rights;
mod route;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request};

pub use rights::{Repositories, Rights};
pub use route::{ByteRange, NoRoute, Route, content_range};

use super::{Registry, RegistryError, blocking};
use crate::oci::{Digest, Repository};
use body::Streams;
use lacking::Lacking;
use problem::Problem;

/// Marks a request that a registry passes on for a client: it is answered from what is here, at once, so that two that ask each
/// other end.
pub const PASSED_ON: HeaderName = HeaderName::from_static("peat-blob-passed-on");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// How the registry is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether it takes and deletes nothing.
    pub read_only: bool,
    /// How long a manifest, and what a manifest that is pushed names, is waited for when it is elsewhere.
    pub patience: Duration,
    /// The names of registries that `?ns=` may name: repositories of those are beneath that name here, with `-` for `:`.
    pub namespaces: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { read_only: false, patience: Duration::from_secs(30), namespaces: Vec::new() }
    }
}

struct Served {
    registry: Registry,
    options: Options,
    streams: Arc<Streams>,
    lacking: Lacking,
}

/// What answers the protocol. It wants to be the whole of a socket: every path is its own.
pub fn router(registry: Registry, options: Options) -> Router {
    let served = Arc::new(Served { registry, options, streams: Arc::default(), lacking: Lacking::default() });
    Router::new().fallback(answer).with_state(served)
}

/// The answer to who may not speak, with what he is to show.
#[must_use]
pub fn unauthorized(challenge: &'static str) -> Response<Body> {
    let problem =
        Problem::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "show the token: as a bearer's, or as the password of any user");
    marked(problem.with(header::WWW_AUTHENTICATE, challenge).respond())
}

async fn answer(State(served): State<Arc<Served>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    marked(served.dispatch(parts, body).await.unwrap_or_else(Problem::respond))
}

fn marked(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

impl Served {
    async fn dispatch(&self, parts: request::Parts, body: Body) -> Result<Response<Body>, Problem> {
        let route = Route::parse(parts.uri.path())?;
        let (head, reads) = (parts.method == Method::HEAD, matches!(parts.method, Method::GET | Method::HEAD));
        if self.options.read_only && !reads {
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read only")
                .with(header::ALLOW, "GET, HEAD"));
        }
        let route = if reads { self.within_namespace(&parts, route)? } else { route };
        if let Some(rights) = rights_of(&parts) {
            rights.check(&parts.method, &route)?;
        }
        match route {
            Route::Base if reads => Ok(json("application/json", "{}".to_owned())),
            Route::Catalog if reads => self.catalog(&parts).await,
            Route::Tags(repository) if reads => self.tags(&parts, repository).await,
            Route::Referrers(repository, subject) if reads => self.referrers(&parts, repository, subject).await,
            Route::Manifest(repository, reference) if reads => self.get_manifest(&parts, repository, &reference, head).await,
            Route::Blob(repository, digest) if reads => self.get_blob(&parts, repository, digest, head).await,
            Route::Upload(repository, id) if parts.method == Method::GET => self.upload_status(repository, id.parse()?).await,
            Route::Manifest(repository, reference) if parts.method == Method::PUT => {
                self.put_manifest(&parts, repository, reference.parse()?, body).await
            }
            Route::Manifest(repository, reference) if parts.method == Method::DELETE => {
                self.delete_manifest(repository, reference.parse()?).await
            }
            Route::Blob(repository, digest) if parts.method == Method::DELETE => self.delete_blob(repository, digest).await,
            Route::Uploads(repository) if parts.method == Method::POST => self.begin_upload(&parts, repository, body).await,
            Route::Upload(repository, id) if parts.method == Method::PATCH => {
                self.append_upload(&parts, repository, id.parse()?, body).await
            }
            Route::Upload(repository, id) if parts.method == Method::PUT => {
                self.finish_upload(&parts, repository, id.parse()?, body).await
            }
            Route::Upload(repository, id) if parts.method == Method::DELETE => self.cancel_upload(repository, id.parse()?).await,
            route => Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "no such method here")
                .with(header::ALLOW, allowed(&route))),
        }
    }

    /// What is asked for of the registry that a client of a mirror names (`?ns=`). Names that are not known mean nothing.
    fn within_namespace(&self, parts: &request::Parts, route: Route) -> Result<Route, Problem> {
        let Some(named) = route::parameter(parts.uri.query(), "ns").map(|name| name.replace(':', "-")) else { return Ok(route) };
        let Some(name) = self.options.namespaces.iter().find(|name| **name == named) else { return Ok(route) };
        let within = |repository: Repository| format!("{name}/{repository}").parse::<Repository>();
        Ok(match route {
            Route::Tags(repository) => Route::Tags(within(repository)?),
            Route::Manifest(repository, reference) => Route::Manifest(within(repository)?, reference),
            Route::Blob(repository, digest) => Route::Blob(within(repository)?, digest),
            Route::Referrers(repository, subject) => Route::Referrers(within(repository)?, subject),
            route => route,
        })
    }

    /// Does on a blocking thread what may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let registry = self.registry.clone();
        blocking(move || work(&registry)).await
    }
}

fn allowed(route: &Route) -> &'static str {
    match route {
        Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, PATCH, PUT, DELETE",
    }
}

/// Whether somebody passes the request on for a client.
fn is_passed_on(parts: &request::Parts) -> bool {
    parts.headers.contains_key(PASSED_ON)
}

/// What the client may do, where that is limited.
fn rights_of(parts: &request::Parts) -> Option<&Arc<Rights>> {
    parts.extensions.get()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

fn json(media_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Sets a header to a text that has been checked to be one.
fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Says which content it is, and that it never changes.
fn identify(response: &mut Response<Body>, digest: &Digest) {
    set(response, CONTENT_DIGEST, &digest.to_string());
    set(response, header::ETAG, &format!("\"{digest}\""));
}

/// Whether the client has this content already (RFC 9110, `If-None-Match`).
fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    let digest = digest.to_string();
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.trim_matches('"') == digest
    })
}

fn not_modified(digest: &Digest) -> Response<Body> {
    let mut response = status(StatusCode::NOT_MODIFIED);
    identify(&mut response, digest);
    response
}
