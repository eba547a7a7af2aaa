//! A set of groups of one blob as a bitmap: bit `n % 8` of byte `n / 8` is group `n`, as in an assembly's bitmap file.
//!
//! Memory is one bit a group (8 MiB for a blob of 1 TiB), so a size has to be plausible before a set is made for it.

use std::ops::Range;

/// Some of the groups of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Groups {
    bits: Vec<u8>,
    count: u64,
    set: u64,
}

impl Groups {
    /// None of `count` groups.
    pub(crate) fn none(count: u64) -> Self {
        Self { bits: vec![0; Self::bytes_for(count)], count, set: 0 }
    }

    /// All of `count` groups.
    pub(super) fn all(count: u64) -> Self {
        let mut groups = Self::none(count);
        groups.insert(&(0..count));
        groups
    }

    /// The set that a bitmap file says; what is missing of the file says nothing.
    pub(super) fn from_bytes(bytes: &[u8], count: u64) -> Self {
        let mut groups = Self::none(count);
        for group in 0..count.min(bytes.len() as u64 * 8) {
            if bytes[at(group)] & bit(group) != 0 {
                groups.insert(&(group..group + 1));
            }
        }
        groups
    }

    /// How long a bitmap file is.
    pub(super) fn bytes_for(count: u64) -> usize {
        usize::try_from(count.div_ceil(8)).expect("a bitmap fits into memory: its blob fits on the disk")
    }

    /// The bytes of the bitmap file that these groups are in, and their offset.
    pub(super) fn bytes(&self, groups: &Range<u64>) -> (u64, &[u8]) {
        let range = at(groups.start)..Self::bytes_for(groups.end);
        (groups.start / 8, &self.bits[range])
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many groups are in the set.
    pub(crate) fn len(&self) -> u64 {
        self.set
    }

    pub(crate) fn is_all(&self) -> bool {
        self.set == self.count
    }

    pub(crate) fn contains(&self, group: u64) -> bool {
        self.bits[at(group)] & bit(group) != 0
    }

    pub(super) fn contains_any(&self, groups: &Range<u64>) -> bool {
        self.first_before(groups.end, groups.start, true).is_some()
    }

    pub(super) fn contains_all(&self, groups: &Range<u64>) -> bool {
        self.first_before(groups.end, groups.start, false).is_none()
    }

    pub(crate) fn insert(&mut self, groups: &Range<u64>) {
        for group in groups.clone() {
            self.set += u64::from(!self.contains(group));
            self.bits[at(group)] |= bit(group);
        }
    }

    pub(super) fn remove(&mut self, groups: &Range<u64>) {
        for group in groups.clone() {
            self.set -= u64::from(self.contains(group));
            self.bits[at(group)] &= !bit(group);
        }
    }

    /// The first group from `start` on that is (or is not) in the set.
    pub(crate) fn first(&self, start: u64, contained: bool) -> Option<u64> {
        self.first_before(self.count, start, contained)
    }

    fn first_before(&self, end: u64, start: u64, contained: bool) -> Option<u64> {
        let end = end.min(self.count);
        let skip = if contained { 0 } else { u8::MAX };
        let mut group = start;
        while group < end {
            if group.is_multiple_of(8) && self.bits[at(group)] == skip {
                group += 8;
            } else if self.contains(group) == contained {
                return Some(group);
            } else {
                group += 1;
            }
        }
        None
    }

    /// The runs of groups that are in the set, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = self.first(next, true)?;
            next = self.first(start, false).unwrap_or(self.count);
            Some(start..next)
        })
    }
}

fn at(group: u64) -> usize {
    usize::try_from(group / 8).expect("a bitmap fits into memory")
}

const fn bit(group: u64) -> u8 {
    1 << (group % 8)
}
