//! Who asks another registry, and how it is spoken to: the same flags for all verbs that do.

use std::path::PathBuf;

use clap::Args;
use peat_blobapi::blob::RegistryTarget;

use crate::failure::Failure;

/// Who asks.
#[derive(Debug, Args)]
pub(super) struct Account {
    /// Let another registry be spoken to without TLS.
    #[arg(long)]
    pub(super) insecure: bool,
    /// Who asks another registry.
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// A file with the password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
}

impl Account {
    /// The user and the password; empty where nobody asks.
    pub(super) fn credentials(&self) -> Result<(String, String), Failure> {
        let password = match &self.password_file {
            Some(file) => std::fs::read_to_string(file).map_err(Failure::io(format!("cannot read {}", file.display())))?,
            None => String::new(),
        };
        Ok((self.user.clone().unwrap_or_default(), password.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// An image of another registry, as who asks.
    pub(super) fn target(&self, reference: &str) -> Result<RegistryTarget, Failure> {
        let (user, password) = self.credentials()?;
        Ok(RegistryTarget { reference: reference.to_owned(), insecure: self.insecure, user, password, ..Default::default() })
    }
}
