//! The command line of peat-blob. Thin: the library or the daemon does the work; this reads what is wanted, shows what came of
//! it, and ends with an exit code that scripts can rely on (see docs/cli.md).

mod daemon;
mod demo;
mod failure;
mod matrix;
mod output;
mod replacement;
mod secret;
mod show;
mod values;
mod verbs;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind as ClapError;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use daemon::Address;
use failure::{Failure, Kind};
use output::{Mode, Output};

/// How long what still runs may take when a verb has ended.
const GRACE: Duration = Duration::from_secs(1);

/// Files to the nodes they are meant for, whatever the link does.
#[derive(Debug, Parser)]
#[command(name = "peat-blobctl", version, about, propagate_version = true, max_term_width = 100)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 done in part, 4 not found, 5 daemon unreachable, 6 timed out, \
                        7 integrity, 8 refused, 9 no space, 130 interrupted.")]
struct Cli {
    /// How results and errors are written.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "MODE")]
    output: Mode,
    #[command(flatten)]
    address: Address,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs two nodes in this process on loopback and sends a directory from one to the other.
    Demo(demo::Options),
    /// Makes a formation; or, with --data, a node's key that waits for its certificate.
    Keygen(verbs::keygen::Options),
    /// Signs a member's certificate with the authority's key.
    Enroll(verbs::enroll::Options),
    /// Prints the endpoint id that derives from a formation key and a node id.
    DeriveId(verbs::derive_id::Options),
    /// Shows, backs up and restores a node's identity.
    #[command(subcommand)]
    Identity(verbs::identity::Options),
    /// Sends a file or a directory.
    Send(verbs::send::Options),
    /// Shows the node, or how a distribution stands at each target.
    Status(verbs::status::Options),
    /// Says what is well with the node and what is not, with the fix for each.
    Doctor,
    /// Lists the distributions that the node knows, newest first.
    Ls(verbs::list::Distributions),
    /// Lists the nodes that the node knows.
    Peers,
    /// Keeps a connection with a peer from now on.
    Connect(verbs::peer::Connect),
    /// Ends the connection with a peer and dials it no longer.
    Disconnect(verbs::peer::Disconnect),
    /// Shows or changes how much may cross, and when.
    Limits(verbs::limits::Options),
    /// Fetches a file of a distribution, or a blob, out of the node.
    Get(verbs::get::Options),
    /// Says why a distribution is not at a target yet.
    Why(verbs::status::Why),
    /// Waits until a distribution has come to its end.
    Wait(verbs::follow::Wait),
    /// Shows what happens, or how a distribution comes along.
    Watch(verbs::follow::Watch),
    /// Ends a distribution that the node sent. Who has its files keeps them.
    Cancel(verbs::distribution::Options),
    /// Delivers a distribution to the node's inbox again.
    Redeliver(verbs::distribution::Options),
    /// Reads everything in the node's store and holds it against its hashes.
    Check,
    /// Drops every blob that nothing pins.
    Gc,
    /// Puts envelopes and blobs into one file, for links that are a USB stick, and takes them out.
    #[command(subcommand)]
    Parcel(verbs::parcel::Options),
    /// Takes single blobs in and out, lists them, and removes them.
    #[command(subcommand)]
    Blob(verbs::blob::Options),
    /// Takes images in and out, lists them, and has other nodes take them.
    #[command(subcommand)]
    Image(verbs::image::Options),
    /// Serves images by itself, without a node.
    #[command(subcommand)]
    Registry(verbs::registry::Options),
    /// Says what stock clients of iroh-blobs (sendme) may fetch from the node.
    #[command(subcommand)]
    Stock(verbs::stock::Options),
    /// Expels a node for good, with the authority's key: every member that hears of it cuts it off.
    Revoke(verbs::declare::Options),
    /// Decides about members of the formation.
    #[command(subcommand)]
    Node(verbs::node::Options),
    /// Prints the completions of a shell.
    Completion(verbs::pages::Completion),
    /// Prints the man page, or writes one for each verb into a directory.
    Man(verbs::pages::Man),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("PEAT_BLOB_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let (output, outcome) = match Cli::try_parse() {
        Ok(Cli { output, address, verb }) => {
            let output = Output::new(output);
            let outcome = run(verb, &output, &address);
            (output, outcome)
        }
        Err(error) => match error.kind() {
            ClapError::DisplayHelp | ClapError::DisplayVersion => {
                let output = Output::new(Mode::Human);
                let outcome = output.bytes(error.render().to_string().as_bytes());
                (output, outcome)
            }
            kind => {
                let output = Output::new(output::mode_of_arguments(std::env::args_os()));
                if kind == ClapError::DisplayHelpOnMissingArgumentOrSubcommand {
                    output.note(&error.render().to_string());
                }
                (output, Err(misuse(&error)))
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// What clap says, in our form.
fn misuse(error: &clap::Error) -> Failure {
    if error.kind() == ClapError::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage("a verb is missing").hint("name one of those that `peat-blobctl --help` lists");
    }
    let text = error.render().to_string();
    let text = text.trim_end().strip_prefix("error: ").unwrap_or(text.trim_end());
    let text = text.strip_suffix("For more information, try '--help'.").unwrap_or(text).trim_end();
    Failure::usage(text).hint("`peat-blobctl --help` lists the verbs, `peat-blobctl VERB --help` what a verb takes")
}

fn run(verb: Verb, output: &Output, address: &Address) -> Result<(), Failure> {
    match verb {
        Verb::Demo(options) => demo::run(&options, output),
        Verb::Keygen(options) => verbs::keygen::run(&options, output),
        Verb::Enroll(options) => verbs::enroll::run(&options, output),
        Verb::DeriveId(options) => verbs::derive_id::run(&options, output),
        Verb::Identity(options) => verbs::identity::run(&options, output),
        Verb::Send(options) => on_runtime(verbs::send::run(&options, output, address)),
        Verb::Status(options) => on_runtime(verbs::status::run(&options, output, address)),
        Verb::Doctor => on_runtime(verbs::doctor::run(output, address)),
        Verb::Ls(options) => on_runtime(verbs::list::distributions(&options, output, address)),
        Verb::Peers => on_runtime(verbs::list::peers(output, address)),
        Verb::Connect(options) => on_runtime(verbs::peer::connect(&options, output, address)),
        Verb::Disconnect(options) => on_runtime(verbs::peer::disconnect(&options, output, address)),
        Verb::Limits(options) => on_runtime(verbs::limits::run(&options, output, address)),
        Verb::Get(options) => on_runtime(verbs::get::run(&options, output, address)),
        Verb::Why(options) => on_runtime(verbs::status::why(&options, output, address)),
        Verb::Wait(options) => on_runtime(verbs::follow::wait(&options, output, address)),
        Verb::Watch(options) => on_runtime(verbs::follow::watch(&options, output, address)),
        Verb::Cancel(options) => on_runtime(verbs::distribution::cancel(&options, output, address)),
        Verb::Redeliver(options) => on_runtime(verbs::distribution::redeliver(&options, output, address)),
        Verb::Check => on_runtime(verbs::store::check(output, address)),
        Verb::Gc => on_runtime(verbs::store::gc(output, address)),
        Verb::Parcel(options) => on_runtime(verbs::parcel::run(&options, output, address)),
        Verb::Blob(options) => on_runtime(verbs::blob::run(&options, output, address)),
        Verb::Image(options) => on_runtime(verbs::image::run(&options, output, address)),
        Verb::Registry(options) => to_the_end(verbs::registry::run(&options, output)),
        Verb::Stock(options) => on_runtime(verbs::stock::run(&options, output, address)),
        Verb::Revoke(options) => on_runtime(verbs::declare::run(verbs::declare::Declaration::Revoked, &options, output, address)),
        Verb::Node(options) => on_runtime(verbs::node::run(&options, output, address)),
        Verb::Completion(options) => verbs::pages::completion(&options, output),
        Verb::Man(options) => verbs::pages::man(&options, output),
    }
}

/// Runs what is asynchronous, until it ends or the user ends it.
fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    to_the_end(async {
        tokio::select! {
            outcome = work => outcome,
            heard = tokio::signal::ctrl_c() => Err(match heard {
                Ok(()) => Failure::new(Kind::Interrupted, "interrupted"),
                Err(error) => Failure::io("cannot listen for signals")(error),
            }),
        }
    })
}

/// Runs what is asynchronous and heeds signals itself.
fn to_the_end(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::io("cannot start the runtime"))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(GRACE);
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_flag_and_verb_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
