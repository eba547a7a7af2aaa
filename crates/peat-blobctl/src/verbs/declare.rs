//! `revoke` and `node retire`: what is declared of a node for ever. What the authority has signed goes to a daemon, or to a
//! file for any daemon, as a parcel. Where there is no authority, the daemon's own node retires. Nothing is declared that the
//! user has not confirmed.

use std::io::{self, BufRead, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use peat_blobapi::blob::{GetNodeRequest, GetNodeResponse, Peer, RetireNodeRequest};
use peat_blobcore::model::{EndpointId, ParseIdError};
use serde_json::json;

pub(crate) use super::authority::Declaration;
use super::authority::{Authority, permitted};
use super::{nodes, parcel};
use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::replacement::Replacement;
use crate::show;

/// Of whom, and with whose key.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The node: its name, if the daemon knows it, or its endpoint id.
    node: String,
    /// The directory of the formation, with formation.key and authority.key.
    #[arg(long, value_name = "DIRECTORY")]
    formation: Option<PathBuf>,
    /// Why, for people.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Write it into this file (- for standard output) for `parcel import` at any node, and hand it to no daemon. With an
    /// endpoint id none is asked.
    #[arg(long, value_name = "FILE", requires = "formation")]
    parcel: Option<PathBuf>,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

/// Whom it is about.
pub(super) struct Subject {
    pub(super) id: EndpointId,
    name: String,
    /// Whether the daemon knows that it was declared so before.
    already: bool,
}

impl Subject {
    /// What it is called, if that is known.
    pub(super) fn name(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }

    fn shown(&self) -> String {
        show::node(&self.name, &self.id.to_string())
    }
}

/// Declares it.
pub(crate) async fn run(what: Declaration, options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let authority = options.formation.as_deref().map(Authority::read).transpose()?;
    if let (Some(file), Some(authority), Ok(id)) = (&options.parcel, &authority, options.node.parse()) {
        let subject = Subject { id, name: String::new(), already: false };
        return write(what, &subject, options, authority, file, output).await;
    }
    let daemon = Daemon::connect(address).await?;
    let me = answer(daemon.client.get_node(GetNodeRequest::default()).await)?;
    permitted(what, authority.as_ref(), &me)?;
    let subject = find(what, &options.node, &daemon, &me).await?;
    if let (Some(file), Some(authority)) = (&options.parcel, &authority) {
        return write(what, &subject, options, authority, file, output).await;
    }
    if what == Declaration::Revoked && subject.id.to_string() == me.endpoint_id {
        return Err(Failure::new(Kind::REFUSED, format!("{} is the node of this daemon", subject.shown()))
            .hint("revoke it at another node: name that one's daemon with --daemon, or carry a --parcel there"));
    }
    if !subject.already {
        confirm(what, &subject, options.yes, output).await?;
        match &authority {
            Some(authority) => {
                let signed = authority.sign(what, &subject, &options.reason)?;
                hand_over(&daemon, signed).await?;
            }
            None => {
                let (endpoint_id, reason) = (subject.id.to_string(), options.reason.clone());
                let request = RetireNodeRequest { endpoint_id, reason, ..Default::default() };
                answer(daemon.client.retire_node(request).await)?;
            }
        }
    }
    report(what, &subject, options, output, || {
        let (node, word) = (subject.shown(), what.participle());
        match subject.already {
            true => format!("{node} is {word} already"),
            false => format!("{node} is {word}: {}", what.consequence()),
        }
    })
}

/// The node that the user means.
async fn find(what: Declaration, text: &str, daemon: &Daemon, me: &GetNodeResponse) -> Result<Subject, Failure> {
    let mut nodes = nodes::known(daemon).await?;
    nodes.push(Peer { endpoint_id: me.endpoint_id.clone(), name: me.name.clone(), ..Default::default() });
    // Who was expelled is found too: it is so already, by whatever it is called.
    let node = nodes::named(&nodes, text).or_else(|failure| nodes::expelled(&nodes, text).ok_or(failure));
    let node = node.map_err(|failure| match text.parse::<EndpointId>() {
        Ok(_) if !me.authority.is_empty() => failure.hint("if it is the right id, sign with --parcel FILE and import that"),
        _ => failure,
    })?;
    let already = match what {
        Declaration::Revoked => node.revoked,
        Declaration::Retired => node.retired,
    };
    let id = node.endpoint_id.parse().map_err(|error: ParseIdError| Failure::new(Kind::FAILED, error.to_string()))?;
    Ok(Subject { id, name: node.name.clone(), already })
}

/// Writes it into a file.
async fn write(
    what: Declaration,
    subject: &Subject,
    options: &Options,
    authority: &Authority,
    file: &Path,
    output: &Output,
) -> Result<(), Failure> {
    confirm(what, subject, options.yes, output).await?;
    let signed = authority.sign(what, subject, &options.reason)?;
    if file == Path::new("-") {
        return output.bytes(&signed);
    }
    let mut replacement = Replacement::begin(file)?;
    replacement.write(&signed)?;
    replacement.finish()?;
    report(what, subject, options, output, || {
        let (file, node, word) = (file.display(), subject.shown(), what.participle());
        format!("{file}: {node} is {word} where it is imported\nnext, at any node: peat-blobctl parcel import {file}")
    })
}

/// Gives it to the daemon, which judges it as if a peer had sent it.
async fn hand_over(daemon: &Daemon, signed: Vec<u8>) -> Result<(), Failure> {
    let report = parcel::hand_over(daemon, io::Cursor::new(signed), Failure::io("cannot read memory")).await?;
    if report.held_envelopes > 0 {
        let message = "the daemon holds it back: this machine's clock is more than a day ahead of the daemon's";
        return Err(Failure::new(Kind::REFUSED, message).hint("set the clock that is wrong, then do it again"));
    }
    if report.refused_envelopes > 0 {
        return Err(Failure::new(Kind::REFUSED, "the daemon refused what was signed").hint("its log says why"));
    }
    Ok(())
}

/// Says what was done.
fn report(
    what: Declaration,
    subject: &Subject,
    options: &Options,
    output: &Output,
    human: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let document = json!({
        "endpoint_id": subject.id.to_string(),
        "name": subject.name,
        "declared": what.participle(),
        "already": subject.already,
        "reason": options.reason,
        "parcel": options.parcel,
    });
    output.result(&document, human)
}

/// Has the user say that it is meant.
async fn confirm(what: Declaration, subject: &Subject, yes: bool, output: &Output) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let word = what.word();
    let told = format!("to {word} {} is for ever: {}", subject.shown(), what.consequence());
    if !(output.is_human() && io::stdin().is_terminal()) {
        return Err(Failure::usage(format!("not confirmed: {told}")).hint("if that is what you want, say --yes"));
    }
    output.note(&format!("{told}\nnode  {}\nType {word} to go on:", subject.id));
    // On a thread of its own, so that Ctrl-C ends it.
    let said = tokio::task::spawn_blocking(move || is_said(&mut io::stdin().lock(), word)).await;
    match said {
        Ok(Ok(true)) => Ok(()),
        Ok(Err(error)) => Err(Failure::io("cannot read the confirmation")(error)),
        Ok(Ok(false)) | Err(_) => Err(Failure::new(Kind::FAILED, format!("not confirmed: {} is as before", subject.shown()))),
    }
}

fn is_said(input: &mut impl BufRead, word: &str) -> io::Result<bool> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_word_confirms() {
        for (input, confirms) in [("revoke\n", true), (" revoke ", true), ("", false), ("yes\n", false), ("\nrevoke\n", false)] {
            assert_eq!(is_said(&mut input.as_bytes(), "revoke").unwrap(), confirms, "{input:?}");
        }
    }
}
