//! The process round a daemon: signals, and what the service manager is told. It knows nothing of what the daemon does.

use std::pin::pin;
use std::process::exit;
use std::time::Duration;

use peat_blobd::config::{Listen, Loaded, Sources};
use peat_blobd::{Error, Pulse, Running};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::logging::Logs;

/// How long the daemon may take to end.
const LONGEST_END: Duration = Duration::from_secs(5);

/// The signals that the process is led by.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until somebody wants the process to end, and returns what a shell makes of the signal.
    async fn end(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
        tokio::select! {
            _ = terminate.recv() => 128 + 15,
            _ = interrupt.recv() => 128 + 2,
        }
    }
}

/// Runs the daemon until a signal ends it. What does not end in time is left as it stands, and the process exits here: dropping
/// it would wait for it.
///
/// # Errors
/// [`Error`] when it does not start.
pub(crate) async fn run(sources: &Sources, loaded: Loaded, logs: &Logs) -> Result<(), Error> {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen to signals");
            exit(1);
        }
    };
    let Signals { terminate, interrupt, hangup } = &mut signals;
    let mut start = pin!(Running::start(loaded.config.clone()));
    let running = tokio::select! {
        started = &mut start => started?,
        _ = Signals::end(terminate, interrupt) => exit(0),
    };
    let serves = format!("serves the API at {}", listed(running.addresses()));
    tell(&[NotifyState::Ready, NotifyState::Status(&serves)]);
    let mut watching = JoinSet::new();
    if let Some(period) = sd_notify::watchdog_enabled() {
        watching.spawn(watch(running.pulse(), period));
    }
    let mut loaded = loaded;
    loop {
        tokio::select! {
            _ = Signals::end(terminate, interrupt) => break,
            _ = hangup.recv() => {
                reloading();
                tokio::select! {
                    // Names of peers are looked up, which may take longer than somebody wants to wait for the end.
                    _ = Signals::end(terminate, interrupt) => break,
                    reloaded = reload(sources, &loaded, &running, logs) => loaded = reloaded.unwrap_or(loaded),
                }
                tell(&[NotifyState::Ready, NotifyState::Status(&serves)]);
            }
        }
    }
    tell(&[NotifyState::Stopping, NotifyState::Status("ends what is under way")]);
    tracing::info!("the daemon ends");
    watching.shutdown().await;
    let mut stop = pin!(running.stop());
    tokio::select! {
        () = &mut stop => Ok(()),
        code = Signals::end(terminate, interrupt) => exit(code),
        () = tokio::time::sleep(LONGEST_END) => {
            tracing::error!("the daemon did not end in {} s and is cut off; nothing that was reported is lost", LONGEST_END.as_secs());
            exit(1)
        }
    }
}

/// Reads the configuration again and puts into force what can be. A configuration that is wrong changes nothing.
async fn reload(sources: &Sources, old: &Loaded, running: &Running, logs: &Logs) -> Option<Loaded> {
    let new = match sources.load().and_then(|new| old.reloaded(new)) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(%error, "the configuration is wrong, so the one before stays in force");
            return None;
        }
    };
    logs.change(&new.config);
    for warning in &new.warnings {
        tracing::warn!("{warning}");
    }
    match running.reload(new.config.clone()).await {
        // What cannot be changed is as it was, and has been told of.
        Ok(_) => tracing::info!("the configuration was read again"),
        Err(error) => tracing::error!(%error, "the configuration could not be put into force"),
    }
    Some(new)
}

fn listed(addresses: &[Listen]) -> String {
    addresses.iter().map(Listen::to_string).collect::<Vec<_>>().join(" and ")
}

/// Tells the service manager, where there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// A reload is told with the time at which it began (sd_notify(3)).
fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reads its configuration again")]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// Lets the watchdog know that the daemon lives, as long as it does. It is asked a quarter of the period after it has said so, so
/// that what holds it up for half a period never ends it; when it does not answer in that time, it is asked again soon.
async fn watch(pulse: Pulse, period: Duration) {
    loop {
        let beats = tokio::time::timeout(period / 2, pulse.beats()).await;
        let pause = match beats.unwrap_or_else(|_| Err(format!("no answer in {:?}", period / 2))) {
            Ok(()) => {
                tell(&[NotifyState::Watchdog]);
                period / 4
            }
            Err(why) => {
                tracing::error!(why, "the service manager is not told that the daemon lives");
                period / 10
            }
        };
        tokio::time::sleep(pause).await;
    }
}
