//! How far a part of an image is on its way in or out, for whoever shows it. Nothing is decided by it.

use crate::oci::Descriptor;

/// What has become of a blob or manifest that goes in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartStep {
    /// So many bytes of it are where they go.
    Moved(u64),
    /// All of it is.
    Done,
    /// Another repository there had it.
    Mounted,
    /// It was there.
    Present,
}

/// Who hears of each.
pub type PartProgress<'a> = dyn Fn(&Descriptor, PartStep) + Send + Sync + 'a;
