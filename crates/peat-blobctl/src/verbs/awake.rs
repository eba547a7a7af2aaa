//! A stream to the daemon that is never silent for long: where it has nothing to say for a while, since a pipe gives nothing, it
//! says an empty message. The daemon takes who says nothing for gone.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use connectrpc::client::Stream;
use tokio::time::{Instant, Sleep, sleep};

/// How long it may have nothing to say: a third of what the daemon puts up with.
pub(super) const LONGEST_SILENCE: Duration = Duration::from_secs(20);

/// The messages of `stream`, and `empty` ones between.
pub(super) struct Awake<S: Stream> {
    stream: S,
    empty: fn() -> S::Item,
    longest: Duration,
    silence: Pin<Box<Sleep>>,
}

impl<S: Stream> Awake<S> {
    pub(super) fn new(stream: S, empty: fn() -> S::Item) -> Self {
        Self::within(LONGEST_SILENCE, stream, empty)
    }

    fn within(longest: Duration, stream: S, empty: fn() -> S::Item) -> Self {
        Self { stream, empty, longest, silence: Box::pin(sleep(longest)) }
    }
}

impl<S: Stream + Unpin> Stream for Awake<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let said = match Pin::new(&mut self.stream).poll_next(context) {
            Poll::Pending if self.silence.as_mut().poll(context).is_ready() => Some((self.empty)()),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(said) => said,
        };
        let longest = self.longest;
        self.silence.as_mut().reset(Instant::now() + longest);
        Poll::Ready(said)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::mpsc;

    use super::*;

    struct Words(mpsc::Receiver<&'static str>);

    impl Stream for Words {
        type Item = &'static str;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<&'static str>> {
            self.0.poll_recv(context)
        }
    }

    #[tokio::test]
    async fn who_has_nothing_to_say_says_so_and_what_there_is_to_say_comes_first() {
        let (say, words) = mpsc::channel(2);
        let mut awake = Awake::within(Duration::from_millis(1), Words(words), || "");
        let mut next = async || poll_fn(|context| Pin::new(&mut awake).poll_next(context)).await;
        assert_eq!([next().await, next().await], [Some(""); 2]);
        say.try_send("one").unwrap();
        say.try_send("two").unwrap();
        assert_eq!([next().await, next().await], [Some("one"), Some("two")]);
        drop(say);
        assert_eq!(next().await, None);
    }
}
