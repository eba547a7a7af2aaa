//! `enroll`: the authority signs for a member. Either straight into a data directory of this machine, which is how a
//! certificate is renewed too, or for an endpoint id into a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::identity::{AuthorityKey, FormationKey, IdentityError, files};
use peat_blobcore::model::{CertificateBody, EndpointId, Labels, Role};
use serde_json::json;

use super::formation::FormationDirectory;
use crate::failure::Failure;
use crate::output::Output;
use crate::{secret, show, values};

/// What a member may do.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum RoleName {
    /// Send, receive and carry.
    #[default]
    Member,
}

/// Whom to sign for, and what.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The endpoint id to sign for.
    #[arg(required_unless_present = "data", conflicts_with = "data", requires = "certificate")]
    endpoint_id: Option<EndpointId>,
    /// The directory of the formation, with formation.key and authority.key.
    #[arg(long, value_name = "DIRECTORY")]
    formation: PathBuf,
    /// Enroll the node of this data directory; its key is made if it has none.
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Write the certificate to this file.
    #[arg(short = 'o', long = "certificate", value_name = "FILE", conflicts_with = "data")]
    certificate: Option<PathBuf>,
    /// The member's name.
    #[arg(long)]
    name: String,
    /// A label of the member's, as key=value. May be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// What the member may do.
    #[arg(long, value_enum, default_value_t)]
    role: RoleName,
    /// How long the certificate is good for.
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = values::duration)]
    lifetime: Duration,
}

/// Signs.
pub(crate) fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    let directory = FormationDirectory::new(&options.formation);
    let (formation, authority) = (directory.key()?, directory.authority()?);
    let endpoint = match (&options.data, options.endpoint_id) {
        (Some(data), _) => key_of(data, &formation, &authority)?,
        (None, Some(id)) => id,
        (None, None) => unreachable!("clap wants one of both"),
    };
    let body = CertificateBody {
        formation: formation.id(),
        endpoint,
        name: options.name.clone(),
        labels: options.labels.iter().cloned().collect::<Labels>(),
        role: match options.role {
            RoleName::Member => Role::Member,
        },
        expiry: SystemClock.now().plus(options.lifetime),
    };
    let document = json!({
        "endpoint_id": endpoint.to_string(),
        "name": body.name,
        "labels": body.labels,
        "role": "member",
        "formation_id": body.formation.to_string(),
        "expiry": body.expiry.as_millis(),
        "data": options.data,
        "certificate": options.certificate,
    });
    let expiry = body.expiry.as_millis();
    let certificate = authority.certify(body)?;
    match (&options.data, &options.certificate) {
        (Some(data), _) => drop(files::enroll(data, certificate)?),
        (None, Some(file)) => secret::write_new(file, &format!("{}\n", certificate.to_base64()))?,
        (None, None) => unreachable!("clap wants a file for an endpoint id"),
    }
    output.result(&document, || {
        let good = format!("{} {endpoint} until {}", show::printable(&options.name), show::time(expiry));
        match &options.certificate {
            Some(file) => format!("{good}\nnext, at the node: peat-blobctl identity import --data DIRECTORY {}", file.display()),
            None => good,
        }
    })
}

/// The id of the node of a data directory, whose key is made if need be.
fn key_of(data: &Path, formation: &FormationKey, authority: &AuthorityKey) -> Result<EndpointId, Failure> {
    match files::load(data) {
        Ok((identity, _)) => Ok(identity.id()),
        Err(IdentityError::NotEnrolled(id)) => Ok(id),
        Err(IdentityError::Missing(path)) if path.ends_with("node.key") => {
            Ok(files::create_enrolled(data, formation, authority.id())?)
        }
        Err(error) => Err(error.into()),
    }
}
