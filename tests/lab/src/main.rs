//! The lab on the command line: runs programs in hosts that thin links join.
//!
//! ```text
//! peat-blob-lab run --profile satcom --with b='iperf3 -s' --host a -- sh -c 'sleep 1; iperf3 -c $LAB_B'
//! ```
mod arguments;

use std::ffi::OsString;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use clap::Parser as _;
use peat_blob_lab::{Host, Lab, LabError, host_index};

use crate::arguments::{Arguments, Run, Verb};

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Run(run) => run_programs(&run),
        Verb::Profiles => {
            print!("{}", arguments::profiles());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Sweep => Lab::sweep().map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("peat-blob-lab: {error}");
        ExitCode::from(if matches!(error, LabError::Usage(_)) { 2 } else { 1 })
    })
}

fn run_programs(run: &Run) -> Result<ExitCode, LabError> {
    let profile = run.profile()?;
    let known = |name: &str| {
        let found = host_index(name).is_some_and(|index| index < profile.hosts);
        let last = peat_blob_lab::host_name(profile.hosts - 1);
        if found { Ok(()) } else { Err(LabError::Usage(format!("no host {name:?}: a to {last}"))) }
    };
    known(&run.host)?;
    run.with.iter().try_for_each(|(host, _)| known(host))?;

    let lab = Lab::new(&profile)?;
    if let Some(path) = &run.pcap {
        lab.capture(path)?;
    }
    for (host, line) in &run.with {
        let mut command = command(&lab, lab.host(host), &["sh".into(), "-c".into(), line.into()]);
        // It ends with the lab; nobody waits for it.
        start(command.stdin(Stdio::null()).stdout(std::io::stderr()), line)?;
    }
    let name = run.command[0].to_string_lossy();
    let mut program = start(&mut command(&lab, lab.host(&run.host), &run.command), &name)?;
    let status = program.wait().map_err(|source| LabError::Io { what: name.into_owned(), source })?;
    lab.end_capture()?;
    eprint!("{}", lab.counts());
    Ok(exit_code(status))
}

/// A command in a host, which finds the addresses of all hosts in its environment: `LAB_A`, `LAB_B`, ...
fn command(lab: &Lab, host: &Host, words: &[OsString]) -> Command {
    let mut command = host.command(&words[0]);
    command.args(&words[1..]);
    for host in lab.hosts() {
        command.env(format!("LAB_{}", host.name().to_uppercase()), host.address().to_string());
    }
    command
}

fn start(command: &mut Command, name: &str) -> Result<std::process::Child, LabError> {
    command.spawn().map_err(|source| LabError::Io { what: format!("cannot run {name}"), source })
}

/// The program's own; as shells do it, 128 more than the signal that ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
