//! The values of options that several verbs share, read from text: durations, peers, whom it is for, and how urgent it is.

use std::time::Duration;

use clap::ValueEnum;
use peat_blobapi::blob;
use peat_blobcore::{LimitError, Period, Rate, RateChange, model, rate_or_none};

/// Reads `90s`, `15m`, `12h`, `30d`, `2w` or `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => 0,
    };
    count
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(millis))
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "write a number and a unit: 500ms, 90s, 15m, 12h, 30d or 2w".to_owned())
}

/// Reads `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write key=value, as in role=edge".to_owned()),
    }
}

/// A peer and where it can be dialled.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) id: model::EndpointId,
    /// `host:port`; the host may be a name.
    pub(crate) address: String,
}

/// Reads `ID@host:port`.
pub(crate) fn peer(text: &str) -> Result<Peer, String> {
    let (id, address) = text.split_once('@').ok_or("write ID@host:port")?;
    let id = id.parse().map_err(|error: model::ParseIdError| error.to_string())?;
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    port.filter(|port| *port > 0).ok_or_else(|| format!("{address:?} is no address: write host:port"))?;
    Ok(Peer { id, address: address.to_owned() })
}

/// How urgent it is.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
#[expect(clippy::enum_variant_names, reason = "the field's words")]
pub(crate) enum Priority {
    /// When nothing else is to be done.
    Bulk,
    /// After routine.
    Low,
    /// As usual.
    #[default]
    Routine,
    /// Before routine.
    Priority,
    /// Before everything.
    Critical,
}

impl From<Priority> for model::Priority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Bulk => Self::Bulk,
            Priority::Low => Self::Low,
            Priority::Routine => Self::Routine,
            Priority::Priority => Self::Priority,
            Priority::Critical => Self::Critical,
        }
    }
}

/// The same as the API says it.
pub(crate) fn api_priority(priority: model::Priority) -> blob::Priority {
    match priority {
        model::Priority::Bulk => blob::Priority::PRIORITY_BULK,
        model::Priority::Low => blob::Priority::PRIORITY_LOW,
        model::Priority::Routine => blob::Priority::PRIORITY_ROUTINE,
        model::Priority::Priority => blob::Priority::PRIORITY_PRIORITY,
        model::Priority::Critical => blob::Priority::PRIORITY_CRITICAL,
    }
}

/// A rate, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<Rate>);

/// Reads `256KiB/s`, `2Mbit/s` or `none`.
pub(crate) fn limit(text: &str) -> Result<Limit, String> {
    rate_or_none(text).map(Limit).map_err(instead)
}

fn instead(error: LimitError) -> String {
    format!("write {error}")
}

/// Reads `bulk=100KiB/s` or `bulk=up=100KiB/s`.
pub(crate) fn limits_of_class(text: &str) -> Result<(Priority, RateChange), String> {
    let (class, limits) = text.split_once('=').ok_or("write PRIORITY=LIMITS, as in bulk=100KiB/s")?;
    let class = Priority::from_str(class, true).map_err(|_| "the priorities are bulk, low, routine, priority and critical")?;
    Ok((class, limits.parse().map_err(instead)?))
}

/// Reads the same of a node.
pub(crate) fn limits_of_peer(text: &str) -> Result<(String, RateChange), String> {
    match text.split_once('=') {
        Some((peer, limits)) if !peer.is_empty() => Ok((peer.to_owned(), limits.parse().map_err(instead)?)),
        _ => Err("write NODE=LIMITS, as in vehicle-7=up=100KiB/s".to_owned()),
    }
}

/// A time of the week with its limits, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Option<Period>);

/// Reads `22:00-06:00 unlimited`, or `none`.
pub(crate) fn period(text: &str) -> Result<Time, String> {
    if text == "none" { Ok(Time(None)) } else { text.parse().map(|period| Time(Some(period))).map_err(instead) }
}

/// Reads `on` or `off`.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}

/// Who may hold what is sent for targets that are out of reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carry {
    Nobody,
    Members,
    /// By name or endpoint id.
    Nodes(Vec<String>),
}

/// Reads `none`, `members`, or nodes.
pub(crate) fn carry(who: &[String]) -> Result<Carry, String> {
    match who {
        [one] if one == "none" => Ok(Carry::Nobody),
        [one] if one == "members" => Ok(Carry::Members),
        several => match several.iter().find(|text| *text == "none" || *text == "members") {
            Some(alone) => Err(format!("{alone:?} cannot be combined with others: give `none`, `members`, or nodes")),
            None => Ok(Carry::Nodes(several.to_vec())),
        },
    }
}

/// Whom it is for: `all`, nodes by name or id, or one label selector (a text with `=`, `!` or `(` in it, which no name needs).
pub(crate) fn scope(to: &[String]) -> Result<model::Scope, String> {
    let selects = |text: &&String| text.contains(['=', '!', '(']);
    match to {
        [] => Ok(model::Scope::All),
        [one] if one == "all" => Ok(model::Scope::All),
        [one] if selects(&one) => one.parse().map(model::Scope::Labels).map_err(|error: model::SelectorError| error.to_string()),
        several => match several.iter().find(|text| *text == "all" || selects(text)) {
            Some(alone) => Err(format!("{alone:?} cannot be combined with others: give one selector, `all`, or nodes")),
            None => Ok(model::Scope::Nodes(several.iter().map(|node| model::NodeRef::from(node.as_str())).collect())),
        },
    }
}

/// The same as the API says it.
pub(crate) fn api_scope(scope: &model::Scope) -> blob::Scope {
    let scope = match scope {
        model::Scope::All => blob::scope::All::default().into(),
        model::Scope::Nodes(nodes) => {
            let nodes = nodes.iter().map(|node| match node {
                model::NodeRef::Id(id) => id.to_string(),
                model::NodeRef::Name(name) => name.clone(),
            });
            blob::scope::Nodes { nodes: nodes.collect(), ..Default::default() }.into()
        }
        model::Scope::Labels(selector) => blob::scope::Scope::Labels(selector.to_string()),
    };
    blob::Scope { scope: Some(scope), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "5", "s", "0s", "-1s", "1.5h", "99999999999999999999w", "5 s"] {
            assert!(duration(bad).unwrap_err().contains("90s"), "{bad}");
        }
    }

    #[test]
    fn a_text_that_no_name_looks_like_is_a_selector() {
        let read = |to: &[&str]| scope(&to.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&[]), Ok(model::Scope::All));
        assert_eq!(read(&["all"]), Ok(model::Scope::All));
        assert!(matches!(read(&["bravo"]), Ok(model::Scope::Nodes(nodes)) if nodes.len() == 1));
        assert!(matches!(read(&["bravo", "charlie"]), Ok(model::Scope::Nodes(nodes)) if nodes.len() == 2));
        assert!(matches!(read(&["role=edge,site!=lab"]), Ok(model::Scope::Labels(_))));
        assert!(read(&["role="]).is_err());
        assert!(read(&["all", "bravo"]).unwrap_err().contains("\"all\""));
        assert!(read(&["bravo", "role=edge"]).is_err());
    }

    #[test]
    fn carriers_are_nobody_any_member_or_nodes() {
        let read = |who: &[&str]| carry(&who.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&["none"]), Ok(Carry::Nobody));
        assert_eq!(read(&["members"]), Ok(Carry::Members));
        assert_eq!(read(&["bravo", "charlie"]), Ok(Carry::Nodes(vec!["bravo".to_owned(), "charlie".to_owned()])));
        assert!(read(&["bravo", "none"]).unwrap_err().contains("\"none\""));
    }

    #[test]
    fn limits_are_rates_of_somebody() {
        assert_eq!(limit("none"), Ok(Limit(None)));
        assert_eq!(limit("1KiB/s").map(|limit| limit.0.map(Rate::bytes)), Ok(Some(1024)));
        assert!(limit("2Mb/s").unwrap_err().contains("write 2MB/s"));
        let (class, change) = limits_of_class("Bulk=up=1KiB/s down=none").unwrap();
        assert_eq!((model::Priority::from(class), change.to_string().as_str()), (model::Priority::Bulk, "up=1KiB/s down=none"));
        assert!(limits_of_class("urgent=1KiB/s").unwrap_err().contains("critical"));
        assert_eq!(limits_of_peer("bravo=2kB/s").unwrap().0, "bravo");
        assert!(limits_of_peer("=2kB/s").is_err() && limits_of_peer("bravo").is_err());
        assert!(period("22:00 unlimited").unwrap_err().contains("22:00-06:00"));
        assert_eq!(period("none"), Ok(Time(None)));
        assert!(switch("perhaps").is_err());
    }

    #[test]
    fn a_peer_is_an_id_and_an_address_with_a_port() {
        let id = "a5".repeat(32);
        assert_eq!(peer(&format!("{id}@vehicle-7:4100")).unwrap().address, "vehicle-7:4100");
        assert_eq!(peer(&format!("{id}@[::1]:4100")).unwrap().id.to_string(), id);
        for bad in [id.clone(), format!("{id}@host"), format!("{id}@host:0"), format!("{id}@:1"), "a5@host:1".to_owned()] {
            assert!(peer(&bad).is_err(), "{bad}");
        }
    }
}
