//! What waits to be written on one connection's control stream. Envelopes wait as ids, so a slow peer costs memory for
//! names, never for contents, and a peer that is too slow is reconciled anew instead.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::wire::Message;
use crate::model::EnvelopeId;

/// Envelope ids that may wait. Past it the queue gives up and asks for another reconciliation, which finds them again.
const MAX_WAITING_ENVELOPES: usize = 64 * 1024;
/// Other messages that may wait: answers are bounded by what the peer asks, and it waits for them; hints are dropped.
const MAX_WAITING_MESSAGES: usize = 256;

/// Those of them that may be about progress.
const MAX_WAITING_PROGRESS: usize = 32;

/// A queue that never makes its writers wait.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    inner: Mutex<Inner>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Message>,
    envelopes: VecDeque<EnvelopeId>,
    queued: BTreeSet<EnvelopeId>,
    /// Said once all envelopes queued before it are written.
    reconciled: bool,
    overflowed: bool,
    closed: bool,
    /// When something was last taken to be written.
    taken: Option<Instant>,
}

/// What to write next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This message.
    Message(Message),
    /// These envelopes, as far as they are still there.
    Envelopes(Vec<EnvelopeId>),
    /// Nothing any more.
    Closed,
}

impl SendQueue {
    /// Queues a message; false when the peer has let too many pile up, which no honest one does.
    pub(crate) fn message(&self, message: Message) -> bool {
        let mut inner = self.lock();
        if let Message::Progress { distribution: of, bytes: now } = message {
            // Of each distribution only the latest counts, and all together leave room for answers.
            let progress = inner.messages.iter_mut().filter_map(|message| match message {
                Message::Progress { distribution, bytes } => Some((distribution, bytes)),
                _ => None,
            });
            let mut waiting = 0;
            for (distribution, bytes) in progress {
                if *distribution == of {
                    *bytes = now;
                    return true;
                }
                waiting += 1;
            }
            if waiting >= MAX_WAITING_PROGRESS {
                return false;
            }
        }
        let fits = inner.messages.len() < MAX_WAITING_MESSAGES;
        if fits {
            inner.messages.push_back(message);
        }
        drop(inner);
        self.ready.notify_one();
        fits
    }

    /// Queues envelopes by id; one that waits already is not queued twice.
    pub(crate) fn envelopes(&self, ids: impl IntoIterator<Item = EnvelopeId>) {
        let mut inner = self.lock();
        for id in ids {
            if inner.envelopes.len() >= MAX_WAITING_ENVELOPES {
                inner.overflowed = true;
                break;
            }
            if inner.queued.insert(id) {
                inner.envelopes.push_back(id);
            }
        }
        drop(inner);
        self.ready.notify_one();
    }

    /// Says [`Message::Reconciled`] after everything that waits now.
    pub(crate) fn reconciled(&self) {
        self.lock().reconciled = true;
        self.ready.notify_one();
    }

    /// Whether nothing waits, and nothing was taken within this time: so the peer has everything.
    pub(crate) fn is_told(&self, within: Duration) -> bool {
        let inner = self.lock();
        let waits = !inner.messages.is_empty() || !inner.envelopes.is_empty() || inner.overflowed || inner.reconciled;
        !waits && inner.taken.is_none_or(|taken| taken.elapsed() >= within)
    }

    /// Ends the queue; what waits is dropped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    /// Waits for something to write. For one reader.
    pub(crate) async fn next(&self, batch: usize) -> Next {
        loop {
            if let Some(next) = self.take(batch) {
                self.lock().taken = Some(Instant::now());
                return next;
            }
            self.ready.notified().await;
        }
    }

    fn take(&self, batch: usize) -> Option<Next> {
        let mut inner = self.lock();
        if inner.closed {
            return Some(Next::Closed);
        }
        if let Some(message) = inner.messages.pop_front() {
            return Some(Next::Message(message));
        }
        if !inner.envelopes.is_empty() {
            let count = batch.min(inner.envelopes.len());
            let ids: Vec<_> = inner.envelopes.drain(..count).collect();
            for id in &ids {
                inner.queued.remove(id);
            }
            return Some(Next::Envelopes(ids));
        }
        if std::mem::take(&mut inner.overflowed) {
            return Some(Next::Message(Message::Again));
        }
        std::mem::take(&mut inner.reconciled).then_some(Next::Message(Message::Reconciled))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the queue itself in order: each method changes it in one go.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> EnvelopeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        EnvelopeId::from_bytes(bytes)
    }

    #[test]
    fn messages_come_before_envelopes_and_reconciled_comes_after_them() {
        let queue = SendQueue::default();
        queue.reconciled();
        queue.envelopes([id(1), id(2), id(1)]);
        queue.message(Message::Start(7));
        assert_eq!(queue.take(10), Some(Next::Message(Message::Start(7))));
        assert_eq!(queue.take(1), Some(Next::Envelopes(vec![id(1)])));
        assert_eq!(queue.take(10), Some(Next::Envelopes(vec![id(2)])));
        assert_eq!(queue.take(10), Some(Next::Message(Message::Reconciled)));
        assert_eq!(queue.take(10), None);
        queue.close();
        assert_eq!(queue.take(10), Some(Next::Closed));
    }

    #[tokio::test]
    async fn a_peer_is_told_when_nothing_waits_and_nothing_may_be_on_its_way() {
        let queue = SendQueue::default();
        assert!(queue.is_told(Duration::from_secs(60)));
        for kind in 0..3 {
            match kind {
                0 => queue.envelopes([id(1)]),
                1 => queue.reconciled(),
                _ => assert!(queue.message(Message::Again)),
            }
            assert!(!queue.is_told(Duration::ZERO));
            assert_ne!(queue.next(1).await, Next::Closed);
            assert!(queue.is_told(Duration::ZERO) && !queue.is_told(Duration::from_secs(60)));
        }
    }

    #[test]
    fn a_peer_too_slow_to_take_its_envelopes_is_reconciled_anew_instead() {
        let queue = SendQueue::default();
        queue.envelopes((0..u32::try_from(MAX_WAITING_ENVELOPES).expect("small") + 5).map(id));
        let Some(Next::Envelopes(ids)) = queue.take(usize::MAX) else { panic!("envelopes wait") };
        assert_eq!(ids.len(), MAX_WAITING_ENVELOPES);
        assert_eq!(queue.take(1), Some(Next::Message(Message::Again)));
        assert_eq!(queue.take(1), None);
    }
}
