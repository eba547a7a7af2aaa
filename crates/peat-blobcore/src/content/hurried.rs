//! What somebody waits for of a blob that is not whole yet, and is asked for first. Pure, and bounded whatever is waited for.

use std::ops::Range;

/// Ranges that are remembered; those of most groups are forgotten first.
const MOST: usize = 64;

/// Ranges of groups, those of few groups first: who wants little is not kept waiting by who wants all.
#[derive(Debug, Default)]
pub(super) struct Hurried(Vec<Range<u64>>);

impl Hurried {
    /// One more. It takes the place of what its reader wanted before, which ended where this does and began earlier.
    pub(super) fn add(&mut self, groups: Range<u64>) {
        self.0.retain(|known| known.end != groups.end || known.start > groups.start);
        self.0.push(groups);
        self.0.sort_by_key(|groups| groups.end - groups.start);
        self.0.truncate(MOST);
    }

    /// Forgets those of which nothing is missing.
    pub(super) fn retain(&mut self, is_missing: impl Fn(&Range<u64>) -> bool) {
        self.0.retain(is_missing);
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_little_comes_first_and_what_a_reader_wanted_before_is_forgotten() {
        let mut hurried = Hurried::default();
        for groups in [0..1000, 500..510, 3..1000] {
            hurried.add(groups);
        }
        assert_eq!(hurried.0, [500..510, 3..1000]);
        hurried.retain(|groups| groups.start > 100);
        assert_eq!(hurried.0.len(), 1);
        (0..1000).for_each(|at| hurried.add(at..2 * at + 1));
        assert!(hurried.0.len() == MOST && hurried.0[0] == (0..1));
    }
}
