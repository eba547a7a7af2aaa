//! Paths as they travel, and which of them may become names beneath an inbox.

use std::fmt;

/// Longest file name in bytes (`NAME_MAX` on Linux file systems).
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Longest path in bytes (`PATH_MAX` on Linux).
pub const MAX_PATH_BYTES: usize = 4096;

/// A path that can be created beneath a directory and nowhere else: UTF-8, relative, `/` between components, none of which
/// is empty, `.` or `..`. A newline or a leading dash is odd but safe.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(String);

/// Why a path may not become a name beneath an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsafePath {
    /// There is nothing there.
    #[error("the path is empty")]
    Empty,
    /// Over [`MAX_PATH_BYTES`].
    #[error("the path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// Names on disk are bytes, but names in documents are text.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// No file system can hold it.
    #[error("the path contains a NUL byte")]
    Nul,
    /// It begins with `/`.
    #[error("the path is absolute")]
    Absolute,
    /// `a//b` or `a/`.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("the path has a `.` or `..` component")]
    DotComponent,
    /// Over [`MAX_COMPONENT_BYTES`].
    #[error("a component of the path is longer than {MAX_COMPONENT_BYTES} bytes")]
    ComponentTooLong,
}

impl RelativePath {
    /// Checks the bytes of a path, wherever they come from.
    ///
    /// # Errors
    /// The first reason for which the path is unsafe.
    pub fn parse(bytes: &[u8]) -> Result<Self, UnsafePath> {
        if bytes.is_empty() {
            return Err(UnsafePath::Empty);
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(UnsafePath::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| UnsafePath::NotUtf8)?;
        if text.contains('\0') {
            return Err(UnsafePath::Nul);
        }
        if text.starts_with('/') {
            return Err(UnsafePath::Absolute);
        }
        for component in text.split('/') {
            match component {
                "" => return Err(UnsafePath::EmptyComponent),
                "." | ".." => return Err(UnsafePath::DotComponent),
                long if long.len() > MAX_COMPONENT_BYTES => return Err(UnsafePath::ComponentTooLong),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, from the top down; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_but_safe_names_pass_and_unsafe_ones_say_why() {
        let long = "a".repeat(255);
        for good in ["a", "-rf", "a b/ü/日本", "new\nline", ".hidden", "...", "a/.../b", long.as_str()] {
            assert_eq!(RelativePath::parse(good.as_bytes()).expect(good).as_str(), good);
        }
        let (longer, deep) = ("a".repeat(256), "a/".repeat(2048) + "a");
        for (bad, why) in [
            (&b""[..], UnsafePath::Empty),
            (b"/etc/passwd", UnsafePath::Absolute),
            (b"a//b", UnsafePath::EmptyComponent),
            (b"a/", UnsafePath::EmptyComponent),
            (b"..", UnsafePath::DotComponent),
            (b"a/../b", UnsafePath::DotComponent),
            (b"./a", UnsafePath::DotComponent),
            (b"a\0b", UnsafePath::Nul),
            (b"\xff", UnsafePath::NotUtf8),
            (longer.as_bytes(), UnsafePath::ComponentTooLong),
            (deep.as_bytes(), UnsafePath::TooLong),
        ] {
            assert_eq!(RelativePath::parse(bad), Err(why));
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_beneath_its_directory(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = RelativePath::parse(&bytes) {
                let path = std::path::Path::new(path.as_str());
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
