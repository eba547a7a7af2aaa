//! The nodes that a user names: by name, where the daemon knows it, or by endpoint id. Never guesses which of two is meant.

use peat_blobapi::blob::{ListPeersRequest, Peer};

use crate::daemon::{Daemon, answer};
use crate::failure::{Failure, Kind};
use crate::show;

/// The nodes that the daemon knows, itself left out.
pub(super) async fn known(daemon: &Daemon) -> Result<Vec<Peer>, Failure> {
    Ok(answer(daemon.client.list_peers(ListPeersRequest::default()).await)?.peers)
}

/// The one of them that a name or a whole endpoint id means. The name of one that was expelled is free for another.
pub(super) fn named<'a>(peers: &'a [Peer], text: &str) -> Result<&'a Peer, Failure> {
    let means = |peer: &&Peer| !text.is_empty() && (peer.name == text && !peer.revoked || peer.endpoint_id == text);
    let found = peers.iter().filter(means).collect::<Vec<_>>();
    match found[..] {
        [peer] => Ok(peer),
        [] => Err(Failure::new(Kind::NOT_FOUND, format!("no node {text:?} is known"))
            .hint("`peat-blobctl peers` lists those that are, with the ids of those whose names are forgotten")),
        [..] => {
            let ids = found.iter().map(|peer| peer.endpoint_id.as_str()).collect::<Vec<_>>();
            Err(Failure::usage(format!("{} nodes have the name {}", ids.len(), show::printable(text)))
                .hint(format!("name it by its endpoint id: {}", ids.join(" or "))))
        }
    }
}

/// One of that name that was expelled.
pub(super) fn expelled<'a>(peers: &'a [Peer], name: &str) -> Option<&'a Peer> {
    peers.iter().find(|peer| peer.revoked && peer.name == name && !name.is_empty())
}

/// The endpoint ids of nodes; one that the daemon has never heard of is taken by its id.
pub(super) fn endpoint_ids(peers: &[Peer], nodes: &[String]) -> Result<Vec<String>, Failure> {
    let id = |node: &String| match node.parse::<peat_blobcore::model::EndpointId>() {
        Ok(id) => Ok(id.to_string()),
        Err(_) => named(peers, node).map(|peer| peer.endpoint_id.clone()),
    };
    nodes.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, digit: &str) -> Peer {
        Peer { name: name.to_owned(), endpoint_id: digit.repeat(64), ..Default::default() }
    }

    #[test]
    fn a_node_is_named_by_its_name_or_whole_id_and_never_guessed() {
        let peers = [peer("bravo", "b"), peer("twin", "c"), peer("twin", "d"), peer("", "e")];
        let id = |text: &str| named(&peers, text).map(|peer| peer.endpoint_id.clone());
        assert_eq!(id("bravo").unwrap(), "b".repeat(64));
        assert_eq!(id(&"d".repeat(64)).unwrap(), "d".repeat(64));
        for (text, kind) in [("", Kind::NOT_FOUND), ("bbbbbbbb", Kind::NOT_FOUND), ("twin", Kind::USAGE)] {
            assert_eq!(id(text).unwrap_err().kind, kind, "{text:?}");
        }
        assert!(id("twin").unwrap_err().hint.unwrap().contains(&"c".repeat(64)));
        assert_eq!(endpoint_ids(&peers, &["f".repeat(64), "bravo".to_owned()]).unwrap(), ["f".repeat(64), "b".repeat(64)]);
        let gone = |name, digit| Peer { revoked: true, ..peer(name, digit) };
        let peers = [peer("bravo", "b"), gone("bravo", "0"), gone("lost", "1")];
        assert_eq!(named(&peers, "bravo").unwrap().endpoint_id, "b".repeat(64), "the other was expelled");
        assert!(named(&peers, "lost").is_err() && named(&peers, &"1".repeat(64)).is_ok());
        assert_eq!(expelled(&peers, "lost").unwrap().endpoint_id, "1".repeat(64));
        assert!(expelled(&peers, "").is_none());
    }
}
