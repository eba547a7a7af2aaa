//! `keygen`: a formation's keys, or a node's. Never shows a secret.

use std::path::PathBuf;

use clap::Args;
use peat_blobcore::identity::files;
use serde_json::json;

use super::formation::FormationDirectory;
use crate::failure::Failure;
use crate::output::Output;
use crate::show;

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The directory of the formation: made, with formation.key, authority.key and authority.pub in it; or, with --data, read
    /// (formation.key and authority.pub are enough then).
    formation: PathBuf,
    /// Make a node's key in this data directory instead.
    #[arg(long, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
}

/// Makes it.
pub(crate) fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    let directory = FormationDirectory::new(&options.formation);
    let shown = options.formation.display();
    let Some(data) = &options.data else {
        let (formation, authority) = directory.create()?;
        let document = json!({
            "formation": options.formation,
            "formation_id": formation.id().to_string(),
            "authority": authority.id().to_string(),
        });
        return output.result(&document, || {
            let fields = [
                ("formation", formation.id().to_string()),
                ("authority", authority.id().to_string()),
                ("formation.key", "every member needs it; a secret".to_owned()),
                ("authority.key", "signs members and expels them; keep it off the nodes".to_owned()),
                ("authority.pub", "every member needs it; no secret".to_owned()),
            ];
            let next = format!("next: peat-blobctl enroll --formation {shown} --name NAME --data DATA_DIRECTORY");
            format!("{}\n{next}", show::fields(&fields))
        });
    };
    let id = files::create_enrolled(data, &directory.key()?, directory.authority_id()?)?;
    let document = json!({ "endpoint_id": id.to_string(), "data": data });
    output.result(&document, || {
        let data = data.display();
        format!(
            "{id}\nnext, with the authority's key: peat-blobctl enroll --formation DIRECTORY --name NAME {id} -o FILE\n\
             then here: peat-blobctl identity import --data {data} FILE"
        )
    })
}
