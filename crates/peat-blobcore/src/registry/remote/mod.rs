//! Other registries, as their client (distribution-spec 1.1): images are pulled from one into the store, and pushed to one from
//! there.
//!
//! What comes is held against its digest before it becomes a blob, bodies that are cut off go on where they ended, a registry
//! that says nothing is not waited for, and what is here or there already does not cross. A call that fails keeps the blobs that
//! are whole, so that the next one goes on. Must never send who asks to another host than the registry and who gives its tokens,
//! nor anything in clear unless that was allowed.

mod auth;
mod error;
mod pull;
mod push;
mod read;
#[cfg(test)]
pub(super) mod tests;
mod there;

use std::sync::Arc;
use std::time::Duration;

pub use auth::Credentials;
pub use error::RemoteError;
pub(super) use pull::Named as Manifest;
pub use push::Pushed;
pub(super) use read::Body;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
pub(super) use there::There;

use crate::content::{Content, ContentError};
use crate::oci::Repository;
use crate::registry::http::PASSED_ON;
use auth::{Accepted, Authorization, Challenge, Token};

/// Longest answer that says what went wrong, and longest token, in bytes.
const MAX_WORDS_BYTES: usize = 64 * 1024;

/// How a registry is spoken to.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Plain http instead of https.
    pub insecure: bool,
    /// Who asks, if the registry wants to know.
    pub credentials: Option<Credentials>,
    /// How long a registry may say nothing.
    pub patience: Duration,
    /// Most bytes of a single blob.
    pub max_blob_bytes: u64,
    /// Whether requests are passed on for somebody else, which another such registry is to be told so that two that ask each
    /// other end.
    pub passed_on: bool,
}

/// Most bytes of a single blob where nothing else is said.
pub(in crate::registry) const MAX_BLOB_BYTES: u64 = 1 << 40;

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            insecure: false,
            credentials: None,
            patience: Duration::from_secs(30),
            max_blob_bytes: MAX_BLOB_BYTES,
            passed_on: false,
        }
    }
}

/// A registry: a cheap handle, to be cloned.
#[derive(Debug, Clone)]
pub struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: reqwest::Client,
    /// Its host, with its port if it has one.
    registry: String,
    base: Url,
    options: RemoteOptions,
    accepted: Accepted,
}

/// What a request wants to do, in the words that tokens have for it.
#[derive(Debug, Clone)]
struct Scope {
    /// `repository:NAME:pull`, and more of the like.
    scopes: Vec<String>,
}

impl Scope {
    fn pull(repository: &Repository) -> Self {
        Self { scopes: vec![format!("repository:{repository}:pull")] }
    }

    fn push(repository: &Repository) -> Self {
        Self { scopes: vec![format!("repository:{repository}:pull,push")] }
    }

    fn key(&self) -> String {
        self.scopes.join(" ")
    }
}

impl Remote {
    /// The registry at a host, `host` or `host:port`. Nothing is said to it yet.
    ///
    /// # Errors
    /// `BadAddress` when it is none.
    pub fn new(registry: &str, options: RemoteOptions) -> Result<Self, RemoteError> {
        let scheme = if options.insecure { "http" } else { "https" };
        let bad = |why| RemoteError::BadAddress(registry.to_owned(), why);
        if registry.is_empty() || registry.contains(['/', '?', '#', '@', '\\']) {
            return Err(bad("it is more, or less, than a host and a port"));
        }
        let base = Url::parse(&format!("{scheme}://{registry}/v2/")).map_err(|_| bad("it cannot be read"))?;
        let insecure = options.insecure;
        let redirects = reqwest::redirect::Policy::custom(move |attempt| match attempt.url().scheme() {
            _ if attempt.previous().len() > 5 => attempt.error("too many redirections"),
            "http" if !insecure => attempt.error("a redirection from https to http"),
            _ => attempt.follow(),
        });
        let mut headers = HeaderMap::new();
        if options.passed_on {
            headers.insert(PASSED_ON, HeaderValue::from_static("1"));
        }
        let client = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("peat-blob/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.patience)
            .redirect(redirects)
            .referer(false)
            .tls_backend_preconfigured(trust())
            .build()
            .map_err(|source| RemoteError::Unreachable { registry: registry.to_owned(), source })?;
        let accepted = Accepted::default();
        Ok(Self(Arc::new(Inner { client, registry: registry.to_owned(), base, options, accepted })))
    }

    /// Its host.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.0.registry
    }
}

/// What blocks on the disk.
async fn blocking<T: Send + 'static>(
    content: &Content,
    work: impl FnOnce(&Content) -> Result<T, ContentError> + Send + 'static,
) -> Result<T, RemoteError> {
    let content = content.clone();
    Ok(tokio::task::spawn_blocking(move || work(&content)).await.map_err(|_| ContentError::Stopped)??)
}

/// TLS with the certificates that the machine trusts.
fn trust() -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    // One that cannot be read is not trusted, and with none nobody is.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of both versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl Inner {
    fn url(&self, repository: &Repository, rest: &str) -> Url {
        // Names and digests have no character that means something in a URL.
        self.base.join(&format!("{repository}/{rest}")).unwrap_or_else(|_| self.base.clone())
    }

    /// Sends a request, and again with what the registry wants to see when it asks for that. `make` adds to it what it carries.
    async fn send(
        &self,
        method: Method,
        url: Url,
        scope: &Scope,
        patience: Duration,
        make: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Response, RemoteError> {
        // An upload may go on elsewhere, which is told nothing of who asks.
        let ours = url.origin() == self.base.origin();
        if url.scheme() != "https" && !(self.options.insecure && url.scheme() == "http") {
            return Err(RemoteError::BadAddress(url.to_string(), "it is not https"));
        }
        let request = |authorization: Option<Authorization>| {
            let request = make(self.client.request(method.clone(), url.clone()));
            match authorization.filter(|_| ours) {
                Some(Authorization::Basic(user, password)) => request.basic_auth(user, Some(password)),
                Some(Authorization::Bearer(token)) => request.bearer_auth(token),
                None => request,
            }
        };
        let key = scope.key();
        let response = self.answer(request(self.accepted.get(&key)), patience).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !ours {
            return Ok(response);
        }
        let Some(authorization) = self.authorize(response.headers(), scope).await? else { return Ok(response) };
        self.accepted.put(&key, authorization.clone());
        self.answer(request(Some(authorization)), patience).await
    }

    /// What answers a challenge, if there is something.
    async fn authorize(&self, headers: &HeaderMap, scope: &Scope) -> Result<Option<Authorization>, RemoteError> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let known = match &self.options.credentials {
            Some(Credentials::Bearer(token)) => return Ok(Some(Authorization::Bearer(token.clone()))),
            Some(Credentials::Basic { user, password }) => Some((user, password)),
            None => None,
        };
        match Challenge::parse(challenges) {
            Some(Challenge::Basic) => Ok(known.map(|(user, password)| Authorization::Basic(user.clone(), password.clone()))),
            Some(Challenge::Bearer { realm, service }) => self.token(&realm, service, scope, known).await.map(Some),
            None => Ok(None),
        }
    }

    /// Asks for a token.
    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: &Scope,
        known: Option<(&String, &String)>,
    ) -> Result<Authorization, RemoteError> {
        let mut url = Url::parse(realm).map_err(|_| RemoteError::BadAddress(realm.to_owned(), "it cannot be read"))?;
        if url.scheme() != "https" && !(self.options.insecure && url.scheme() == "http") {
            return Err(RemoteError::BadAddress(realm.to_owned(), "tokens would be asked for in clear"));
        }
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .extend_pairs(scope.scopes.iter().map(|scope| ("scope", scope)));
        let request = self.client.get(url);
        let request = match known {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let response = self.answer(request, self.options.patience).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response, "a token").await);
        }
        let bytes = self.body(response, MAX_WORDS_BYTES, "a token").await?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        token.and_then(Token::value).map(Authorization::Bearer).ok_or_else(|| RemoteError::Denied {
            registry: self.registry.clone(),
            why: "who gives its tokens gave none".to_owned(),
        })
    }

    /// The head of an answer.
    async fn answer(&self, request: RequestBuilder, patience: Duration) -> Result<Response, RemoteError> {
        match tokio::time::timeout(patience, request.send()).await {
            Ok(answer) => answer.map_err(|source| self.unreachable(source)),
            Err(_) => Err(self.stalled(patience)),
        }
    }

    /// The next bytes of a body.
    async fn piece(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, RemoteError> {
        match tokio::time::timeout(self.options.patience, response.chunk()).await {
            Ok(piece) => piece.map_err(|source| self.unreachable(source)),
            Err(_) => Err(self.stalled(self.options.patience)),
        }
    }

    /// A whole body of at most so many bytes.
    async fn body(&self, mut response: Response, most: usize, what: &str) -> Result<Vec<u8>, RemoteError> {
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(&mut response).await? {
            if bytes.len() + piece.len() > most {
                return Err(self.protocol(status, what, &format!("it is longer than {most} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// What an answer that is no success means.
    async fn refusal(&self, response: Response, what: &str) -> RemoteError {
        let (status, registry) = (response.status(), self.registry.clone());
        let words = self.body(response, MAX_WORDS_BYTES, what).await.unwrap_or_default();
        // A registry's words are shown, not believed, and not at length.
        let why: String = String::from_utf8_lossy(&words).chars().filter(|c| !c.is_control()).take(300).collect();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RemoteError::Denied { registry, why },
            StatusCode::NOT_FOUND => RemoteError::NotFound { registry, what: what.to_owned() },
            status => RemoteError::Protocol { registry, status: status.as_u16(), what: what.to_owned(), why },
        }
    }

    fn protocol(&self, status: u16, what: &str, why: &str) -> RemoteError {
        RemoteError::Protocol { registry: self.registry.clone(), status, what: what.to_owned(), why: why.to_owned() }
    }

    fn unreachable(&self, source: reqwest::Error) -> RemoteError {
        // Addresses of other hosts carry signatures now and then.
        RemoteError::Unreachable { registry: self.registry.clone(), source: source.without_url() }
    }

    fn stalled(&self, after: Duration) -> RemoteError {
        RemoteError::Stalled { registry: self.registry.clone(), after }
    }
}
