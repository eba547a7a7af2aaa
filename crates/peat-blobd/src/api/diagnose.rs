//! What is well with the node and what is not, each with what to do about it. First the facts are asked for, then functions of facts
//! alone judge them. Nothing is changed or tried out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use peat_blobapi::blob::{Finding, Health};
use peat_blobcore::model::EndpointId;
use peat_blobcore::{PeerFailure, PeerStats};
use rustix::fs::{Access, access, statvfs};

use super::{Daemon, Peer};

/// Less free space than this, in bytes, is none: as much as a store leaves to others by default.
const LITTLE: u64 = 64 * 1024 * 1024;
/// The least that QUIC takes a path for, in bytes: a path that takes no more is a tunnel in a tunnel (RFC 9000, section 14).
const LEAST_MTU: u16 = 1200;
/// Peers that are named one by one in one check.
const MOST_NAMED: usize = 20;

/// What a directory is like for the daemon.
struct Directory {
    what: String,
    path: PathBuf,
    exists: bool,
    allowed: bool,
    /// Free bytes, where it is written to.
    free: Option<u64>,
}

impl Directory {
    fn look(what: &str, path: &Path, written: bool) -> Self {
        let rights =
            if written { Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK } else { Access::READ_OK | Access::EXEC_OK };
        let free = || statvfs(path).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        Self {
            what: what.to_owned(),
            path: path.to_owned(),
            exists: path.is_dir(),
            allowed: access(path, rights).is_ok(),
            free: if written { free() } else { None },
        }
    }
}

/// All findings, in the order of the checks.
pub(super) async fn diagnose(daemon: &Daemon) -> Vec<Finding> {
    let (node, config) = (&daemon.node, daemon.config());
    let stats = node.stats();
    let mut directories = vec![Directory::look("the data directory", &config.data_dir, true)];
    directories.extend(config.inbox.as_ref().map(|inbox| Directory::look("the inbox", inbox, true)));
    let outboxes = config.outbox.iter().map(|(name, root)| Directory::look(&format!("the outbox {name}"), root, false));
    directories.extend(outboxes);
    let outboxes = daemon.outboxes.statuses().await;
    let held = outboxes.iter().filter(|outbox| !outbox.held.is_empty()).map(|outbox| {
        let what = format!("nothing is taken for removed from the outbox {}: {}", outbox.root_name, outbox.held);
        problem("disk", what, "bring back what is away; where it is meant to be gone, turn its deletions off and on again")
    });
    let stuck = outboxes.iter().filter(|outbox| !outbox.problem.is_empty()).map(|outbox| {
        let what = format!("files of the outbox {} are not sent: {}", outbox.root_name, outbox.problem);
        problem("disk", what, "mend what it says; they are sent by themselves then")
    });
    let gone = node.gone();
    let mut peers = daemon.peers();
    peers.retain(|id, _| !gone.retired.contains(id) && !gone.revoked.contains_key(id));
    let named = daemon.named.read().expect("nothing panics while it holds the peers").keys().copied().collect::<Vec<_>>();
    let failures = node.peer_failures();

    let mut findings = vec![clock(stats.clock_plausible, stats.held)];
    findings.extend(directories.iter().map(disk).chain(stuck).chain(held));
    findings.push(ports(&node.listening_on(), &node.addresses()));
    findings.push(mtu(&node.peer_stats(), &peers));
    findings.extend(reach(&peers, &named, &failures));
    findings.extend(key(&peers, &failures));
    findings.push(clones(stats.clones));
    findings
}

fn finding(check: &str, health: Health, message: impl Into<String>, fix: &str) -> Finding {
    Finding { check: check.to_owned(), health: health.into(), message: message.into(), fix: fix.to_owned(), ..Default::default() }
}

fn well(check: &str, message: impl Into<String>) -> Finding {
    finding(check, Health::HEALTH_WELL, message, "")
}

fn note(check: &str, message: impl Into<String>, fix: &str) -> Finding {
    finding(check, Health::HEALTH_NOTE, message, fix)
}

fn problem(check: &str, message: impl Into<String>, fix: &str) -> Finding {
    finding(check, Health::HEALTH_PROBLEM, message, fix)
}

fn clock(plausible: bool, held: u64) -> Finding {
    let fix = "set the clock and keep it, by NTP or GPS; the daemon need not be started again";
    match (plausible, held) {
        (false, _) => {
            problem("clock", "it agrees neither with what was saved last nor with peers: nothing expires until it does", fix)
        }
        (true, 0) => well("clock", "it agrees with what was saved last, or with peers"),
        (true, _) => problem("clock", format!("{held} envelopes are dated more than a day ahead of it and were held back"), fix),
    }
}

fn disk(directory: &Directory) -> Finding {
    let Directory { what, path, exists, allowed, free } = directory;
    let name = format!("{what} {}", path.display());
    match (exists, allowed, free) {
        (false, ..) => problem("disk", format!("{name} is not there"), "make it or mount it, for the daemon's user"),
        (_, false, _) => problem("disk", format!("{name} is closed to the daemon's user"), "give it to that user (chown, chmod)"),
        (_, _, Some(free)) if *free < LITTLE => {
            problem("disk", format!("{name} has {free} bytes free"), "make room; `peat-blobctl gc` drops what nothing needs")
        }
        (_, _, Some(free)) => well("disk", format!("{name} can be written, {} MiB free", free >> 20)),
        (_, _, None) => well("disk", format!("{name} can be read")),
    }
}

fn ports(bound: &[SocketAddr], told: &[SocketAddr]) -> Finding {
    let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if bound.is_empty() {
        return problem("ports", "no UDP socket is bound", "see the log, and `iroh_listen`: another program may have the port");
    }
    if told.iter().all(|address| address.ip().is_loopback()) {
        return note(
            "ports",
            format!("UDP {} is bound, and only this machine can reach it", list(bound)),
            "for other machines set `iroh_udp_port`, or `iroh_listen` to another address",
        );
    }
    well("ports", format!("UDP {} is bound, and peers are told of {}", list(bound), list(told)))
}

fn mtu(stats: &[PeerStats], peers: &BTreeMap<EndpointId, Peer>) -> Finding {
    let known = stats.iter().filter_map(|stats| Some((stats.mtu?, stats.id)));
    let Some((least, id)) = known.min() else { return well("mtu", "no path is in use") };
    let message = format!("the path to {} takes packets of {least} bytes, others of as many or more", name(&id, peers));
    if least <= LEAST_MTU {
        let fix =
            "where a tunnel is between: raise its MTU; each packet costs 60 bytes of headers. A path that is new may yet grow";
        return note("mtu", message, fix);
    }
    well("mtu", message)
}

fn reach(peers: &BTreeMap<EndpointId, Peer>, named: &[EndpointId], failures: &BTreeMap<EndpointId, PeerFailure>) -> Vec<Finding> {
    let connected = peers.values().filter(|peer| peer.connected).count();
    let missing: Vec<_> = named.iter().filter(|id| peers.get(id).is_none_or(|peer| !peer.connected)).collect();
    let mut findings: Vec<_> = missing
        .iter()
        .take(MOST_NAMED)
        .map(|id| {
            let why =
                failures.get(id).map_or_else(|| "no dial has come to an end yet".to_owned(), |failure| failure.error.clone());
            let places = peers.get(id).map(|peer| peer.addresses.join(" ")).unwrap_or_default();
            let message = format!("{} is not connected ({places}): {why}", name(id, peers));
            problem("peers", message, "is it running, is the address right, is its UDP port open on the way?")
        })
        .collect();
    if missing.len() > MOST_NAMED {
        let more = format!("{} more peers of the configuration are not connected", missing.len() - MOST_NAMED);
        findings.push(problem("peers", more, "`peat-blobctl peers` lists all"));
    }
    match (connected, findings.is_empty()) {
        (0, true) if peers.is_empty() => {
            let fix = "name one that is running: `peers` in the configuration, or `peat-blobctl connect`";
            findings.push(note("peers", "no other node is known", fix));
        }
        (0, true) => {
            findings.push(note("peers", format!("none of {} is connected", peers.len()), "`peat-blobctl peers` has them"))
        }
        (0, false) => {}
        _ => findings.insert(0, well("peers", format!("{connected} of {} are connected", peers.len()))),
    }
    findings
}

fn key(peers: &BTreeMap<EndpointId, Peer>, failures: &BTreeMap<EndpointId, PeerFailure>) -> Vec<Finding> {
    let refused = failures.iter().filter(|(_, failure)| failure.refused);
    let (ours, strangers): (Vec<_>, Vec<_>) = refused.partition(|(_, failure)| failure.dialled);
    let mut findings: Vec<_> = ours
        .iter()
        .take(MOST_NAMED)
        .map(|(id, failure)| {
            let fix = "compare `formation` and `authority` of `peat-blobctl status` at both: the nodes want one formation key, and \
                       certificates of one authority";
            problem("key", format!("{} and this node do not admit each other: {}", name(id, peers), failure.error), fix)
        })
        .collect();
    if let Some((id, failure)) = strangers.iter().max_by_key(|(_, failure)| failure.time) {
        let message = format!("{} that dialled were not admitted, last {}: {}", strangers.len(), name(id, peers), failure.error);
        findings.push(note(
            "key",
            message,
            "if one of them is yours: compare `formation` and `authority` of its status with ours",
        ));
    }
    if findings.is_empty() {
        findings.push(well("key", "nobody was turned away"));
    }
    findings
}

fn clones(count: u64) -> Finding {
    match count {
        0 => well("clone", "no identity is in use twice"),
        _ => problem(
            "clone",
            format!("two lives of one identity spoke at once, {count} times since the start"),
            "a data directory was copied, or restored while the node lives: stop one of the two, and enrol it under a new key",
        ),
    }
}

fn name(id: &EndpointId, peers: &BTreeMap<EndpointId, Peer>) -> String {
    match peers.get(id).map(|peer| peer.name.as_str()) {
        None | Some("") => id.short(),
        Some(name) => format!("{name} ({})", id.short()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healths(findings: &[Finding]) -> Vec<Health> {
        findings.iter().map(|finding| finding.health.as_known().expect("one of ours")).collect()
    }

    #[test]
    fn what_is_wrong_comes_with_its_fix_and_what_is_well_without() {
        let here = tempfile::tempdir().expect("a directory");
        let gone = Directory::look("the inbox", &here.path().join("gone"), true);
        let full = Directory { free: Some(1000), ..Directory::look("the inbox", here.path(), true) };
        let closed = Directory { allowed: false, ..Directory::look("the inbox", here.path(), true) };
        let wrong = [clock(false, 0), clock(true, 3), disk(&gone), disk(&full), disk(&closed), ports(&[], &[]), clones(1)];
        assert!(wrong.iter().all(|finding| finding.health == Health::HEALTH_PROBLEM && !finding.fix.is_empty()), "{wrong:?}");
        let outbox = Directory::look("the outbox out", here.path(), false);
        let bound = ["0.0.0.0:1".parse().expect("an address")];
        let told = ["192.0.2.1:1".parse().expect("an address")];
        let right = [clock(true, 0), disk(&outbox), ports(&bound, &told), mtu(&[], &BTreeMap::new()), clones(0)];
        assert!(right.iter().all(|finding| finding.health == Health::HEALTH_WELL && finding.fix.is_empty()), "{right:?}");
    }

    #[test]
    fn a_peer_of_the_configuration_is_missed_and_another_is_not() {
        let [named, heard] = [1, 2].map(|byte| EndpointId::from_bytes([byte; 32]));
        let peers = BTreeMap::from([(named, Peer::default()), (heard, Peer::default())]);
        let none = BTreeMap::new();
        assert_eq!(healths(&reach(&peers, &[], &none)), [Health::HEALTH_NOTE]);
        assert_eq!(healths(&reach(&peers, &[named], &none)), [Health::HEALTH_PROBLEM]);
        let many: Vec<_> = (0..200).map(|byte| EndpointId::from_bytes([byte; 32])).collect();
        assert_eq!(reach(&peers, &many, &none).len(), MOST_NAMED + 1, "it is bounded");
    }
}
