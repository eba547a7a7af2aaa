//! `limits`: how much of blobs may cross, and when.

use clap::{Args, Subcommand};
use peat_blobapi::blob::set_limits_request::{ClassChange, PeerChange, RateChange as Change, Schedule};
use peat_blobapi::blob::{GetLimitsRequest, LimitsResponse, Rates, SetLimitsRequest};
use peat_blobcore::{Period, Rate, RateChange};
use serde_json::{Value, json};

use super::nodes;
use crate::daemon::{Address, Daemon, answer};
use crate::failure::Failure;
use crate::output::Output;
use crate::{show, values};

/// Nothing to show them, or how to change them.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    set: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Changes them, until they are changed again or the daemon reads its configuration again. What is not named stays.
    Set(Set),
}

/// What to change.
#[derive(Debug, Args)]
struct Set {
    /// What may go to others, as in 256KiB/s, 2MB/s, 2Mbit/s or none.
    #[arg(long, value_name = "RATE", value_parser = values::limit)]
    up: Option<values::Limit>,
    /// What may come from others.
    #[arg(long, value_name = "RATE", value_parser = values::limit)]
    down: Option<values::Limit>,
    /// Of what has a priority: a rate each way, or up=RATE, down=RATE, or both in quotes. Several times.
    #[arg(long, value_name = "PRIORITY=LIMITS", value_parser = values::limits_of_class)]
    class: Vec<(values::Priority, RateChange)>,
    /// With a peer, by its name or endpoint id, likewise.
    #[arg(long, value_name = "NODE=LIMITS", value_parser = values::limits_of_peer)]
    peer: Vec<(String, RateChange)>,
    /// A time of the week in UTC at which others hold, as in "22:00-06:00 unlimited". Several times; they replace the schedule,
    /// and `none` is no schedule.
    #[arg(long, value_name = "\"TIME LIMITS\"", value_parser = values::period)]
    schedule: Vec<values::Time>,
    /// Whether the link costs by the byte: of blobs only what is critical crosses then.
    #[arg(long, value_name = "on|off", value_parser = values::switch)]
    metered: Option<bool>,
    /// Lift every limit first, metered mode and the schedule too.
    #[arg(long)]
    reset: bool,
}

/// Shows or changes them.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let limits = match &options.set {
        None => answer(daemon.client.get_limits(GetLimitsRequest::default()).await)?,
        Some(Verb::Set(set)) => {
            let limits = answer(daemon.client.set_limits(request(set)?).await)?;
            warn_of_unknown(&daemon, set, output).await?;
            limits
        }
    };
    output.result(&json(&limits), || text(&limits))
}

fn request(set: &Set) -> Result<SetLimitsRequest, Failure> {
    let rates = set.up.is_some() || set.down.is_some() || !set.class.is_empty() || !set.peer.is_empty();
    if !rates && set.schedule.is_empty() && set.metered.is_none() && !set.reset {
        return Err(Failure::usage("nothing is to be changed").hint("name what, as in `peat-blobctl limits set --up 256KiB/s`"));
    }
    let nothing = set.schedule.iter().filter(|time| time.0.is_none()).count();
    if nothing > 0 && set.schedule.len() > 1 {
        return Err(Failure::usage("--schedule none cannot be combined with times"));
    }
    let periods = set.schedule.iter().filter_map(|time| time.0.as_ref()).map(Period::to_string).collect();
    let schedule = (!set.schedule.is_empty()).then(|| Schedule { periods, ..Default::default() });
    let node = RateChange { up: set.up.map(|limit| limit.0), down: set.down.map(|limit| limit.0) };
    let class = |(class, change): &(values::Priority, RateChange)| ClassChange {
        priority: values::api_priority((*class).into()).into(),
        rates: message(*change).into(),
        ..Default::default()
    };
    let peer = |(peer, change): &(String, RateChange)| PeerChange {
        peer: peer.clone(),
        rates: message(*change).into(),
        ..Default::default()
    };
    Ok(SetLimitsRequest {
        node: message(node).into(),
        classes: set.class.iter().map(class).collect(),
        peers: set.peer.iter().map(peer).collect(),
        schedule: schedule.into(),
        metered: set.metered,
        reset: set.reset,
        ..Default::default()
    })
}

fn message(change: RateChange) -> Change {
    let bytes = |side: Option<Option<Rate>>| side.map(|rate| rate.map_or(0, Rate::bytes));
    Change { up: bytes(change.up), down: bytes(change.down), ..Default::default() }
}

/// A limit of a peer whose name is mistyped would bind nothing.
async fn warn_of_unknown(daemon: &Daemon, set: &Set, output: &Output) -> Result<(), Failure> {
    if set.peer.is_empty() {
        return Ok(());
    }
    let known = nodes::known(daemon).await?;
    for (name, _) in &set.peer {
        if !known.iter().any(|peer| peer.name == *name || peer.endpoint_id == *name) {
            output.note(&format!("warning: no node {:?} is known yet", show::printable(name)));
        }
    }
    Ok(())
}

/// For programs.
pub(super) fn json(limits: &LimitsResponse) -> Value {
    let rate = |bytes: u64| if bytes == 0 { Value::Null } else { bytes.into() };
    let sides = |rates: &Rates| json!({ "up": rate(rates.up), "down": rate(rates.down) });
    let with = |mut document: Value, name: &str, value: String| {
        document[name] = value.into();
        document
    };
    let class = |priority| show::priority_word(priority).to_owned();
    let mut document = sides(&limits.node);
    document["classes"] =
        limits.classes.iter().map(|of| with(sides(&of.rates), "priority", class(of.priority.as_known()))).collect();
    document["peers"] = limits.peers.iter().map(|of| with(sides(&of.rates), "peer", of.peer.clone())).collect();
    document["schedule"] = limits.schedule.clone().into();
    document["metered"] = limits.metered.into();
    document["in_force"] = with(sides(&limits.in_force), "period", limits.period.clone());
    document["in_force"]["until"] = rate(limits.until);
    document
}

fn text(limits: &LimitsResponse) -> String {
    let mut lines = vec![("up".to_owned(), rate(limits.node.up)), ("down".to_owned(), rate(limits.node.down))];
    for of in &limits.classes {
        lines.push((show::priority_word(of.priority.as_known()).to_owned(), sides(&of.rates)));
    }
    for of in &limits.peers {
        lines.push((format!("peer {}", show::printable(&of.peer)), sides(&of.rates)));
    }
    lines.extend(limits.schedule.iter().map(|period| ("schedule".to_owned(), period.clone())));
    lines.push(("metered".to_owned(), if limits.metered { "on: only what is critical crosses" } else { "off" }.to_owned()));
    lines.push(("now".to_owned(), in_force(limits)));
    let lines = lines.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>();
    show::fields(&lines)
}

/// What holds now, in a line.
pub(super) fn in_force(limits: &LimitsResponse) -> String {
    let period = if limits.period.is_empty() { String::new() } else { format!(" ({})", limits.period) };
    let until = if limits.until == 0 { String::new() } else { format!(", until {}", show::time(limits.until)) };
    let metered = if limits.metered { "; metered" } else { "" };
    format!("{}{period}{until}{metered}", sides(&limits.in_force))
}

fn sides(rates: &Rates) -> String {
    format!("up {}, down {}", rate(rates.up), rate(rates.down))
}

fn rate(bytes: u64) -> String {
    Rate::from_bytes(bytes).map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string())
}
