//! Paths, queries and ranges of the distribution protocol, read from what a client says. Pure, and total on hostile bytes.
//!
//! Sources: distribution-spec 1.1 ("Endpoints"); RFC 9110, section 14 (ranges).

use std::ops::Range;

use crate::oci::{Digest, NameError, Repository};

/// What a path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: whether this is a registry.
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/tags/list`.
    Tags(Repository),
    /// `/v2/<name>/manifests/<reference>`, the reference as it was written.
    Manifest(Repository, String),
    /// `/v2/<name>/blobs/<digest>`.
    Blob(Repository, Digest),
    /// `/v2/<name>/blobs/uploads/`.
    Uploads(Repository),
    /// `/v2/<name>/blobs/uploads/<id>`, the id as it was written.
    Upload(Repository, String),
    /// `/v2/<name>/referrers/<digest>`.
    Referrers(Repository, Digest),
}

/// Why a path is about nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// The protocol has no such path.
    Unknown,
    /// A name in it is malformed.
    Name(NameError),
}

impl<E: Into<NameError>> From<E> for NoRoute {
    fn from(error: E) -> Self {
        Self::Name(error.into())
    }
}

impl Route {
    /// Reads the path of a request.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub fn parse(path: &str) -> Result<Self, NoRoute> {
        let path = decode(path, false).ok_or(NoRoute::Unknown)?;
        let rest = path.strip_prefix("/v2").ok_or(NoRoute::Unknown)?;
        let rest = match rest {
            "" | "/" => return Ok(Self::Base),
            "/_catalog" => return Ok(Self::Catalog),
            rest => rest.strip_prefix('/').ok_or(NoRoute::Unknown)?,
        };
        // Names contain slashes, so what is asked for is told from the end.
        let (front, last) = rest.rsplit_once('/').ok_or(NoRoute::Unknown)?;
        let uploads = |name: &str| Ok(Self::Uploads(name.parse()?));
        if let Some(name) = front.strip_suffix("/blobs/uploads") {
            return if last.is_empty() { uploads(name) } else { Ok(Self::Upload(name.parse()?, last.to_owned())) };
        }
        let (name, kind) = front.rsplit_once('/').ok_or(NoRoute::Unknown)?;
        match (kind, last) {
            ("tags", "list") => Ok(Self::Tags(name.parse()?)),
            ("manifests", reference) => Ok(Self::Manifest(name.parse()?, reference.to_owned())),
            ("blobs", "uploads") => uploads(name),
            ("blobs", digest) => Ok(Self::Blob(name.parse()?, digest.parse::<Digest>()?)),
            ("referrers", digest) => Ok(Self::Referrers(name.parse()?, digest.parse::<Digest>()?)),
            _ => Err(NoRoute::Unknown),
        }
    }
}

/// The value of a query's parameter; the first where there are several.
#[must_use]
pub(super) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| decode(value, true))
}

/// Undoes percent-encoding; `None` when it is malformed.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes what a value of a query may not contain.
#[must_use]
pub(super) fn encode(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What a `Range` header asks for of so many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ByteRange {
    /// Everything: there is no header, or one that may be ignored (another unit, several ranges, nonsense).
    All,
    /// These bytes; at least one.
    Part(Range<u64>),
    /// None of the bytes that there are.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads a header's value.
    #[must_use]
    pub fn parse(header: Option<&str>, size: u64) -> Self {
        let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Self::All };
        let Some((first, last)) = spec.trim().split_once('-') else { return Self::All };
        // Digits alone: a sign would be read as part of a number.
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        match (number(first), number(last)) {
            (Some(first), None) if last.is_empty() && first < size => Self::Part(first..size),
            (Some(first), Some(last)) if first < size && first <= last => Self::Part(first..size.min(last.saturating_add(1))),
            (None, Some(count)) if first.is_empty() && count > 0 && size > 0 => Self::Part(size.saturating_sub(count)..size),
            (Some(_), Some(_)) => Self::Unsatisfiable,
            (Some(_), None) if last.is_empty() => Self::Unsatisfiable,
            (None, Some(_)) if first.is_empty() => Self::Unsatisfiable,
            _ => Self::All,
        }
    }
}

/// Reads the `Content-Range` of a piece that is pushed: the first byte and the one behind the last.
///
/// The specification writes `<start>-<end>`; some clients write it as HTTP does, `bytes <start>-<end>/<size>`.
#[must_use]
pub fn content_range(header: &str) -> Option<Range<u64>> {
    let spec = header.trim();
    let spec = spec.strip_prefix("bytes").map_or(spec, |rest| rest.trim_start_matches(['=', ' ']));
    let (first, last) = spec.split('/').next()?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
    (first < end).then_some(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_the_end_since_names_contain_slashes() {
        let (name, digest) = ("a/blobs/b", format!("sha256:{}", "ab".repeat(32)));
        let repository = || name.parse::<Repository>().expect("a name");
        let cases = [
            (format!("/v2/{name}/tags/list"), Route::Tags(repository())),
            (format!("/v2/{name}/manifests/v1"), Route::Manifest(repository(), "v1".to_owned())),
            (format!("/v2/{name}/manifests/sha256%3Aab"), Route::Manifest(repository(), "sha256:ab".to_owned())),
            (format!("/v2/{name}/blobs/{digest}"), Route::Blob(repository(), digest.parse().expect("a digest"))),
            (format!("/v2/{name}/blobs/uploads"), Route::Uploads(repository())),
            (format!("/v2/{name}/blobs/uploads/"), Route::Uploads(repository())),
            (format!("/v2/{name}/blobs/uploads/x"), Route::Upload(repository(), "x".to_owned())),
            (format!("/v2/{name}/referrers/{digest}"), Route::Referrers(repository(), digest.parse().expect("a digest"))),
            ("/v2".to_owned(), Route::Base),
            ("/v2/".to_owned(), Route::Base),
            ("/v2/_catalog".to_owned(), Route::Catalog),
        ];
        for (path, route) in cases {
            assert_eq!(Route::parse(&path), Ok(route), "{path}");
        }
        for path in ["", "/", "/v1/", "/v2x", "/v2/a", "/v2/a/b", "/v2/manifests/x", "/v2/a/tags/x", "/v2/a%/tags/list"] {
            assert_eq!(Route::parse(path), Err(NoRoute::Unknown), "{path}");
        }
        for path in ["/v2/A/tags/list", "/v2/../manifests/x", "/v2/a/blobs/sha256:1", "/v2/a//tags/list"] {
            assert!(matches!(Route::parse(path), Err(NoRoute::Name(_))), "{path}");
        }
    }

    #[test]
    fn ranges_are_those_that_clients_use_and_the_rest_is_ignored_or_refused() {
        let part = |header: &str| ByteRange::parse(Some(header), 2048);
        for (header, range) in [("500-1499", 500..1500), ("500-", 500..2048), ("-500", 1548..2048), ("2000-5000", 2000..2048)] {
            assert_eq!(part(&format!("bytes={header}")), ByteRange::Part(range), "{header}");
        }
        assert_eq!(part("bytes=-5000"), ByteRange::Part(0..2048));
        assert_eq!(part("bytes=0-99999999999999999999999"), ByteRange::Part(0..2048));
        for header in ["500-0", "5000-10000", "2048-", "-0", "99999999999999999999999-"] {
            assert_eq!(part(&format!("bytes={header}")), ByteRange::Unsatisfiable, "{header}");
        }
        for header in ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2", "bytes=+1-2", "bytes=1--2"] {
            assert_eq!(part(header), ByteRange::All, "{header}");
        }
        assert_eq!(ByteRange::parse(Some("bytes=0-"), 0), ByteRange::Unsatisfiable);
        assert_eq!(ByteRange::parse(None, 5), ByteRange::All);
    }

    #[test]
    fn pieces_say_where_they_belong_in_either_way() {
        for header in ["5-9", "bytes 5-9/*", "bytes=5-9", " bytes 5-9/20 "] {
            assert_eq!(content_range(header), Some(5..10), "{header}");
        }
        for header in ["", "5", "9-5", "-5", "5-", "a-b", "+5-9", "0-18446744073709551615"] {
            assert_eq!(content_range(header), None, "{header}");
        }
    }

    #[test]
    fn values_of_a_query_are_decoded_and_encoded() {
        let query = Some("n=5&last=a%2Fb&artifactType=application%2Fx+json&empty&bad=%zz&n=6");
        assert_eq!(parameter(query, "n").as_deref(), Some("5"));
        assert_eq!(parameter(query, "last").as_deref(), Some("a/b"));
        assert_eq!(parameter(query, "artifactType").as_deref(), Some("application/x json"));
        assert_eq!(
            (parameter(query, "empty").as_deref(), parameter(query, "bad"), parameter(query, "x")),
            (Some(""), None, None)
        );
        assert_eq!(encode("a/b+c d:ü"), "a/b%2Bc%20d:%C3%BC");
    }
}
