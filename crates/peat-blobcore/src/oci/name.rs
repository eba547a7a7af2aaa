//! Names of repositories, tags and images (distribution-spec 1.1, "Pulling manifests"; the reference grammar that clients use).

use std::fmt;
use std::str::FromStr;

use super::{Digest, DigestError};

/// Longest name of a repository, in bytes. (Clients bound host and name together by 255.)
const MAX_REPOSITORY_BYTES: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not the name of a repository.
    #[error(
        "{0:?} is no repository: at most {MAX_REPOSITORY_BYTES} bytes of lower-case letters and digits, parts separated by /, in them single . and _, two _, or dashes"
    )]
    Repository(String),
    /// Not a tag.
    #[error("{0:?} is no tag: at most {MAX_TAG_BYTES} letters, digits, _, . and -, not beginning with . or -")]
    Tag(String),
    /// Not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// The name of a repository, as `library/alpine`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(String);

/// A name that points to a manifest of a repository, and may point to another later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Repository {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// What `latest` means where no tag is given.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// The tag.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= MAX_REPOSITORY_BYTES && text.split('/').all(is_component) {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError::Repository(text.chars().take(300).collect()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|c| c == b'-');
    text.starts_with(word) && text.ends_with(word) && text.split(word).all(separator)
}

impl FromStr for Tag {
    type Err = NameError;

    /// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        let begins = text.bytes().next().is_some_and(word);
        if begins && text.len() <= MAX_TAG_BYTES && text.bytes().all(|c| word(c) || c == b'.' || c == b'-') {
            return Ok(Self(text.to_owned()));
        }
        Err(NameError::Tag(text.chars().take(200).collect()))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client asks a repository for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// What the tag points to now.
    Tag(Tag),
    /// This content and no other.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.contains(':') {
            true => Ok(Self::Digest(text.parse()?)),
            false => Ok(Self::Tag(text.parse()?)),
        }
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// An image by its full name: `[registry/]repository[:tag][@digest]`.
///
/// The first part is a registry when it has a dot or a colon or is `localhost`; nothing is added to what is written: there is no
/// default registry here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    /// The registry's host, with its port if it has one.
    pub registry: Option<String>,
    /// The repository.
    pub repository: Repository,
    /// The tag.
    pub tag: Option<Tag>,
    /// The digest of the manifest; it decides where a tag is there as well.
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// What to ask the repository for: the digest, else the tag, else `latest`.
    #[must_use]
    pub fn reference(&self) -> Reference {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Reference::Digest(*digest),
            (None, Some(tag)) => Reference::Tag(tag.clone()),
            (None, None) => Reference::Tag(Tag::latest()),
        }
    }
}

impl FromStr for ImageReference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first.to_owned()), rest),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse()?)),
            None => (rest, None),
        };
        Ok(Self { registry, repository: repository.parse()?, tag, digest })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        self.repository.fmt(f)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_those_of_the_specification() {
        for good in ["a", "library/alpine", "a.b/c_d/e__f/g---h", "0/1", &"a".repeat(255)] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        let bad = ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "a.-b", "ä", "..", "a/../b", "a:b", "a b"];
        for bad in bad.into_iter().chain([&*"a".repeat(256)]) {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_those_of_the_specification() {
        for good in ["latest", "_", "1.0-rc.1_x", "A", &"a".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn images_are_read_as_they_are_written() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let full = format!("localhost:5000/a/b:1@{digest}");
        for text in ["alpine", "library/alpine:3", "quay.example/x/y", "localhost/x:1", &full, &format!("a@{digest}")] {
            assert_eq!(text.parse::<ImageReference>().expect("a reference").to_string(), text);
        }
        let read: ImageReference = full.parse().expect("a reference");
        assert_eq!(read.registry.as_deref(), Some("localhost:5000"));
        assert_eq!(read.reference().to_string(), digest);
        assert_eq!("a".parse::<ImageReference>().expect("a reference").reference().to_string(), "latest");
        for bad in ["", ":1", "a:", "A", "a@", "a@sha256:1", "localhost:5000/", "a:b:c"] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad}");
        }
    }
}
