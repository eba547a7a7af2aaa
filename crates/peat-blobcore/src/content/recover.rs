//! What happens at each start, before anybody else sees the store: leftovers go, assemblies stay, and after an unclean end
//! what became whole last is verified. May be interrupted at any place and run again.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::check::CheckReport;
use super::groups::Groups;
use super::layout::{self, BITMAP, DATA, Layout};
use super::{ContentError, Inner, lock, tree};
use crate::fault;

impl Inner {
    pub(super) fn recover(&self, unclean: bool) -> Result<(), ContentError> {
        let temp = self.layout.temp_dir();
        layout::names(&temp)?.iter().try_for_each(|name| layout::remove(&temp.join(name)))?;
        self.find_assemblies()?;
        self.each_blob(&mut |hash, row| {
            if row.damaged {
                // An earlier run found it, and may not have come to mend it.
                lock(&self.lost).insert(hash);
            }
            Ok(())
        })?;
        if unclean {
            let mut report = CheckReport::default();
            self.check_orphans(&mut report)?;
            fault::point("content.open.recovered");
            for hash in self.index.recent()? {
                if let Some(row) = self.index.row(&hash)? {
                    self.check_blob(&hash, &row, &mut report, &mut |_| ControlFlow::Continue(()))?;
                }
            }
            tracing::info!(?report, "the store was not closed: what became whole last was verified");
        }
        Ok(())
    }

    /// Lists the assemblies that an earlier run left; parts of one that has no data are leftovers of its end, unless they wait
    /// for a damaged blob's data.
    fn find_assemblies(&self) -> Result<(), ContentError> {
        let dir = self.layout.assembly_dir();
        for name in layout::names(&dir)? {
            let Some((hash, size, part)) = Layout::parse_assembly(&name) else { continue };
            if part == DATA {
                let bitmap = self.layout.assembly(&hash, size, BITMAP);
                let count = tree::groups(size);
                // A bitmap of another length claims nothing; so does one that cannot be read.
                let claims = std::fs::read(&bitmap).ok().filter(|claims| claims.len() as u64 == count.div_ceil(8));
                let claimed = claims.map_or(0, |claims| Groups::from_bytes(&claims, count).len());
                let held = claimed.saturating_mul(super::GROUP_BYTES).min(size);
                self.assemblies.slot(&hash, size).held.store(held, Ordering::Relaxed);
            } else if !self.layout.assembly(&hash, size, DATA).exists() && !self.index.row(&hash)?.is_some_and(|row| row.damaged)
            {
                layout::remove(&dir.join(name))?;
            }
        }
        Ok(())
    }
}
