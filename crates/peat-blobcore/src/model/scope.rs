//! Whom a distribution is for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::EndpointId;

/// Labels of a node, in order of their keys.
pub type Labels = BTreeMap<String, String>;

/// Whom a distribution is for. The sender itself is never a target.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Scope {
    /// Every member of the formation, those that join later included.
    #[n(0)]
    All,
    /// These nodes, by endpoint id or by name.
    #[n(1)]
    Nodes(#[n(0)] Vec<NodeRef>),
    /// Every member whose labels the selector matches, those that join later included.
    #[n(2)]
    Labels(#[n(0)] Selector),
}

/// A node as a user names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
pub enum NodeRef {
    /// By its endpoint id.
    #[n(0)]
    Id(#[n(0)] EndpointId),
    /// By the name in its node record.
    #[n(1)]
    Name(#[n(0)] String),
}

/// Sixty-four hex digits are an endpoint id, anything else is a name.
impl From<&str> for NodeRef {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

impl Scope {
    /// Whether a node of this id, name and labels is meant. (A sender is never its own target: the caller leaves it out.)
    #[must_use]
    pub fn matches(&self, id: &EndpointId, name: &str, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Nodes(nodes) => nodes.iter().any(|node| match node {
                NodeRef::Id(wanted) => wanted == id,
                NodeRef::Name(wanted) => wanted == name,
            }),
            Self::Labels(selector) => selector.matches(labels),
        }
    }
}

/// One condition of a [`Selector`].
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Requirement {
    /// `key=value` or `key in (a,b)`: the label is there and has one of the values.
    #[n(0)]
    In(#[n(0)] String, #[n(1)] BTreeSet<String>),
    /// `key!=value` or `key notin (a,b)`: the label is missing or has none of the values.
    #[n(1)]
    NotIn(#[n(0)] String, #[n(1)] BTreeSet<String>),
    /// `key`: the label is there.
    #[n(2)]
    Exists(#[n(0)] String),
    /// `!key`: the label is missing.
    #[n(3)]
    Missing(#[n(0)] String),
}

/// Conditions on labels that must all hold, in the syntax of Kubernetes label selectors:
/// `role=edge,region in (a,b),tier!=test,gpu,!retired`.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Selector(#[n(0)] Vec<Requirement>);

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a label selector: {reason} in {part:?} (write for example `role=edge,region in (a,b)`)")]
pub struct SelectorError {
    reason: &'static str,
    part: String,
}

impl Selector {
    /// Whether all requirements hold for these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => !labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Missing(key) => !labels.contains_key(key),
        })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        split_outside_parentheses(text).map(parse_requirement).collect::<Result<Vec<_>, _>>().map(Self)
    }
}

/// Splits at commas, but not at those of a value list.
fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn parse_requirement(part: &str) -> Result<Requirement, SelectorError> {
    let fail = |reason| SelectorError { reason, part: part.chars().take(80).collect() };
    let word = |text: &str| {
        let text = text.trim();
        let allowed = |c: char| c.is_alphanumeric() || "-_./".contains(c);
        if text.is_empty() || !text.chars().all(allowed) {
            Err(fail("a key or value is empty or has a strange character"))
        } else {
            Ok(text.to_owned())
        }
    };
    let part = part.trim();
    if let Some(list) = part.strip_suffix(')') {
        let (head, values) = list.split_once('(').ok_or_else(|| fail("`)` without `(`"))?;
        let values = values.split(',').map(word).collect::<Result<_, _>>()?;
        return match head.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => Ok(Requirement::In(word(key)?, values)),
            Some((key, "notin")) => Ok(Requirement::NotIn(word(key)?, values)),
            _ => Err(fail("a value list wants `in` or `notin`")),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(word(key)?, BTreeSet::from([word(value)?])));
    }
    if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return Ok(Requirement::In(word(key)?, BTreeSet::from([word(value)?])));
    }
    match part.strip_prefix('!') {
        Some(key) => Ok(Requirement::Missing(word(key)?)),
        None => Ok(Requirement::Exists(word(part)?)),
    }
}

/// The text that parses to the same selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let list = |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match requirement {
                Requirement::In(key, values) => write!(f, "{key} in ({})", list(values))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", list(values))?,
                Requirement::Exists(key) => write!(f, "{key}")?,
                Requirement::Missing(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn selectors_match_as_kubernetes_ones_do() {
        let node = labels(&[("role", "edge"), ("region", "b")]);
        for (text, expected) in [
            ("role=edge", true),
            ("role==edge", true),
            ("role!=edge", false),
            ("tier!=test", true),
            ("role=edge,region in (a,b)", true),
            ("role=edge, region in (a, c)", false),
            ("region notin (a,c),!tier", true),
            ("role", true),
            ("!role", false),
        ] {
            let selector: Selector = text.parse().expect(text);
            assert_eq!(selector.matches(&node), expected, "{text}");
            assert_eq!(selector.to_string().parse(), Ok(selector), "{text}");
        }
    }

    #[test]
    fn bad_selectors_are_refused_with_an_example() {
        for text in ["", "a,", "=b", "a=", "a in b)", "a (b)", "a=b c", "a in ()", "(((("] {
            let error = text.parse::<Selector>().expect_err(text).to_string();
            assert!(error.contains("role=edge"), "{error}");
        }
    }
}
