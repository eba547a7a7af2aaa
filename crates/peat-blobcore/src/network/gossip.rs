//! Signed hints beyond direct neighbours: one gossip topic a formation. A lost hint costs delay, never correctness, and a
//! forged one cannot be made: its author signs it, and only what the signature and the author's membership vouch for passes.

use std::time::Duration;

use bytes::Bytes;
use iroh::Endpoint;
use iroh_gossip::TopicId;
use iroh_gossip::api::{Event, GossipSender};
use iroh_gossip::net::Gossip;
use iroh_gossip::proto::HyparviewConfig;
use tokio::sync::mpsc;

use super::NetworkError;
use crate::model::EndpointId;

/// Longest hint, in bytes.
const MAX_HINT_BYTES: usize = 1024;
/// The default of half a second is less than the round trip of a satellite link.
const NEIGHBOR_TIMEOUT: Duration = Duration::from_secs(5);
/// Hints that wait for the driver. What comes past them is lost, as hints may be.
const WAITING_HINTS: usize = 256;

/// The formation's topic.
#[derive(Debug)]
pub(crate) struct Hints {
    gossip: Gossip,
    topic: TopicId,
    sender: Option<GossipSender>,
    received: mpsc::Receiver<Bytes>,
    incoming: mpsc::Sender<Bytes>,
    /// Reads the topic; at most one task.
    reader: tokio::task::JoinSet<()>,
}

impl Hints {
    /// Starts gossip on the endpoint.
    pub(crate) fn start(endpoint: &Endpoint, topic: [u8; 32]) -> Self {
        let membership = HyparviewConfig { neighbor_request_timeout: NEIGHBOR_TIMEOUT, ..HyparviewConfig::default() };
        let gossip =
            Gossip::builder().max_message_size(MAX_HINT_BYTES + 256).membership_config(membership).spawn(endpoint.clone());
        let (incoming, received) = mpsc::channel(WAITING_HINTS);
        Self { gossip, topic: TopicId::from_bytes(topic), sender: None, received, incoming, reader: tokio::task::JoinSet::new() }
    }

    /// The actor that connections of gossip's own protocol are handed to.
    pub(crate) fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// Makes a peer that was admitted a neighbour, and subscribes (again) if need be.
    pub(crate) async fn join(&mut self, peer: EndpointId) -> Result<(), NetworkError> {
        let Ok(peer) = iroh::EndpointId::from_bytes(peer.as_bytes()) else { return Ok(()) };
        if self.reader.try_join_next().is_some() || self.sender.is_none() {
            let topic = self.gossip.subscribe(self.topic, vec![peer]).await.map_err(|e| NetworkError::Gossip(e.to_string()))?;
            let (sender, mut receiver) = topic.split();
            self.sender = Some(sender);
            let incoming = self.incoming.clone();
            self.reader.spawn(async move {
                use n0_future::StreamExt as _;
                // It ends when the subscription lags or gossip stops; the next join subscribes again.
                while let Some(Ok(event)) = receiver.next().await {
                    match event {
                        Event::Received(message) if message.content.len() <= MAX_HINT_BYTES => {
                            let _ = incoming.try_send(message.content);
                        }
                        Event::Lagged => return,
                        _ => {}
                    }
                }
            });
        } else if let Some(sender) = &self.sender {
            sender.join_peers(vec![peer]).await.map_err(|e| NetworkError::Gossip(e.to_string()))?;
        }
        Ok(())
    }

    /// Spreads a signed hint, as far as there are neighbours.
    pub(crate) async fn spread(&self, hint: Vec<u8>) {
        if let Some(sender) = &self.sender
            && let Err(error) = sender.broadcast(hint.into()).await
        {
            tracing::debug!(%error, "a hint was not spread");
        }
    }

    /// The next hint that somebody spread.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.received.recv().await
    }

    /// Ends gossip.
    pub(crate) async fn stop(&mut self) {
        if let Err(error) = self.gossip.shutdown().await {
            tracing::debug!(%error, "gossip had ended already");
        }
        self.reader.shutdown().await;
    }
}
