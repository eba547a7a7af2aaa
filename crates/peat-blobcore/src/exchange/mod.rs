//! Where files come in and go out: [`Inbox`] turns verified blobs into names on disk, [`Outbox`] finds the files to send, and a
//! watcher those that are to be sent without anybody asking.
//!
//! Everything is blocking; run it on threads that may block. Names that come from other nodes are never handed to path
//! functions of the standard library: they are resolved component by component beneath a directory's fd, and symbolic
//! links are not followed.

mod arrivals;
mod batch;
mod beneath;
mod blobs;
mod error;
mod export;
mod forget;
mod gone;
mod inbox;
mod ledger;
mod look;
mod name;
mod notices;
mod outbox;
mod recover;
mod remove;
mod sent;
mod sidecar;
mod walk;
mod watch;

#[cfg(all(test, feature = "crash-points"))]
mod crash_tests;
#[cfg(test)]
mod gone_tests;
#[cfg(test)]
mod inbox_tests;
#[cfg(test)]
mod law_tests;
#[cfg(test)]
mod name_tests;
#[cfg(test)]
mod notices_tests;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod testing;

pub use arrivals::Arrival;
pub use blobs::{Blobs, Export, Written};
pub use error::ExchangeError;
pub use export::{Placed, export};
pub(crate) use forget::Forgetting;
pub use inbox::{Delivery, Inbox, InboxPolicy, Layout, Outcome, Owner};
pub use ledger::Ledger;
pub(crate) use name::inbox_path;
pub(crate) use notices::{Notices, WatchLimit};
pub use outbox::{Collected, Outbox, SkipReason};
pub(crate) use sent::SentFile;
pub use walk::{Found, Walk};
pub(crate) use watch::Watcher;
