//! A bar per target on a terminal. Only shows; decides nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use peat_blobapi::blob::{GetDistributionResponse, Target};

use crate::show;

/// Targets that have a bar. A terminal is no longer than that.
const SHOWN_TARGETS: usize = 20;

/// The bars, in order of the targets' ids.
pub(super) struct Bars {
    all: MultiProgress,
    targets: RefCell<BTreeMap<String, ProgressBar>>,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self { all: MultiProgress::new(), targets: RefCell::default() }
    }

    /// Some bytes more at one target.
    pub(super) fn progress(&self, endpoint_id: &str, bytes: u64) {
        if let Some(bar) = self.targets.borrow().get(endpoint_id) {
            bar.set_position(bytes);
        }
    }

    /// How all of them stand.
    pub(super) fn status(&self, status: &GetDistributionResponse) {
        let total = status.distribution.bytes;
        for target in &status.targets {
            let mut bars = self.targets.borrow_mut();
            if !bars.contains_key(&target.endpoint_id) && bars.len() == SHOWN_TARGETS {
                continue;
            }
            let bar = bars.entry(target.endpoint_id.clone()).or_insert_with(|| self.add(target, total));
            bar.set_position(if target.receipt { total } else { bar.position().max(target.bytes) });
            bar.set_message(show::printable(if target.state.is_empty() { &target.why } else { &target.state }));
        }
    }

    fn add(&self, target: &Target, total: u64) -> ProgressBar {
        let template = "{prefix:24!} {bar:32.cyan} {bytes:>10} of {total_bytes:10} {wide_msg}";
        let style = ProgressStyle::with_template(template).expect("the template is well formed");
        let bar = self.all.add(ProgressBar::new(total).with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")));
        bar.set_prefix(show::node(&target.name, &target.endpoint_id));
        bar
    }
}

impl Drop for Bars {
    /// Leaves the bars where they are.
    fn drop(&mut self) {
        for bar in self.targets.borrow().values() {
            bar.abandon();
        }
    }
}
