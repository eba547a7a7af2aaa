//! A backup of an identity: one text file with what `identity/` in the data directory holds, the incarnation left out, since
//! a restored node begins a new life. Nothing is written before the whole of it was found to hold together.

use std::io::Write as _;
use std::path::Path;

use peat_blobcore::identity::{Formation, FormationKey, Identity, KeyError, NodeKey, files};
use peat_blobcore::model::{Certificate, Incarnation, ParseIdError};

use crate::failure::{Failure, Kind};
use crate::secret;

/// The first line.
const HEAD: &str = "peat-blob identity 1";
/// The directory in the data directory.
const DIRECTORY: &str = "identity";
const NODE_KEY: &str = "node.key";
const FORMATION_KEY: &str = "formation.key";
const PREVIOUS_KEY: &str = "formation.previous";
const AUTHORITY: &str = "authority.pub";
const CERTIFICATE: &str = "certificate";
/// Every file with its place in the backup. The node's key comes last: with it the identity is there.
const NAMES: [&str; 5] = [FORMATION_KEY, PREVIOUS_KEY, AUTHORITY, CERTIFICATE, NODE_KEY];

/// The names and lines of the files.
pub(super) struct Backup(Vec<(&'static str, String)>);

impl Backup {
    /// Reads the files of a data directory.
    pub(super) fn read(data: &Path) -> Result<Self, Failure> {
        let mut lines = Vec::new();
        for name in NAMES {
            let path = data.join(DIRECTORY).join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => lines.push((name, text.trim().to_owned())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()))(error)),
            }
        }
        Ok(Self(lines))
    }

    /// The file's content.
    pub(super) fn to_text(&self) -> String {
        self.0.iter().fold(format!("{HEAD}\n"), |text, (name, line)| format!("{text}{name} {line}\n"))
    }

    /// Whether a text means to be a backup.
    pub(super) fn is_one(text: &str) -> bool {
        text.lines().next() == Some(HEAD)
    }

    /// Reads a backup.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let mut lines = Vec::new();
        for line in text.lines().skip(1) {
            let (found, value) = line.split_once(' ').unwrap_or((line, ""));
            let name = NAMES.into_iter().find(|name| *name == found && !lines.iter().any(|(known, _)| known == name));
            lines.push((name.ok_or_else(|| damaged(format!("what is {found:?}?")))?, value.to_owned()));
        }
        Ok(Self(lines))
    }

    /// Writes the files into a data directory that has no node's key.
    pub(super) fn restore(&self, data: &Path) -> Result<Identity, Failure> {
        self.check()?;
        let directory = data.join(DIRECTORY);
        let key = directory.join(NODE_KEY);
        if key.try_exists().map_err(Failure::io(key.display()))? {
            return Err(secret::exists(&key).hint("a node keeps its key; take another data directory for another node"));
        }
        secret::directory(data)?;
        secret::directory(&directory)?;
        for name in NAMES {
            let line = self.0.iter().find(|(found, _)| *found == name).map(|(_, line)| line);
            place(&directory.join(name), line)
                .map_err(Failure::io(format!("cannot write {}", directory.join(name).display())))?;
        }
        files::renew_incarnation(data)?;
        Ok(files::load(data)?.0)
    }

    /// Whether it is one identity, whole.
    fn check(&self) -> Result<(), Failure> {
        let line = |name: &str| self.0.iter().find(|(found, _)| *found == name).map(|(_, line)| line.as_str());
        let needed = |name: &str| line(name).ok_or_else(|| damaged(format!("{name} is missing")));
        let bad_key = |error: KeyError| damaged(error.to_string());
        let formation = Formation {
            key: FormationKey::from_base64(needed(FORMATION_KEY)?).map_err(bad_key)?,
            previous: line(PREVIOUS_KEY).map(FormationKey::from_base64).transpose().map_err(bad_key)?,
            authority: Some(needed(AUTHORITY)?.parse().map_err(|error: ParseIdError| damaged(error.to_string()))?),
        };
        let key = NodeKey::from_base64(needed(NODE_KEY)?).map_err(bad_key)?;
        let certificate = Certificate::from_base64(needed(CERTIFICATE)?).map_err(bad_key)?;
        Identity::enrolled(key, certificate, formation, Incarnation::from_bytes([0; 16]))?;
        Ok(())
    }
}

/// Replaces a file as a whole, durably; without a line there is to be none.
fn place(path: &Path, line: Option<&String>) -> std::io::Result<()> {
    let Some(line) = line else {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    // Made for its owner alone.
    let mut file = tempfile::NamedTempFile::new_in(path.parent().expect("it lies in the identity's directory"))?;
    writeln!(file, "{line}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    secret::sync_parent(path)
}

fn damaged(why: String) -> Failure {
    Failure::new(Kind::Integrity, format!("the backup is damaged: {why}")).hint("restore from another copy; nothing was changed")
}
