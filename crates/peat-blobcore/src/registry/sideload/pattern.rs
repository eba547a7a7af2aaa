//! Patterns of paths: which file is which image. `/nix/store/<ref>-<name>.tar.gz` has the file `/nix/store/1.2-team-app.tar.gz`
//! served as `team-app:1.2`. Pure: text in, text out.
//!
//! `<ref>` is the tag and `<name>` the repository, each named once. Both stay within one directory's name; `<name...>` may go over
//! several, so that `/opt/<name...>/<ref>.tar` serves `/opt/team/app/1.tar` as `team/app:1`. Where a path can be read in several
//! ways what comes first in the pattern is as short as it can be; everything else stands for itself. What is not a tag or a
//! repository's name as the OCI has them does not match.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::oci::{Repository, Tag};

/// Longest pattern in bytes.
const MAX_BYTES: usize = 4096;
/// Longest path that is looked at, in bytes beneath the root.
const MAX_PATH_BYTES: usize = 1024;

/// Which files are served, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    root: PathBuf,
    parts: Vec<Part>,
}

/// A piece of the path beneath the root.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Reference,
    Name { spans: bool },
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is longer than a path can be.
    #[error("a pattern has at most {MAX_BYTES} bytes")]
    TooLong,
    /// It depends on where the process was started.
    #[error("a pattern begins with `/`")]
    Relative,
    /// It would have all of the machine looked through.
    #[error("a pattern begins with a directory, as in /opt/<name>/<ref>.tar")]
    NoDirectory,
    /// Its path is not what the system makes of it.
    #[error("a pattern has no `//`, `.` or `..` in it, and no `/` at its end")]
    Untidy,
    /// What stands in brackets is unknown.
    #[error("only <name>, <name...> and <ref> may be in brackets")]
    Unknown,
    /// A place is missing or there twice.
    #[error("a pattern has one <name> or <name...>, and one <ref>")]
    NotOnce,
    /// Nothing would say where one ends and the other begins.
    #[error("there has to be something between <name> and <ref>")]
    Adjacent,
}

impl Pattern {
    /// The directory beneath which all lies that can match.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many names a matching path has beneath the root; at least so many when it may go over several.
    pub(super) fn depth(&self) -> (usize, bool) {
        let slashes = self.parts.iter().map(|part| if let Part::Text(text) = part { text.matches('/').count() } else { 0 });
        (slashes.sum::<usize>() + 1, self.parts.contains(&Part::Name { spans: true }))
    }

    /// What a path beneath the root is served as.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<(Repository, Tag)> {
        if path.len() > MAX_PATH_BYTES || path.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return None;
        }
        let (mut name, mut reference) = (None, None);
        read(&self.parts, path, &mut name, &mut reference).then_some(())?;
        Some((name?, reference?))
    }

    /// The path beneath the root of what is served as this; none when no path is.
    #[must_use]
    pub fn path(&self, name: &Repository, reference: &Tag) -> Option<String> {
        let piece = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Reference => reference.to_string(),
            Part::Name { .. } => name.to_string(),
        };
        let path: String = self.parts.iter().map(piece).collect();
        // What this path is read as may be something else.
        (self.read(&path)? == (name.clone(), reference.clone())).then_some(path)
    }
}

/// Reads what the first part is, and the rest of the path as the others. It goes back at one place alone, so that it costs at most
/// the square of a path's length.
fn read(parts: &[Part], path: &str, name: &mut Option<Repository>, reference: &mut Option<Tag>) -> bool {
    let Some((first, rest)) = parts.split_first() else { return path.is_empty() };
    if let Part::Text(text) = first {
        return path.strip_prefix(text.as_str()).is_some_and(|left| read(rest, left, name, reference));
    }
    let spans = *first == Part::Name { spans: true };
    let within = if spans { path.len() } else { path.find('/').unwrap_or(path.len()) };
    let ends: Box<dyn Iterator<Item = usize>> = match rest.first() {
        Some(Part::Text(text)) => Box::new(path.match_indices(text.as_str()).map(|(at, _)| at).filter(move |at| *at <= within)),
        // It is the last.
        _ => Box::new(std::iter::once(path.len()).filter(move |at| *at <= within)),
    };
    for end in ends {
        let taken = &path[..end];
        let fits = match first {
            Part::Reference => taken.parse().map(|tag| *reference = Some(tag)).is_ok(),
            _ => taken.parse().map(|repository| *name = Some(repository)).is_ok(),
        };
        if fits && read(rest, &path[end..], name, reference) {
            return true;
        }
    }
    false
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_BYTES {
            return Err(PatternError::TooLong);
        }
        let beneath = text.strip_prefix('/').ok_or(PatternError::Relative)?;
        if beneath.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(PatternError::Untidy);
        }
        let open = text.find('<').ok_or(PatternError::NotOnce)?;
        let root_end = text[..open].rfind('/').ok_or(PatternError::NoDirectory)?;
        if root_end == 0 {
            return Err(PatternError::NoDirectory);
        }
        let mut parts = Vec::new();
        let mut rest = &text[root_end + 1..];
        while let Some(open) = rest.find('<') {
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            } else if matches!(parts.last(), Some(Part::Reference | Part::Name { .. })) {
                return Err(PatternError::Adjacent);
            }
            let close = rest[open..].find('>').ok_or(PatternError::Unknown)? + open;
            parts.push(match &rest[open + 1..close] {
                "ref" => Part::Reference,
                "name" => Part::Name { spans: false },
                "name..." => Part::Name { spans: true },
                _ => return Err(PatternError::Unknown),
            });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let references = parts.iter().filter(|part| **part == Part::Reference).count();
        let names = parts.iter().filter(|part| matches!(part, Part::Name { .. })).count();
        if references != 1 || names != 1 {
            return Err(PatternError::NotOnce);
        }
        Ok(Self { text: text.to_owned(), root: PathBuf::from(&text[..root_end]), parts })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn read(text: &str, path: &str) -> Option<String> {
        let pattern = pattern(text);
        let beneath = path.strip_prefix(pattern.root().to_str()?)?.strip_prefix('/')?;
        pattern.read(beneath).map(|(name, tag)| format!("{name}:{tag}"))
    }

    #[test]
    fn a_path_is_an_image() {
        let nix = "/nix/store/<ref>-<name>.tar.gz";
        assert_eq!(read(nix, "/nix/store/0a1b2c-team-app.tar.gz").as_deref(), Some("team-app:0a1b2c"));
        assert_eq!(read(nix, "/nix/store/0a1b2c-a.tar.gz.tar.gz").as_deref(), Some("a.tar.gz:0a1b2c"));
        let opt = "/opt/<name>/<ref>.tar";
        assert_eq!(read(opt, "/opt/app/1.2.tar").as_deref(), Some("app:1.2"));
        let over = "/opt/<name...>/<ref>.tar";
        assert_eq!(read(over, "/opt/team/app/1.2.tar").as_deref(), Some("team/app:1.2"));
        assert_eq!(read("/opt/images/<name...>/<ref>", "/opt/images/a/b/c").as_deref(), Some("a/b:c"));
    }

    #[test]
    fn what_does_not_match_is_not_visible() {
        for path in ["/nix/store/x-app.tar", "/nix/store/-app.tar.gz", "/nix/store/x-App.tar.gz", "/nix/store/d/x-a.tar.gz"] {
            assert_eq!(read("/nix/store/<ref>-<name>.tar.gz", path), None, "{path}");
        }
        for path in ["/opt/team/app/1.tar", "/opt/1.tar", "/opt//1.tar", "/opt/app/.tar", "/opt/../1.tar", "/opt/a/-.tar"] {
            assert_eq!(read("/opt/<name>/<ref>.tar", path), None, "{path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told_so() {
        use PatternError::*;
        let wrong = [
            ("opt/<name>/<ref>", Relative),
            ("/<name>/<ref>.tar", NoDirectory),
            ("/<name...>-<ref>", NoDirectory),
            ("/opt/../etc/<name>/<ref>", Untidy),
            ("/opt//<name>/<ref>", Untidy),
            ("/opt/<name>/<ref>/", Untidy),
            ("/opt/<name>", NotOnce),
            ("/opt/app.tar", NotOnce),
            ("/opt/<name>/<ref>-<ref>", NotOnce),
            ("/opt/<name><ref>", Adjacent),
            ("/opt/<name>/<tag>", Unknown),
            ("/opt/<name>/<ref", Unknown),
        ];
        for (text, why) in wrong {
            assert_eq!(text.parse::<Pattern>(), Err(why), "{text}");
        }
        assert_eq!(format!("/a/{}<name>/<ref>", "b".repeat(5000)).parse::<Pattern>(), Err(TooLong));
    }

    fn patterns() -> impl Strategy<Value = Pattern> {
        let text = "[a-z0-9.-]{0,4}";
        let name = prop_oneof![Just("<name>"), Just("<name...>")];
        (prop::collection::vec("[a-z]{1,3}", 1..3), text, name, "[-/_.x]{1,2}", text, any::<bool>()).prop_filter_map(
            "a pattern",
            |(root, before, name, between, after, turned)| {
                let (one, other) = if turned { ("<ref>", name) } else { (name, "<ref>") };
                format!("/{}/{before}{one}{between}{other}{after}", root.join("/")).parse().ok()
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_served_has_one_path_which_is_read_as_it(
            pattern in patterns(), name in "[a-z0-9]{1,3}([/._-][a-z0-9]{1,3}){0,3}", tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,6}",
        ) {
            let (name, tag): (Repository, Tag) = (name.parse().unwrap(), tag.parse().unwrap());
            if let Some(path) = pattern.path(&name, &tag) {
                prop_assert_eq!(pattern.read(&path), Some((name, tag)));
            }
        }

        #[test]
        fn a_path_that_is_read_is_the_path_of_what_it_is(pattern in patterns(), path in "[a-z0-9/._-]{1,20}") {
            if let Some((name, tag)) = pattern.read(&path) {
                prop_assert_eq!(pattern.path(&name, &tag), Some(path.clone()));
                let (least, more) = pattern.depth();
                let depth = path.split('/').count();
                prop_assert!(depth == least || (more && depth > least));
            }
        }

        #[test]
        fn nothing_beside_the_root_matches(pattern in patterns(), path in "(\\.\\./|/|\\./){1,2}[a-z0-9/._-]{1,20}") {
            prop_assert_eq!(pattern.read(&path), None);
        }
    }
}
