//! Work that goes on by itself for as long as somebody holds on to it, and says how it is doing.

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A task with its state, which ends when this is dropped. What it has done stays done.
#[derive(Debug)]
pub struct Watched<S> {
    status: watch::Receiver<S>,
    task: JoinHandle<()>,
}

impl<S: Clone> Watched<S> {
    pub(crate) fn new(status: watch::Receiver<S>, task: JoinHandle<()>) -> Self {
        Self { status, task }
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> S {
        self.status.borrow().clone()
    }

    /// Waits until it is doing otherwise; false when it has ended.
    pub async fn changed(&mut self) -> bool {
        self.status.changed().await.is_ok()
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
