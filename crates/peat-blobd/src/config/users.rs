//! The users of the registry, as a file has them: who they are, and what they may do in which repository.

use std::fmt;
use std::sync::Arc;

use peat_blobcore::registry::http::{Repositories, Rights};
use toml::de::{DeTable, DeValue};

use super::{Token, ValueError, parse};

/// Bytes of the file at most.
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// Users of the registry. `Debug` shows no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(Vec<User>);

#[derive(Clone, PartialEq, Eq)]
struct User {
    name: String,
    token: Token,
    rights: Arc<Rights>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({}, {:?})", self.name, self.rights)
    }
}

impl Users {
    /// Reads a file of users: TOML with a table for each, named as he is, with `token` and lists of patterns as `pull`, `push` and
    /// `delete`.
    ///
    /// # Errors
    /// What is allowed, without a word of its secrets.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(ValueError(format!("a file of at most {MAX_FILE_BYTES} bytes")));
        }
        let table = DeTable::parse(text).map_err(|error| ValueError(format!("TOML: {}", error.message())))?;
        let users = table.get_ref().iter().map(|(name, user)| {
            let name = name.get_ref();
            match user.get_ref() {
                DeValue::Table(user) => User::read(name, user),
                _ => Err(ValueError(format!("a table for each user, as [ci], and {name:?} is none"))),
            }
        });
        match users.collect::<Result<Vec<_>, _>>()? {
            none if none.is_empty() => Err(ValueError("a user at least".to_owned())),
            users => Ok(Self(users)),
        }
    }

    /// What the user of this name may do, if this is his secret.
    pub(crate) fn rights(&self, name: &str, secret: &str) -> Option<&Arc<Rights>> {
        let user = self.0.iter().find(|user| user.name == name)?;
        crate::server::is_equal(secret, user.token.expose()).then_some(&user.rights)
    }
}

impl User {
    fn read(name: &str, table: &DeTable<'_>) -> Result<Self, ValueError> {
        let wrong = |what: &str| ValueError(format!("for the user {name:?} {what}"));
        // In basic authentication (RFC 7617) a colon ends the name.
        if name.is_empty() || name.contains(':') {
            return Err(wrong("a name without a colon"));
        }
        if table.keys().any(|key| !["token", "pull", "push", "delete"].contains(&key.get_ref().as_ref())) {
            return Err(wrong("token, pull, push and delete alone"));
        }
        let token = match table.get("token").map(|token| token.get_ref()) {
            Some(DeValue::String(token)) => parse::token(token).map_err(|error| wrong(&format!("as its token {}", error.0)))?,
            _ => return Err(wrong("a token")),
        };
        let repositories = |action: &str| -> Result<Vec<Repositories>, ValueError> {
            let Some(items) = table.get(action) else { return Ok(Vec::new()) };
            let DeValue::Array(items) = items.get_ref() else { return Err(wrong(&format!("an array as {action}"))) };
            let read = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => text.parse().ok(),
                _ => None,
            });
            let allowed = || wrong(&format!("in {action} repositories, and * alone or behind a last slash"));
            read.collect::<Option<_>>().ok_or_else(allowed)
        };
        let rights = Rights { pull: repositories("pull")?, push: repositories("push")?, delete: repositories("delete")? };
        Ok(Self { name: name.to_owned(), token, rights: Arc::new(rights) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [ci]
        token = "the-token-of-ci-0"
        pull = ["base", "apps/*"]
        push = ["apps/*"]
        [root]
        token = "the-token-of-root"
        pull = ["*"]
        delete = ["*"]
    "#;

    #[test]
    fn users_are_known_by_their_own_secrets() {
        let users = Users::parse(FILE).unwrap();
        for (name, secret) in [("ci", "the-token-of-root"), ("x", "the-token-of-ci-0"), ("ci", ""), ("", "")] {
            assert!(users.rights(name, secret).is_none(), "{name}");
        }
        assert_eq!(users.rights("root", "the-token-of-root").unwrap().delete, [Repositories::All]);
        let ci = users.rights("ci", "the-token-of-ci-0").unwrap();
        assert_eq!((ci.pull.len(), ci.push.len(), ci.delete.len()), (2, 1, 0));
        assert!(!format!("{users:?}").contains("the-token"));
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_without_its_secrets() {
        let user = |rest: &str| format!("[a]\ntoken = \"secret-secret-secret\"\n{rest}");
        assert!(Users::parse(&user("")).is_ok());
        let wrong = [
            user("pull = [\"A\"]"),
            user("pull = [\"*/a\"]"),
            user("pull = [1]"),
            user("pulls = []"),
            user("pull = \"*\""),
            user(&user("")),
            "[\"a:b\"]\ntoken = \"secret-secret-secret\"".to_owned(),
            "[a]\ntoken = \"secret\"".to_owned(),
            "[a]\ntoken = \"secret-secret secret\"".to_owned(),
            "[a]".to_owned(),
            "a = \"secret\"".to_owned(),
            String::new(),
            " ".repeat(MAX_FILE_BYTES + 1),
        ];
        for text in wrong {
            let error = Users::parse(&text).expect_err(&text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
