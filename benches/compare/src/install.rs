//! Brings the tools that are compared onto this machine, where it is one of Debian. Must never run unless it was asked for.

use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::tool::Tool;

/// What lets hosts choose their congestion control.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Installs what these tools lack. What cannot be had is said, and left out later.
pub(crate) fn install(tools: &[Tool]) -> Outcome<()> {
    for module in ["tcp_bbr", "tcp_cubic"] {
        // Built in, or refused to a container: whether it is there is seen below.
        let _ = Command::new("modprobe").arg(module).output();
    }
    let available = std::fs::read_to_string(Path::new(ALLOWED).with_file_name("tcp_available_congestion_control"))?;
    if let Err(error) = std::fs::write(ALLOWED, available.trim()) {
        eprintln!("congestion controls cannot be allowed to hosts: {error}");
    }
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| tool.version().is_none()).collect();
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages()).copied().collect();
    if !packages.is_empty() {
        run(Command::new("apt-get").args(["install", "--yes", "--no-install-recommends"]).args(packages));
    }
    for tool in missing {
        if let Some(name) = tool.a_crate() {
            run(Command::new("cargo").args(["install", "--locked", name]));
        }
    }
    Ok(())
}

fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("{command:?} ended with {status}"),
        Err(error) => eprintln!("{command:?}: {error}"),
    }
}
