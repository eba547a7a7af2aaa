//! `node`: what is decided about members of the formation.

use clap::Subcommand;

use super::declare::{self, Declaration};
use crate::daemon::Address;
use crate::failure::Failure;
use crate::output::Output;

/// What to decide.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Declares a node gone for good: completion waits for it no longer. Where there is an authority, its key alone can.
    Retire(declare::Options),
}

/// Does it.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let Options::Retire(options) = options;
    declare::run(Declaration::Retired, options, output, address).await
}
