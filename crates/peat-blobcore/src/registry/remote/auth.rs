//! Who asks: what a registry challenges with (RFC 9110, 11.6.1), and the tokens that it is answered with (Docker's "Token
//! Authentication Specification"). Must never send a password in clear where that was not allowed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

/// Most tokens that are remembered.
const MAX_TOKENS: usize = 256;

/// What says who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { user, .. } => f.debug_struct("Basic").field("user", user).finish_non_exhaustive(),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token that somebody else gives.
    Bearer {
        /// Who gives it.
        realm: String,
        /// For whom, in the words of who gives it.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the values of `WWW-Authenticate`. A token is preferred: with it a password goes to one place.
    pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let parameters = parameters(rest);
                let realm = parameters.get("realm")?.clone();
                return Some(Self::Bearer { realm, service: parameters.get("service").cloned() });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
        }
        basic
    }
}

/// `name=value` or `name="value"`, between commas.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut characters = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, character)) = characters.next() {
                    match character {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                        character => value.push(character),
                    }
                }
                (value, &quoted[end..])
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_owned(), &rest[end..])
            }
        };
        found.insert(name, value);
        text = rest;
    }
    found
}

/// The answer of who gives tokens.
#[derive(Deserialize)]
pub(super) struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Token {
    pub(super) fn value(self) -> Option<String> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

/// What was accepted lately, by scope.
#[derive(Debug, Default)]
pub(super) struct Accepted(Mutex<BTreeMap<String, Authorization>>);

/// What goes with a request.
#[derive(Clone)]
pub(super) enum Authorization {
    /// A user and a password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization")
    }
}

impl Accepted {
    pub(super) fn get(&self, scope: &str) -> Option<Authorization> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
    }

    pub(super) fn put(&self, scope: &str, authorization: Authorization) {
        let mut accepted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.len() >= MAX_TOKENS {
            accepted.clear();
        }
        accepted.insert(scope.to_owned(), authorization);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let read = |headers: &[&str]| Challenge::parse(headers.iter().copied());
        let text = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#;
        assert_eq!(read(&[text]), bearer("https://auth.example/token", Some("registry")));
        assert_eq!(read(&["Basic realm=\"x\"", "bearer realm=https://a/t, service=s"]), bearer("https://a/t", Some("s")));
        assert_eq!(read(&["Bearer realm=\"a\\\"b\""]), bearer("a\"b", None));
        assert_eq!(read(&["Basic realm=\"a, b=c\""]), Some(Challenge::Basic));
        assert_eq!(read(&["Bearer service=\"x\""]), None);
        assert_eq!(read(&["Digest realm=\"x\"", ""]), None);
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_or_not(text in ".{0,200}") {
            let _ = Challenge::parse([text.as_str(), &format!("Bearer {text}")].into_iter());
        }
    }
}
