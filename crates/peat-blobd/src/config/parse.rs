//! From text to values, the same for flags, environment and file. An error says what is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use peat_blobcore::exchange::{Layout, Owner};
use peat_blobcore::identity::FormationKey;
use peat_blobcore::model::{EndpointId, Labels, Manifest, NodeRef, Priority, Scope, Selector, SelectorError};
use peat_blobcore::oci::Repository;
use peat_blobcore::registry::sideload::{Pattern, PatternError};
use peat_blobcore::{LimitError, Limits, Period, Rate, RateChange, Rates, rate_or_none};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::values::{LogFormat, StaticPeer, Token, UpstreamAt, ValueError, WatchTerms, Watched};

pub(super) type Parsed<T> = Result<T, ValueError>;

/// Fewer characters than these can be guessed.
const MIN_TOKEN_CHARS: usize = 16;

fn allowed<T>(what: &str) -> Parsed<T> {
    Err(ValueError(what.to_owned()))
}

/// Parses with `FromStr`, and says what is allowed in the setting's own words.
pub(super) fn from_text<T: FromStr>(text: &str, what: &str) -> Parsed<T> {
    text.parse().or_else(|_| allowed(what))
}

pub(super) fn pattern(text: &str) -> Parsed<Pattern> {
    let wanted = "paths such as /opt/images/<name>/<ref>.tar";
    text.parse().or_else(|error: PatternError| allowed(&format!("{wanted} ({error})")))
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => allowed("true or false"),
    }
}

/// `none`, or what `parse` makes of it.
pub(super) fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Parsed<Option<T>> {
    if text == "none" { Ok(None) } else { parse(text).map(Some) }
}

pub(super) fn bytes(text: &str) -> Parsed<u64> {
    let what = "a number of bytes such as 1048576, 256MiB or 10GiB";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return allowed(what),
    };
    let number: u64 = from_text(number, what)?;
    number.checked_mul(factor).map_or_else(|| allowed(what), Ok)
}

pub(super) fn count(text: &str) -> Parsed<u32> {
    from_text::<std::num::NonZeroU32>(text, "a number from 1 to 4294967295").map(Into::into)
}

pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let what = "a duration such as 30s, 5m, 1h or 7d, of at least a second";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return allowed(what),
    };
    match from_text::<u64>(number, what)?.checked_mul(factor) {
        Some(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => allowed(what),
    }
}

/// Paths are made absolute at once: what they mean does not change with the working directory.
pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    std::path::absolute(text).or_else(|_| allowed("a path"))
}

/// `unix:///path`, as varlink writes it too: `unix:/path`.
pub(super) fn unix_socket(text: &str) -> Parsed<PathBuf> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
    path.filter(|path| path.starts_with('/')).map_or_else(|| allowed("none, or unix:///absolute/path"), |path| Ok(path.into()))
}

pub(super) fn owner(text: &str) -> Parsed<Owner> {
    match text {
        "all" => Ok(Owner::Shared),
        "sender" => Ok(Owner::Sender),
        _ => allowed("all or sender"),
    }
}

pub(super) fn layout(text: &str) -> Parsed<Layout> {
    match text {
        "shared" => Ok(Layout::Shared),
        "origin" => Ok(Layout::Origin),
        _ => allowed("shared or origin"),
    }
}

/// Permission bits, in octal as chmod(1) has them.
pub(super) fn mode(text: &str) -> Parsed<u32> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => allowed("permissions in octal, from 0000 to 0777"),
    }
}

pub(super) fn priority(text: &str) -> Parsed<Priority> {
    match text.to_ascii_lowercase().as_str() {
        "bulk" => Ok(Priority::Bulk),
        "low" => Ok(Priority::Low),
        "routine" => Ok(Priority::Routine),
        "priority" => Ok(Priority::Priority),
        "critical" => Ok(Priority::Critical),
        _ => allowed("bulk, low, routine, priority or critical"),
    }
}

pub(super) fn rate(text: &str) -> Parsed<Option<Rate>> {
    rate_or_none(text).map_err(limit)
}

pub(super) fn limits_of_classes(items: &[String]) -> Parsed<BTreeMap<Priority, Rates>> {
    let what =
        "priority=limits pairs such as bulk=100KiB/s, the priority one of bulk, low, routine, priority and critical, each once";
    named_limits(items, what, |name| priority(name).or_else(|_| allowed(what)))
}

pub(super) fn limits_of_peers(items: &[String]) -> Parsed<BTreeMap<NodeRef, Rates>> {
    let what = "node=limits pairs such as vehicle-7=up=100KiB/s, each node once and 1024 of them at most";
    named_limits(items, what, |name| Ok(NodeRef::from(name)))
}

fn named_limits<K: Ord>(items: &[String], what: &str, key: impl Fn(&str) -> Parsed<K>) -> Parsed<BTreeMap<K, Rates>> {
    let mut limits = BTreeMap::new();
    for (name, rates) in pairs(items, what)? {
        let rates: RateChange = rates.parse().map_err(limit)?;
        if limits.insert(key(&name)?, rates.applied_to(Rates::default())).is_some() {
            return allowed(what);
        }
    }
    if limits.len() > Limits::MAX_ENTRIES { allowed(what) } else { Ok(limits) }
}

pub(super) fn schedule(items: &[String]) -> Parsed<Vec<Period>> {
    if items.len() > Limits::MAX_ENTRIES {
        return allowed("1024 times at most");
    }
    items.iter().map(|item| item.parse().map_err(limit)).collect()
}

fn limit(error: LimitError) -> ValueError {
    ValueError(error.to_string())
}

/// A word alone is a level. (The filter would take it for a module, and a mistyped level for no output at all.)
pub(super) fn log(text: &str) -> Parsed<String> {
    let what =
        "a level (error, warn, info, debug, trace or off) and module=level pairs, such as info,peat_blobcore::network=debug";
    for word in text.split(',').filter(|part| !part.contains('=')) {
        from_text::<LevelFilter>(word, what)?;
    }
    from_text::<Targets>(text, what).map(|_| text.to_owned())
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => allowed("text or json"),
    }
}

pub(super) fn shared_key(text: &str) -> Parsed<FormationKey> {
    FormationKey::from_base64(text).or_else(|_| allowed("32 bytes in base64, 44 characters with the final `=`"))
}

pub(super) fn token(text: &str) -> Parsed<Token> {
    let text = text.trim_ascii();
    if text.len() < MIN_TOKEN_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return allowed("one line of at least 16 printable ASCII characters without spaces");
    }
    Ok(Token::new(text))
}

pub(super) fn senders(items: &[String]) -> Parsed<Option<BTreeSet<EndpointId>>> {
    let what = "any, or endpoint ids of 64 hex digits";
    if items == ["any"] {
        return Ok(None);
    }
    items.iter().map(|item| from_text(item, what)).collect::<Parsed<_>>().map(Some)
}

/// `name=path` pairs; the paths are directories that must be named one by one.
pub(super) fn roots(items: &[String]) -> Parsed<BTreeMap<String, PathBuf>> {
    let what = "name=path pairs, each name once";
    let mut roots = BTreeMap::new();
    for (name, directory) in pairs(items, what)? {
        if roots.insert(name, path(&directory)?).is_some() {
            return allowed(what);
        }
    }
    Ok(roots)
}

/// `true` or `all` for all roots; or names of roots, each with terms after a `=`.
pub(super) fn watched(items: &[String]) -> Parsed<Watched> {
    let what = "all, or roots such as reports or reports=to=hq;priority=bulk;expires=7d or maps=labels=role=edge, each once";
    match items {
        [] => return Ok(Watched::Named(BTreeMap::new())),
        [one] if one == "all" => return Ok(Watched::All),
        [one] => match switch(one) {
            Ok(true) => return Ok(Watched::All),
            Ok(false) => return Ok(Watched::Named(BTreeMap::new())),
            Err(_) => {}
        },
        _ => {}
    }
    let mut roots = BTreeMap::new();
    for item in items {
        let (name, terms) = item.split_once('=').unwrap_or((item, ""));
        if name.trim().is_empty() || roots.insert(name.trim().to_owned(), watch_terms(terms, what)?).is_some() {
            return allowed(what);
        }
    }
    Ok(Watched::Named(roots))
}

fn watch_terms(text: &str, what: &str) -> Parsed<WatchTerms> {
    let (mut terms, mut nodes, mut labels) = (WatchTerms::default(), Vec::new(), None);
    for term in text.split(';').map(str::trim).filter(|term| !term.is_empty()) {
        match term.split_once('=') {
            Some(("to", node)) if !node.is_empty() => nodes.push(NodeRef::from(node)),
            Some(("labels", selector)) if labels.is_none() => {
                let selector: Selector = selector.parse().map_err(|error: SelectorError| ValueError(error.to_string()))?;
                labels = Some(selector);
            }
            Some(("priority", text)) => terms.priority = Some(priority(text)?),
            Some(("expires", text)) => terms.lifetime = duration(text)?,
            Some(("deletions", text)) => terms.deletions = switch(text)?,
            _ => return allowed(what),
        }
    }
    if terms.lifetime > Manifest::MAX_LIFETIME {
        return allowed("expires of a year at most");
    }
    let all = nodes == [NodeRef::Name("all".to_owned())];
    terms.scope = match (labels, nodes.is_empty() || all) {
        (None, true) => Scope::All,
        (None, false) => Scope::Nodes(nodes),
        (Some(selector), true) if !all => Scope::Labels(selector),
        _ => return allowed("either to=NODE or labels=SELECTOR"),
    };
    Ok(terms)
}

pub(super) fn labels(items: &[String]) -> Parsed<Labels> {
    let what = "key=value pairs, each key once";
    let mut labels = Labels::new();
    for (key, value) in pairs(items, what)? {
        if labels.insert(key, value).is_some() {
            return allowed(what);
        }
    }
    Ok(labels)
}

fn pairs(items: &[String], what: &str) -> Parsed<Vec<(String, String)>> {
    let pair = |item: &String| match item.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() && !value.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => allowed(what),
    };
    items.iter().map(pair).collect()
}

/// `endpoint_id@host:port` items; those of one id become one peer with several hosts. An id alone has none of its own.
pub(super) fn peers(items: &[String]) -> Parsed<Vec<StaticPeer>> {
    let what =
        "endpoint_id@host:port items (an id alone where there are relays), the id 64 hex digits, an IPv6 address in brackets";
    let mut peers: Vec<StaticPeer> = Vec::new();
    for item in items {
        let (id, host) = item.split_once('@').map_or((item.as_str(), None), |(id, host)| (id, Some(host)));
        let id: EndpointId = from_text(id, what)?;
        if host.is_some_and(|host| !is_host_and_port(host)) {
            return allowed(what);
        }
        let hosts = host.map(str::to_owned);
        match peers.iter_mut().find(|peer| peer.id == id) {
            Some(peer) => peer.hosts.extend(hosts),
            None => peers.push(StaticPeer { id, hosts: hosts.into_iter().collect() }),
        }
    }
    Ok(peers)
}

/// `name=URL` items; those of one name are one registry with mirrors.
pub(super) fn upstreams(items: &[String]) -> Parsed<Vec<UpstreamAt>> {
    let what = "name=https://host[:port] or name=http://host[:port] items, the name * or as that of a repository";
    let mut upstreams: Vec<UpstreamAt> = Vec::new();
    for (name, url) in pairs(items, what)? {
        let name = match name.as_str() {
            "*" => None,
            name => Some(from_text::<Repository>(name, what)?.as_str().to_owned()),
        };
        let (host, insecure) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(host), _) => (host, false),
            (None, Some(host)) => (host, true),
            (None, None) => return allowed(what),
        };
        let host = host.strip_suffix('/').unwrap_or(host);
        if host.is_empty() || host.contains(['/', '?', '#', '@', '\\']) {
            return allowed(what);
        }
        let at = (host.to_owned(), insecure);
        match upstreams.iter_mut().find(|upstream| upstream.name == name) {
            Some(upstream) => upstream.hosts.push(at),
            None => upstreams.push(UpstreamAt { name, hosts: vec![at] }),
        }
    }
    Ok(upstreams)
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)),
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// What a file with a secret says.
pub(super) fn read_secret(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim_ascii().to_owned())
}
