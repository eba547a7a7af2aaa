//! A backup of an identity: one text file with its keys, a line each. Whether they belong together is for the library to say,
//! before anything of them is written.

use std::path::Path;

use peat_blobcore::identity::{Formation, FormationKey, Identity, KeyError, NodeKey, files};
use peat_blobcore::model::{Certificate, Credential, ParseIdError};

use crate::failure::{Failure, Kind};

/// The first line.
const HEAD: &str = "peat-blob identity 1";
const NODE_KEY: &str = "node.key";
const FORMATION_KEY: &str = "formation.key";
const PREVIOUS_KEY: &str = "formation.previous";
const AUTHORITY: &str = "authority.pub";
const CERTIFICATE: &str = "certificate";
/// The name of each line.
const NAMES: [&str; 5] = [FORMATION_KEY, PREVIOUS_KEY, AUTHORITY, CERTIFICATE, NODE_KEY];

/// Writes a backup of an enrolled identity.
pub(super) fn of(identity: &Identity) -> String {
    let formation = identity.formation();
    let certificate = match identity.credential() {
        Credential::Certificate(certificate) => Some(certificate.to_base64()),
        Credential::Derived { .. } => None,
    };
    let lines = [
        (FORMATION_KEY, Some(formation.key.to_base64())),
        (PREVIOUS_KEY, formation.previous.as_ref().map(FormationKey::to_base64)),
        (AUTHORITY, formation.authority.map(|authority| authority.to_string())),
        (CERTIFICATE, certificate),
        (NODE_KEY, Some(identity.key().to_base64())),
    ];
    let lines = lines.into_iter().filter_map(|(name, line)| Some(format!("{name} {}\n", line?)));
    format!("{HEAD}\n{}", lines.collect::<String>())
}

/// Whether a text means to be a backup.
pub(super) fn is_one(text: &str) -> bool {
    text.lines().next() == Some(HEAD)
}

/// Puts the identity of a backup into a data directory that has none.
pub(super) fn restore(text: &str, data: &Path) -> Result<Identity, Failure> {
    let mut lines: Vec<(&str, &str)> = Vec::new();
    for line in text.lines().skip(1) {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        if !NAMES.contains(&name) || lines.iter().any(|(known, _)| *known == name) {
            return Err(damaged(format!("what is {name:?}?")));
        }
        lines.push((name, value));
    }
    let line = |name: &str| lines.iter().find(|(found, _)| *found == name).map(|(_, line)| *line);
    let needed = |name: &str| line(name).ok_or_else(|| damaged(format!("{name} is missing")));
    let bad_key = |error: KeyError| damaged(error.to_string());
    let formation = Formation {
        key: FormationKey::from_base64(needed(FORMATION_KEY)?).map_err(bad_key)?,
        previous: line(PREVIOUS_KEY).map(FormationKey::from_base64).transpose().map_err(bad_key)?,
        authority: Some(needed(AUTHORITY)?.parse().map_err(|error: ParseIdError| damaged(error.to_string()))?),
    };
    let key = NodeKey::from_base64(needed(NODE_KEY)?).map_err(bad_key)?;
    let certificate = Certificate::from_base64(needed(CERTIFICATE)?).map_err(bad_key)?;
    Ok(files::restore(data, key, formation, certificate)?)
}

fn damaged(why: String) -> Failure {
    Failure::new(Kind::INTEGRITY, format!("the backup is damaged: {why}")).hint("restore from another copy; nothing was changed")
}
