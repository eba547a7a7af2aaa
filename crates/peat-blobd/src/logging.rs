//! Logs: to stderr, with levels by module that a reload changes. No colours: they are read by other programs.

use std::ffi::OsStr;

use peat_blobd::config::{Config, LogFormat};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

/// What decides which lines are written.
pub(crate) struct Logs(reload::Handle<Targets, Registry>);

impl Logs {
    /// Starts to log. `journal_stream` is the variable of that name (systemd.exec(5)): the journal has times of its own.
    pub(crate) fn start(config: &Config, journal_stream: Option<&OsStr>) -> Self {
        let (filter, handle) = reload::Layer::new(filter(config));
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines = match (config.log_format, goes_to(journal_stream)) {
            (LogFormat::Text, false) => lines.boxed(),
            (LogFormat::Text, true) => lines.without_time().boxed(),
            (LogFormat::Json, false) => lines.json().flatten_event(true).boxed(),
            (LogFormat::Json, true) => lines.json().flatten_event(true).without_time().boxed(),
        };
        tracing_subscriber::registry().with(filter).with(lines).init();
        Self(handle)
    }

    /// Puts other levels into force.
    pub(crate) fn change(&self, config: &Config) {
        if let Err(error) = self.0.reload(filter(config)) {
            tracing::error!(%error, "the levels of the log stay as they are");
        }
    }
}

fn filter(config: &Config) -> Targets {
    config.log.parse().expect("a configuration holds a filter that parses")
}

/// Whether stderr is the stream that the variable names by device and inode. A program that was started by another one with its
/// stderr elsewhere has the variable too.
fn goes_to(journal_stream: Option<&OsStr>) -> bool {
    let named = journal_stream.and_then(OsStr::to_str).and_then(|text| text.split_once(':'));
    let Some((device, inode)) = named else { return false };
    let stderr = rustix::fs::fstat(std::io::stderr());
    stderr.is_ok_and(|stderr| device.parse() == Ok(stderr.st_dev) && inode.parse() == Ok(stderr.st_ino))
}
