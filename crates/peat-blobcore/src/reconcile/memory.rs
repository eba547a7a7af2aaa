//! What reconcile remembers between two events. Nothing in it is durable: an empty memory and [`Event::Started`] are enough.

/// What reconcile remembers. Belongs to one life of one node.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    stopped: bool,
}
