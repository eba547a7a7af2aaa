//! `wait` and `watch`: how things come along, until they have come to an end. `send --wait` ends here too.

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use peat_blobapi::blob::watch_response::Event;
use peat_blobapi::blob::{Distribution, DistributionState, GetDistributionResponse, WatchRequest, WatchResponse};
use serde_json::{Value, json};

use super::bars::Bars;
use crate::daemon::{Address, Daemon};
use crate::failure::{Failure, Kind, of_daemon};
use crate::output::Output;
use crate::show;

/// What to wait for.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The distribution's id, or its first eight or more digits.
    id: String,
    /// Give up after this long; the distribution goes on.
    #[arg(long, value_name = "DURATION", value_parser = crate::values::duration)]
    timeout: Option<Duration>,
}

/// What to watch.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// A distribution's id, or its first eight or more digits: until it has come to its end. Without it, everything, until
    /// interrupted.
    id: Option<String>,
    /// Begin behind the event of this number (`sequence` in JSON), which a watch showed before; what is kept no more is said to be missed.
    #[arg(long, value_name = "NUMBER", conflicts_with = "id")]
    after: Option<u64>,
}

/// Who is shown what while a distribution comes along.
pub(super) enum Audience<'a> {
    /// Nobody: the end is all that counts.
    Nobody,
    /// A person in front of a terminal.
    Terminal(Bars),
    /// Whoever reads lines.
    Lines(&'a Output),
}

impl<'a> Audience<'a> {
    pub(super) fn of(output: &'a Output) -> Self {
        if output.is_interactive() { Self::Terminal(Bars::new()) } else { Self::Lines(output) }
    }

    fn event(&self, event: &WatchResponse) -> Result<(), Failure> {
        match (self, &event.event) {
            (Self::Terminal(bars), Some(Event::Progress(progress))) => bars.progress(&progress.endpoint_id, progress.bytes),
            (Self::Lines(output), _) => output.event(&event_json(event), || event_text(event))?,
            _ => {}
        }
        Ok(())
    }

    fn status(&self, status: &GetDistributionResponse) {
        if let Self::Terminal(bars) = self {
            bars.status(status);
        }
    }
}

/// Waits for the end of a distribution.
pub(crate) async fn wait(options: &Wait, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let id = daemon.whole_id(&options.id).await?;
    let status = until_ended(&daemon, &id, options.timeout, &Audience::Nobody).await?;
    output.result(&show::status_json(&status), || show::status_text(&status))?;
    verdict(&status)
}

/// Shows what happens.
pub(crate) async fn watch(options: &Watch, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    if let Some(id) = &options.id {
        let id = daemon.whole_id(id).await?;
        let status = until_ended(&daemon, &id, None, &Audience::of(output)).await?;
        output.event(&show::status_json(&status), || show::status_text(&status))?;
        return verdict(&status);
    }
    let mut events = daemon
        .client
        .watch(WatchRequest { after: options.after, ..Default::default() })
        .await
        .map_err(|error| of_daemon(&error))?;
    while let Some(event) = events.message().await.map_err(|error| of_daemon(&error))? {
        let event = event.to_owned_message();
        output.event(&event_json(&event), || event_text(&event))?;
        if output.is_closed() {
            return Ok(());
        }
    }
    Err(gone())
}

/// Follows a distribution until it has come to its end, or for as long as is allowed; returns how it stands then.
pub(super) async fn until_ended(
    daemon: &Daemon,
    id: &str,
    patience: Option<Duration>,
    audience: &Audience<'_>,
) -> Result<GetDistributionResponse, Failure> {
    let mut limit = pin!(async {
        match patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    });
    // Asked for before the first look, so that no change between the two is missed.
    let request = WatchRequest { distribution_id: id.to_owned(), ..Default::default() };
    let mut events = daemon.client.watch(request).await.map_err(|error| of_daemon(&error))?;
    let mut status = daemon.distribution(id, false).await?;
    loop {
        audience.status(&status);
        if has_ended(&status.distribution) {
            return Ok(status);
        }
        let look_again = loop {
            tokio::select! {
                () = &mut limit => return daemon.distribution(id, false).await,
                event = events.message() => {
                    let event = event.map_err(|error| of_daemon(&error))?.ok_or_else(gone)?.to_owned_message();
                    audience.event(&event)?;
                    if !matches!(event.event, Some(Event::Progress(_) | Event::PeerUp(_) | Event::PeerDown(_))) {
                        break daemon.distribution(id, false).await?;
                    }
                }
            }
        };
        status = look_again;
    }
}

fn gone() -> Failure {
    Failure::new(Kind::UNREACHABLE, "the daemon ended").hint("start it again; what was sent is kept and goes on")
}

fn has_ended(distribution: &Distribution) -> bool {
    use DistributionState as State;
    !matches!(
        distribution.state.as_known(),
        None | Some(
            State::DISTRIBUTION_STATE_UNSPECIFIED
                | State::DISTRIBUTION_STATE_NO_TARGETS
                | State::DISTRIBUTION_STATE_PENDING
                | State::DISTRIBUTION_STATE_IN_PROGRESS
        )
    )
}

/// What the end of a distribution means for the exit code.
pub(super) fn verdict(status: &GetDistributionResponse) -> Result<(), Failure> {
    use DistributionState as State;
    let receipts = status.targets.iter().filter(|target| target.receipt).count();
    let all = status.targets.len();
    let id = show::short(&status.distribution.distribution_id);
    let why = |open: fn(&str) -> bool| {
        let reasons = status
            .targets
            .iter()
            .filter(|target| !target.receipt && open(&target.state))
            .map(|target| format!("{}: {}", show::node(&target.name, &target.endpoint_id), show::printable(&target.why)));
        reasons.collect::<Vec<_>>().join("; ")
    };
    Err(match status.distribution.state.as_known() {
        Some(State::DISTRIBUTION_STATE_COMPLETED) => return Ok(()),
        Some(State::DISTRIBUTION_STATE_PARTIAL) => {
            Failure::new(Kind::Partial, format!("{receipts} of {all} targets have it")).hint(why(|_| true))
        }
        Some(State::DISTRIBUTION_STATE_EXPIRED) => {
            Failure::new(Kind::TIMED_OUT, format!("{id} expired before any target had it"))
                .hint("send it again, with a longer --lifetime if the targets are out of reach for long")
        }
        Some(State::DISTRIBUTION_STATE_FAILED) => {
            let refused = status.targets.iter().all(|target| target.state == "refused");
            let kind = if refused { Kind::REFUSED } else { Kind::FAILED };
            Failure::new(kind, format!("no target took {id}")).hint(why(|_| true))
        }
        Some(State::DISTRIBUTION_STATE_CANCELLED) => {
            Failure::new(Kind::FAILED, format!("{id} was cancelled before any target had it"))
        }
        Some(State::DISTRIBUTION_STATE_NO_TARGETS) => Failure::new(Kind::TIMED_OUT, format!("{id} has no targets yet"))
            .hint("`peat-blobctl peers` shows whom the node knows; it goes on, and who joins later gets it"),
        _ => Failure::new(Kind::TIMED_OUT, format!("{receipts} of {all} targets have {id}"))
            .hint(format!("it goes on; waits for {}", why(|_| true))),
    })
}

fn event_json(event: &WatchResponse) -> Value {
    let (name, mut document) = match &event.event {
        Some(Event::PeerUp(id)) => ("peer_up", json!({ "endpoint_id": id })),
        Some(Event::PeerDown(id)) => ("peer_down", json!({ "endpoint_id": id })),
        Some(Event::Distribution(changed)) => {
            let state = show::state(&Distribution { state: changed.state, ..Default::default() });
            ("distribution", json!({ "distribution_id": changed.distribution_id, "state": state }))
        }
        Some(Event::Progress(progress)) => (
            "progress",
            json!({
                "distribution_id": progress.distribution_id,
                "endpoint_id": progress.endpoint_id,
                "bytes": progress.bytes,
            }),
        ),
        Some(Event::File(file)) => ("file", json!({ "distribution_id": file.distribution_id, "index": file.index })),
        Some(Event::Removed(file)) => ("removed", json!({ "distribution_id": file.distribution_id, "index": file.index })),
        Some(Event::Clone(id)) => ("clone", json!({ "endpoint_id": id })),
        Some(Event::Missed(count)) => ("missed", json!({ "count": count })),
        None => ("unknown", json!({})),
    };
    document["event"] = name.into();
    document["sequence"] = event.sequence.into();
    document
}

fn event_text(event: &WatchResponse) -> String {
    match &event.event {
        Some(Event::PeerUp(id)) => format!("{}  connected", show::short(id)),
        Some(Event::PeerDown(id)) => format!("{}  not connected any more", show::short(id)),
        Some(Event::Distribution(changed)) => {
            let state = show::state(&Distribution { state: changed.state, ..Default::default() });
            format!("distribution {}  {state}", show::short(&changed.distribution_id))
        }
        Some(Event::Progress(progress)) => format!(
            "distribution {}  {} at {}",
            show::short(&progress.distribution_id),
            HumanBytes(progress.bytes),
            show::short(&progress.endpoint_id),
        ),
        Some(Event::File(file)) => {
            format!("distribution {}  file {} is in the inbox", show::short(&file.distribution_id), file.index)
        }
        Some(Event::Removed(file)) => {
            let id = show::short(&file.distribution_id);
            format!("distribution {id}  file {} is removed from the inbox, as at its sender", file.index)
        }
        Some(Event::Clone(id)) => format!("{}  speaks twice: two copies or lives of one node", show::short(id)),
        Some(Event::Missed(0)) => "events were missed: the daemon started again".to_owned(),
        Some(Event::Missed(count)) => format!("{} missed", show::count(*count, "event")),
        None => "something that this version does not know".to_owned(),
    }
}
