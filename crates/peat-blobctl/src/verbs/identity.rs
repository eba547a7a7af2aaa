//! `identity`: what a node is, a backup of it, and its restoration. Only `export` touches secrets with intent, and it says so.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::identity::{Identity, IdentityError, files};
use peat_blobcore::model::{Certificate, Credential};
use serde_json::{Value, json};

use super::backup;
use crate::daemon::data_directory;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::{secret, show};

/// What to do with an identity.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Shows who the node of a data directory is.
    Show {
        #[command(flatten)]
        at: At,
    },
    /// Writes the node's identity, its secret keys among it, to a file.
    Export {
        #[command(flatten)]
        at: At,
        /// The file, which must not exist.
        #[arg(short = 'o', long = "file", value_name = "FILE")]
        file: PathBuf,
    },
    /// Takes in a certificate that `enroll` wrote, or restores an identity that `identity export` wrote.
    Import {
        #[command(flatten)]
        at: At,
        /// The file.
        file: PathBuf,
    },
}

/// Whose identity.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The node's data directory. Without it, the daemon's.
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
}

impl At {
    fn path(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(data_directory)
    }
}

/// Does it.
pub(crate) fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    match options {
        Options::Show { at } => show(&at.path(), output),
        Options::Export { at, file } => export(&at.path(), file, output),
        Options::Import { at, file } => import(&at.path(), file, output),
    }
}

fn show(data: &Path, output: &Output) -> Result<(), Failure> {
    match files::load(data) {
        Ok((identity, warnings)) => {
            for warning in &warnings {
                output.note(&format!("warning: {warning}"));
            }
            let mut document = document(&identity);
            document["warnings"] = warnings.iter().map(ToString::to_string).collect();
            output.result(&document, || text(&identity))
        }
        Err(IdentityError::NotEnrolled(id)) => {
            let document = json!({ "endpoint_id": id.to_string(), "enrolled": false, "warnings": [] });
            output.result(&document, || format!("endpoint id  {id}\nenrolled     no: it waits for its certificate"))
        }
        Err(error) => Err(error.into()),
    }
}

fn export(data: &Path, file: &Path, output: &Output) -> Result<(), Failure> {
    let (identity, _) = files::load(data)?;
    secret::write_new(file, &backup::of(&identity))?;
    let warning = format!("{} holds secret keys: whoever reads it can act as this node", file.display());
    let document = json!({ "endpoint_id": identity.id().to_string(), "file": file, "warning": warning });
    output.result(&document, || format!("{}\nwarning: {warning}", identity.id()))
}

fn import(data: &Path, file: &Path, output: &Output) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(Failure::io(format!("cannot read {}", file.display())))?;
    let identity = if backup::is_one(&text) {
        backup::restore(&text, data)?
    } else {
        let certificate = Certificate::from_base64(text.trim()).map_err(|error| {
            Failure::new(Kind::INTEGRITY, format!("{} is neither a certificate nor a backup: {error}", file.display()))
                .hint("take a file that `peat-blobctl enroll` or `peat-blobctl identity export` wrote, unchanged")
        })?;
        files::enroll(data, certificate)?
    };
    output.result(&document(&identity), || self::text(&identity))
}

fn document(identity: &Identity) -> Value {
    let mut document = json!({
        "endpoint_id": identity.id().to_string(),
        "enrolled": true,
        "name": identity.name(),
        "formation_id": identity.formation().id().to_string(),
        "authority": identity.formation().authority().map(|id| id.to_string()),
        "incarnation": identity.incarnation().to_string(),
    });
    if let Credential::Certificate(certificate) = identity.credential() {
        document["labels"] = json!(certificate.body.labels);
        document["role"] = "member".into();
        document["expiry"] = certificate.body.expiry.as_millis().into();
        document["expired"] = (certificate.body.expiry < SystemClock.now()).into();
    }
    document
}

fn text(identity: &Identity) -> String {
    let mut fields = vec![
        ("endpoint id", identity.id().to_string()),
        ("name", show::printable(identity.name())),
        ("formation", identity.formation().id().to_string()),
    ];
    if let Credential::Certificate(certificate) = identity.credential() {
        let body = &certificate.body;
        let labels = body.labels.iter().map(|(key, value)| show::printable(&format!("{key}={value}"))).collect::<Vec<_>>();
        let expired = if body.expiry < SystemClock.now() { ", expired: have it enrolled again" } else { "" };
        fields.push(("labels", labels.join(",")));
        fields.push(("role", "member".to_owned()));
        fields.push(("expiry", format!("{}{expired}", show::time(body.expiry.as_millis()))));
    }
    show::fields(&fields)
}
