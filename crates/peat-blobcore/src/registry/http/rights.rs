//! What a client may do in which repository. Pure. Who a client is, is for whoever serves the router: it says what he may do by an
//! [`Arc<Rights>`](std::sync::Arc) among the request's extensions, and a request without one may do everything.

use std::str::FromStr;

use axum::http::{Method, StatusCode};

use super::problem::Problem;
use super::route::Route;
use crate::oci::{NameError, Repository};

/// Repositories: all of them (`*`), those beneath a name (`apps/*`), or one (`apps/web`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repositories {
    /// Every repository.
    All,
    /// Those whose names begin with this one and a slash; not that one itself.
    Beneath(Repository),
    /// One.
    One(Repository),
}

impl Repositories {
    /// Whether a repository is among them.
    #[must_use]
    pub fn contain(&self, repository: &Repository) -> bool {
        match self {
            Self::All => true,
            Self::Beneath(name) => repository.as_str().strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/')),
            Self::One(name) => repository == name,
        }
    }
}

impl FromStr for Repositories {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(match text.strip_suffix("/*") {
            _ if text == "*" => Self::All,
            Some(name) => Self::Beneath(name.parse()?),
            None => Self::One(text.parse()?),
        })
    }
}

/// What a client may do; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// Where he may read: manifests, blobs, lists. The catalog shows him these alone, and he mounts from these alone.
    pub pull: Vec<Repositories>,
    /// Where he may upload and set tags, and ask whether something is there already.
    pub push: Vec<Repositories>,
    /// Where he may delete.
    pub delete: Vec<Repositories>,
}

impl Rights {
    /// Whether he may read of a repository.
    #[must_use]
    pub fn may_pull(&self, repository: &Repository) -> bool {
        among(&self.pull, repository)
    }

    /// Refuses what he may not do.
    pub(super) fn check(&self, method: &Method, route: &Route) -> Result<(), Problem> {
        let looks = *method == Method::HEAD;
        let reads = looks || *method == Method::GET;
        let (may, what, repository) = match route {
            Route::Base | Route::Catalog => return Ok(()),
            // Who pushes asks first what is there.
            Route::Manifest(repository, _) | Route::Blob(repository, _) if looks => {
                (self.may_pull(repository) || among(&self.push, repository), "pull", repository)
            }
            Route::Manifest(repository, _) | Route::Blob(repository, _) if reads => {
                (self.may_pull(repository), "pull", repository)
            }
            Route::Tags(repository) | Route::Referrers(repository, _) => (self.may_pull(repository), "pull", repository),
            Route::Manifest(repository, _) | Route::Blob(repository, _) if *method == Method::DELETE => {
                (among(&self.delete, repository), "delete", repository)
            }
            Route::Manifest(repository, _)
            | Route::Blob(repository, _)
            | Route::Uploads(repository)
            | Route::Upload(repository, _) => (among(&self.push, repository), "push", repository),
        };
        match may {
            true => Ok(()),
            false => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "DENIED",
                format!("this user may not {what} in {repository}; ask whoever runs the registry for it"),
            )),
        }
    }
}

fn among(all: &[Repositories], repository: &Repository) -> bool {
    all.iter().any(|some| some.contain(repository))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(texts: &[&str]) -> Vec<Repositories> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_client_may_do_what_his_rights_say_and_nothing_else() {
        let ci = Rights { pull: some(&["base", "apps/*"]), push: some(&["apps/*"]), delete: Vec::new() };
        let root = Rights { pull: some(&["*"]), push: Vec::new(), delete: some(&["*"]) };
        let blob = format!("blobs/sha256:{}", "0".repeat(64));
        for (method, path, by_ci, by_root) in [
            ("GET", "/v2/".to_owned(), true, true),
            ("GET", "/v2/_catalog".to_owned(), true, true),
            ("GET", "/v2/apps/a/tags/list".to_owned(), true, true),
            ("GET", "/v2/base/manifests/1".to_owned(), true, true),
            ("GET", "/v2/base/x/manifests/1".to_owned(), false, true),
            ("GET", "/v2/apps/manifests/1".to_owned(), false, true),
            ("GET", "/v2/apps2/manifests/1".to_owned(), false, true),
            ("GET", format!("/v2/other/{blob}"), false, true),
            ("HEAD", format!("/v2/other/{blob}"), false, true),
            ("HEAD", format!("/v2/apps/a/{blob}"), true, true),
            ("PUT", "/v2/apps/a/b/manifests/1".to_owned(), true, false),
            ("PUT", "/v2/base/manifests/1".to_owned(), false, false),
            ("POST", "/v2/apps/a/blobs/uploads/".to_owned(), true, false),
            ("GET", "/v2/base/blobs/uploads/x".to_owned(), false, false),
            ("DELETE", "/v2/apps/a/blobs/uploads/x".to_owned(), true, false),
            ("DELETE", format!("/v2/apps/a/{blob}"), false, true),
            ("DELETE", "/v2/apps/a/manifests/1".to_owned(), false, true),
        ] {
            let route = Route::parse(&path).unwrap();
            let method = method.parse().unwrap();
            let may = (ci.check(&method, &route).is_ok(), root.check(&method, &route).is_ok());
            assert_eq!(may, (by_ci, by_root), "{method} {path}");
            assert!(Rights::default().check(&method, &route).is_err() || matches!(route, Route::Base | Route::Catalog));
        }
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for text in ["", "A", "*/a", "a*", "/*", "a/*/b", "**", "a/"] {
            assert!(text.parse::<Repositories>().is_err(), "{text}");
        }
    }
}
