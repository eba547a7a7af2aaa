//! A relay of the fleet's own: a server that both sides can reach, and that passes packets on between those that cannot reach
//! each other. Never one that nobody named.

use std::fmt;
use std::str::FromStr;

use iroh::{EndpointAddr, RelayConfig, RelayMap, RelayMode, RelayUrl};

/// Where a relay is: `https://HOST[:PORT]`, or `http://HOST[:PORT]` on a network that needs no names and certificates. What it
/// passes on is encrypted between the nodes either way; it sees who speaks with whom, and how much.
///
/// It speaks the protocol of iroh's relays (`iroh-relay` 1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relay(RelayUrl);

/// Why a text names no relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no relay: give https://HOST[:PORT] or http://HOST[:PORT]")]
pub struct RelayError(String);

impl FromStr for Relay {
    type Err = RelayError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || RelayError(text.to_owned());
        let url: RelayUrl = text.parse().map_err(|_| wrong())?;
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        let known = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
        if plain && known { Ok(Self(url)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// The relays that an endpoint may use: these, and without any none.
pub(super) fn mode(relays: &[Relay]) -> RelayMode {
    if relays.is_empty() {
        return RelayMode::Disabled;
    }
    let config = |Relay(url): &Relay| match url.scheme() {
        // Without certificates there is no QUIC to ask how this node looks from outside.
        "http" => RelayConfig::new(url.clone(), None),
        _ => RelayConfig::from(url.clone()),
    };
    RelayMode::Custom(relays.iter().map(config).collect::<RelayMap>())
}

/// The same peer, to be reached through these relays too: whichever it has chosen, it is at one of the fleet's.
pub(super) fn through(relays: &[Relay], address: EndpointAddr) -> EndpointAddr {
    relays.iter().fold(address, |address, Relay(url)| address.with_relay_url(url.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_a_host_and_nothing_else() {
        for text in ["https://relay.example", "http://192.0.2.1:3340", "https://[2001:db8::1]:8443"] {
            assert_eq!(text.parse::<Relay>().map(|relay| relay.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("https://relay.example/".parse::<Relay>(), "https://relay.example".parse());
        for text in ["relay.example", "ftp://relay.example", "https://", "https://a/b", "https://a/?b", "https://u@a", ""] {
            let error = text.parse::<Relay>().expect_err(text).to_string();
            assert!(error.contains("https://HOST[:PORT]"), "{error}");
        }
    }
}
