//! Who has a connection with a socket, and who of them owes something: a handshake, a request, or the rest of one. There are only so
//! many places, and who has let longest wait gives his up. Must never take that of a caller who waits for an answer; one who does not
//! read it waits for none.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// The places of one socket. Clones are handles to the same ones.
#[derive(Clone, Default)]
pub(crate) struct Places(Arc<Shared>);

#[derive(Default)]
struct Shared {
    room: Mutex<Room>,
    /// Somebody owes something who did not before.
    owes: Notify,
    /// A place has become free.
    left: Notify,
}

#[derive(Default)]
struct Room {
    next: u64,
    taken: BTreeMap<u64, Taken>,
}

struct Taken {
    /// When anything of a request came last, or an answer ended.
    heard: Instant,
    /// Requests that have not come whole.
    requests: usize,
    /// Answers that have not gone whole, also to those.
    answers: usize,
    /// Those of which the last piece has not been read.
    unread: usize,
    /// Its drop tells the connection to end.
    _lose: oneshot::Sender<()>,
}

impl Taken {
    /// Whether the next word is the caller's, or it is his to read, where that counts.
    fn owes(&self, silent: Silent) -> bool {
        let read = if silent == Silent::OrDeaf { self.unread } else { 0 };
        self.answers.saturating_sub(read) <= self.requests
    }
}

/// Who can lose his place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silent {
    /// Who says nothing. A link that is slow enough takes minutes for what was written to it.
    Only,
    /// Also who does not read.
    OrDeaf,
}

impl Places {
    /// Takes a place; the receiver resolves when it is lost.
    pub(crate) fn enter(&self) -> (Place, oneshot::Receiver<()>) {
        let (lose, lost) = oneshot::channel();
        let mut room = self.lock();
        let number = room.next;
        room.next += 1;
        room.taken.insert(number, Taken { heard: Instant::now(), requests: 0, answers: 0, unread: 0, _lose: lose });
        drop(room);
        self.0.owes.notify_one();
        (Place(Arc::new(Held { places: self.clone(), number })), lost)
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.lock().taken.len()
    }

    /// Waits until somebody has left.
    pub(crate) async fn left(&self) {
        self.0.left.notified().await;
    }

    /// Waits until somebody has let wait for so long, and takes his place: of several, who did so longest.
    pub(crate) async fn lose_silent(&self, silent: Silent, longest: Duration) {
        loop {
            let owing = self.lock().most_silent(silent);
            match owing {
                Some((number, heard)) if heard.elapsed() >= longest => {
                    self.lock().taken.remove(&number);
                    return;
                }
                Some((_, heard)) => tokio::select! {
                    () = tokio::time::sleep_until(heard + longest) => {}
                    () = self.0.owes.notified() => {}
                },
                None => self.0.owes.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        // Each method changes the room in one go, so a panic elsewhere leaves it in order.
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn most_silent(&self, silent: Silent) -> Option<(u64, Instant)> {
        let owing = self.taken.iter().filter(|(_, taken)| taken.owes(silent));
        owing.map(|(number, taken)| (*number, taken.heard)).min_by_key(|(_, heard)| *heard)
    }
}

/// One connection's place, for as long as any part of it lasts.
#[derive(Clone)]
pub(crate) struct Place(Arc<Held>);

struct Held {
    places: Places,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.places.lock().taken.remove(&self.number);
        self.places.0.left.notify_one();
    }
}

impl Place {
    /// A call has begun.
    pub(crate) fn begin(&self) -> (Part, Part) {
        self.change(|taken| {
            taken.requests += 1;
            taken.answers += 1;
        });
        (Part { place: self.clone(), of: Of::Request }, Part { place: self.clone(), of: Of::Answer { unread: false } })
    }

    fn change(&self, change: impl FnOnce(&mut Taken)) {
        let places = &self.0.places;
        let owes = places.lock().taken.get_mut(&self.0.number).is_some_and(|taken| {
            let before = taken.owes(Silent::OrDeaf);
            change(taken);
            taken.heard = Instant::now();
            taken.owes(Silent::OrDeaf) && !before
        });
        if owes {
            places.0.owes.notify_one();
        }
    }
}

enum Of {
    Request,
    Answer { unread: bool },
}

/// The request or the answer of a call that is under way; dropped, it has ended.
pub(crate) struct Part {
    place: Place,
    of: Of,
}

impl Part {
    /// A piece came or went, or, of an answer, the next one is wanted: what was written before has been read.
    fn moved(&mut self, now_unread: bool) {
        let Of::Answer { unread } = &mut self.of else { return self.place.change(|_| {}) };
        let before = std::mem::replace(unread, now_unread);
        if before != now_unread {
            self.place.change(|taken| match now_unread {
                true => taken.unread += 1,
                false => taken.unread = taken.unread.saturating_sub(1),
            });
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.place.change(|taken| match self.of {
            Of::Request => taken.requests = taken.requests.saturating_sub(1),
            Of::Answer { unread } => {
                taken.answers = taken.answers.saturating_sub(1);
                taken.unread = taken.unread.saturating_sub(usize::from(unread));
            }
        });
    }
}

/// A body that says of each piece that it came or went.
pub(crate) struct Told {
    pub(crate) body: Body,
    /// None once the body has ended.
    pub(crate) part: Option<Part>,
}

impl HttpBody for Told {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(part) = self.part.as_mut().filter(|part| matches!(part.of, Of::Answer { .. })) {
            part.moved(false);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match (&frame, &mut self.part) {
            (Some(Ok(_)), Some(part)) => part.moved(true),
            _ => self.part = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);

    /// Whether the place is lost within a second.
    async fn is_lost(lost: &mut oneshot::Receiver<()>) -> bool {
        lost.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_let_wait_longest_gives_his_place_up_and_who_waits_for_an_answer_never() {
        let places = Places::default();
        let (first, mut first_lost) = places.enter();
        tokio::time::advance(LONGEST).await;
        let (second, mut second_lost) = places.enter();
        let (third, mut third_lost) = places.enter();
        let (request, answer) = first.begin();
        drop(request);
        let (trickle, _answer) = second.begin();
        tokio::time::advance(LONGEST).await;
        trickle.place.change(|_| {});
        places.lose_silent(Silent::Only, LONGEST).await;
        assert!(!is_lost(&mut first_lost).await && !is_lost(&mut second_lost).await && is_lost(&mut third_lost).await);
        let began = Instant::now();
        places.lose_silent(Silent::Only, LONGEST).await;
        assert!(!is_lost(&mut first_lost).await && is_lost(&mut second_lost).await);
        assert_eq!(began.elapsed(), LONGEST, "each byte counts");
        // Nobody is left who owes anything, until the answer has gone.
        let mut losing = std::pin::pin!(places.lose_silent(Silent::Only, LONGEST));
        assert!(tokio::time::timeout(LONGEST * 100, &mut losing).await.is_err());
        drop(answer);
        losing.await;
        assert!(is_lost(&mut first_lost).await);
        drop((second, third));
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_makes_room_where_there_is_none_and_is_left_alone_else() {
        let places = Places::default();
        let (deaf, mut deaf_lost) = places.enter();
        let (waits, mut waits_lost) = places.enter();
        let (request, mut answer) = deaf.begin();
        drop(request);
        answer.moved(true);
        let (request, mut other) = waits.begin();
        drop(request);
        other.moved(true);
        other.moved(false);
        assert!(tokio::time::timeout(LONGEST * 100, places.lose_silent(Silent::Only, LONGEST)).await.is_err());
        places.lose_silent(Silent::OrDeaf, LONGEST).await;
        assert!(is_lost(&mut deaf_lost).await && !is_lost(&mut waits_lost).await);
        assert!(tokio::time::timeout(LONGEST * 100, places.lose_silent(Silent::OrDeaf, LONGEST)).await.is_err());
        drop((answer, other, deaf, waits));
        assert_eq!(places.taken(), 0);
    }
}
