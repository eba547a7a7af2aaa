//! `send`: through the daemon, which reads the path itself or is given the bytes; or without a daemon, as a node of its own
//! that leaves once the receipts are there.

mod as_api;
mod direct;
mod stream;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use peat_blobapi::blob::{Carry, SendOptions, SendPathRequest, SendResponse, carry};

use super::follow::{Audience, until_ended, verdict};
use super::nodes;
use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::{show, values};

/// What to send, to whom and how.
#[derive(Debug, Args)]
#[command(after_help = "Without a daemon: peat-blobctl send PATH --data DIRECTORY --peer ID@HOST:PORT")]
pub(crate) struct Options {
    /// A file, a directory, or - for standard input.
    path: PathBuf,
    /// Whom it is for: all, a node's name or endpoint id (may be given several times), or a label selector as in role=edge.
    #[arg(long, value_name = "WHO", default_value = "all")]
    to: Vec<String>,
    /// How urgent it is.
    #[arg(long, value_enum, default_value_t)]
    priority: values::Priority,
    /// A name for the call. One is made up without it.
    #[arg(long, value_name = "NAME")]
    bundle: Option<String>,
    /// How long it is tried; at most 366d.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = values::duration)]
    lifetime: Duration,
    /// Who may carry it to targets that are out of reach: none, members, or a node's name or endpoint id (may be given several
    /// times). Without a daemon, nodes go by their ids.
    #[arg(long, value_name = "WHO", default_value = "members")]
    carry: Vec<String>,
    /// What receivers are told that the root is called. Without it, the name of the directory.
    #[arg(long, value_name = "NAME")]
    root_name: Option<String>,
    /// Let its files appear in an inbox all at once, rather than each as it comes.
    #[arg(long)]
    together: bool,
    /// Wait for the receipts.
    #[arg(long)]
    wait: bool,
    /// Wait so long at most; what was sent goes on.
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Read the files here and stream them, for a daemon that does not see this machine's files.
    #[arg(long, conflicts_with = "data")]
    stream: bool,
    /// The path that standard input gets beneath the inboxes.
    #[arg(long, value_name = "PATH", conflicts_with = "data")]
    name: Option<String>,
    #[command(flatten)]
    direct: direct::Direct,
}

/// Sends.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let scope = values::scope(&options.to).map_err(|why| Failure::usage(format!("--to: {why}")))?;
    let carry = values::carry(&options.carry).map_err(|why| Failure::usage(format!("--carry: {why}")))?;
    if let Some(data) = &options.direct.data {
        return direct::run(options, data, scope, carry, output).await;
    }
    if options.timeout.is_some() && !options.wait {
        return Err(Failure::usage("--timeout is for --wait").hint("give both, or --lifetime for how long it is tried"));
    }
    let is_stdin = options.path == Path::new("-");
    if options.name.is_some() != is_stdin {
        return Err(Failure::usage("--name names standard input, and standard input wants a name")
            .hint("peat-blobctl send - --name path/of/the/file"));
    }
    let daemon = Daemon::connect(address).await?;
    let what = SendOptions {
        scope: values::api_scope(&scope).into(),
        carry: carriers(&daemon, carry).await?.into(),
        root_name: options.root_name.clone().unwrap_or_default(),
        priority: values::api_priority(options.priority.into()).into(),
        bundle: options.bundle.clone().unwrap_or_default(),
        lifetime_millis: u64::try_from(options.lifetime.as_millis()).unwrap_or(u64::MAX),
        together: options.together,
        ..Default::default()
    };
    let sent = if is_stdin || options.stream {
        stream::run(&daemon, &options.path, options.name.as_deref(), what).await?
    } else {
        by_path(&daemon, &options.path, what).await?
    };
    if !options.wait {
        output.result(&show::sent_json(&sent), || show::sent_text(&sent))?;
        return complete(&sent, output);
    }
    if output.is_human() {
        output.result(&serde_json::Value::Null, || show::sent_text(&sent))?;
    }
    let audience = if output.is_human() { Audience::of(output) } else { Audience::Nobody };
    let status = until_ended(&daemon, &sent.distribution_id, options.timeout, &audience).await?;
    drop(audience);
    let mut document = show::sent_json(&sent);
    document["status"] = show::status_json(&status);
    output.result(&document, || show::status_text(&status))?;
    complete(&sent, output)?;
    verdict(&status)
}

/// Who may carry it, as the API says it.
async fn carriers(daemon: &Daemon, carry: values::Carry) -> Result<Carry, Failure> {
    let carry = match carry {
        values::Carry::Nobody => carry::Nobody::default().into(),
        values::Carry::Members => carry::Members::default().into(),
        values::Carry::Nodes(who) => {
            let endpoint_ids = nodes::endpoint_ids(&nodes::known(daemon).await?, &who)?;
            carry::Nodes { endpoint_ids, ..Default::default() }.into()
        }
    };
    Ok(Carry { carry: Some(carry), ..Default::default() })
}

/// Has the daemon read the path.
async fn by_path(daemon: &Daemon, path: &Path, options: SendOptions) -> Result<SendResponse, Failure> {
    // Another machine's daemon may have a path that is not here; a relative one would mean nothing to it.
    let absolute = if daemon.is_local { path.canonicalize() } else { std::path::absolute(path) };
    let absolute = absolute.map_err(Failure::io(format!("cannot send {}", path.display())))?;
    let root = absolute.to_str().ok_or_else(|| {
        Failure::usage(format!("{} is not UTF-8, and the API cannot say it", path.display())).hint("send it with --stream")
    })?;
    let request = SendPathRequest { root: root.to_owned(), options: options.into(), ..Default::default() };
    answer(daemon.client.send_path(request).await)
}

/// Whether everything was sent that was found.
fn complete(sent: &SendResponse, output: &Output) -> Result<(), Failure> {
    for skipped in &sent.skipped {
        output.note(&format!("skipped {}: {}", show::path(&skipped.path), show::printable(&skipped.reason)));
    }
    match sent.skipped.len() {
        0 => Ok(()),
        count => Err(Failure::new(Kind::Partial, format!("{} skipped, the rest was sent", show::count(count as u64, "path")))
            .hint("mend what is named and send it by itself")),
    }
}
