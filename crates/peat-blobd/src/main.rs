//! The daemon as a program: reads its configuration, logs, and runs until a signal ends it.

mod logging;
mod process;

use std::io::Write as _;
use std::process::{ExitCode, exit};

use peat_blobcore::ErrorKind;
use peat_blobd::config::{ConfigError, DEFAULT_FILE, Loaded, Sources};

/// What is wrong with flags, variables or the file.
const USAGE: u8 = ErrorKind::Usage.exit_code();

fn main() -> ExitCode {
    let sources = Sources {
        arguments: std::env::args_os().collect(),
        environment: std::env::vars_os().collect(),
        default_file: DEFAULT_FILE.into(),
    };
    match sources.load() {
        Ok(loaded) if loaded.print_config => {
            // Who stops reading has seen enough.
            let _ = std::io::stdout().write_all(loaded.print().as_bytes());
            loaded.warnings.iter().for_each(|warning| eprintln!("peat-blobd: warning: {warning}"));
            ExitCode::SUCCESS
        }
        Ok(loaded) => run(&sources, loaded),
        Err(ConfigError::CommandLine(error)) => {
            // When nobody reads what is printed, the exit code says it all.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("peat-blobd: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// Ends the process itself: work that nobody waits for any more, a name that is being looked up, holds nothing up.
fn run(sources: &Sources, loaded: Loaded) -> ! {
    let logs = logging::Logs::start(&loaded.config, std::env::var_os("JOURNAL_STREAM").as_deref());
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            exit(1);
        }
    };
    let code = match runtime.block_on(process::run(sources, loaded, &logs)) {
        Ok(()) => 0,
        Err(error) => {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            tracing::error!("{error}{hint}");
            error.kind().exit_code()
        }
    };
    exit(code.into())
}
