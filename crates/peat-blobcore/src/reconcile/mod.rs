//! The one function that decides what this node does next. Time and randomness come in as values, effects go out as
//! data: nothing here reads a clock, a file or a socket, waits, or draws a random number.
//!
//! The driver owns one [`Memory`] and calls [`reconcile()`] for each [`Event`], one after the other, and performs the
//! [`Action`]s it returns. Work is proportional to what an event changed: it marks distributions dirty, timers wait in a
//! heap, and distributions with nothing to do cost nothing.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod action;
mod aging;
mod asked;
mod carry;
mod decide;
mod deliver;
mod event;
mod expected;
mod explain;
mod fetch;
mod flights;
mod memory;
mod packing;
mod parts;
mod pass;
mod peers;
mod policy;
mod sources;
mod targets;
mod view;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod parts_tests;
#[cfg(test)]
mod tests;

pub use action::{Action, FetchId, MAX_SMALL_BLOBS, MAX_SMALL_FETCH_BYTES, PinReason, SMALL_BYTES};
pub use decide::Refusal;
pub use event::{Event, FetchOutcome, FileOutcome, Retry};
pub use explain::{Reason, explain};
pub use memory::Memory;
pub use packing::{Packing, ParcelSelection, packing};
pub(crate) use peers::{mix, number};
pub use policy::{Budget, Patience, Policy};
pub use sources::{seekers, sources};
pub use targets::{is_entitled, is_target, status, targets};
pub use view::{Distance, Node, View};

use std::collections::BTreeSet;

use crate::model::Timestamp;

/// Decides what to do after `event`.
///
/// `seed` is any number that differs between nodes: waits are spread by it. The view must show what earlier actions wrote,
/// and every [`Action::Fetch`], [`Action::FetchSmall`], [`Action::Deliver`] and [`Action::Dial`] must be answered by the event
/// that ends it.
#[must_use]
pub fn reconcile(now: Timestamp, seed: u64, policy: &Policy, view: &dyn View, memory: &mut Memory, event: Event) -> Vec<Action> {
    let me = view.me();
    pass::Pass { now, seed, policy, view, me, memory, actions: Vec::new(), written: BTreeSet::new(), turns: BTreeSet::new() }
        .run(event)
}
