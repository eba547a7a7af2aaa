//! The program as its surroundings see it: signals, exit codes, logs, and what the service manager is told.
#![allow(clippy::unwrap_used, reason = "in a test")]

mod layers;
mod service;
mod tls;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use service::{KEY, Service, command};

#[test]
fn a_service_manager_hears_of_start_life_reload_and_end() {
    let mut service = Service::start("log = 'off'", &[("WATCHDOG_USEC", "1000000")]);
    service.hears("WATCHDOG=1");
    service.hears("WATCHDOG=1");

    assert_eq!(service.log(), "");

    std::fs::write(service.path("config"), "log = 'off,peat_blobd=info'\nstall = '1h'").unwrap();
    service.signal("HUP");
    service.hears("RELOADING=1");
    service.hears("READY=1");
    let log = service.log();
    assert!(log.contains("WARN") && log.contains("stall has changed and takes effect at the next start"), "{log}");
    assert!(log.contains("the configuration was read again"), "{log}");

    std::fs::write(service.path("config"), "logg = 'debug'").unwrap();
    service.signal("HUP");
    service.hears("READY=1");
    assert!(service.log().contains("config:1: logg is not a setting; did you mean log?"), "{}", service.log());

    service.signal("TERM");
    service.hears("STOPPING=1");
    assert_eq!(service.ends(), Some(0), "what takes longer than 5 s is cut off, with another code: {}", service.log());
    assert!(service.log().lines().all(|line| !line.starts_with("20")), "the journal has the time: {}", service.log());
    assert!(!service.path("data/api.sock").exists());
}

#[test]
fn a_second_signal_ends_a_daemon_whose_calls_do_not() {
    let mut service = Service::start("log_format = 'json'", &[]);
    let mut stream = UnixStream::connect(service.path("data/api.sock")).unwrap();
    let head = "POST /peat.sidecar.v1.PeatSidecar/GetStatus HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}expect: 100-continue\r\ncontent-length: 2\r\n\r\n").unwrap();
    // The daemon waits for the body now.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    service.signal("TERM");
    service.hears("STOPPING=1");
    service.signal("INT");
    assert_eq!(service.ends(), Some(130), "{}", service.log());
    assert!(service.log().lines().all(|line| line.starts_with("{\"") && line.contains("\"level\":\"")), "{}", service.log());
}

#[test]
fn a_second_daemon_on_a_data_directory_is_refused_with_what_to_do() {
    let service = Service::start("", &[]);
    let second = command(&service.directory).output().unwrap();
    assert_eq!(second.status.code(), Some(8));
    let log = String::from_utf8(second.stderr).unwrap();
    assert!(log.contains("is in use by another process; stop the other process"), "{log}");
    assert!(log.starts_with("20"), "away from the journal each line has its time: {log}");
}

#[test]
fn a_mistake_in_the_configuration_is_an_exit_code_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config"), "max_file_byte = 5").unwrap();
    for (arguments, code, expected) in [
        (&[][..], 2, "config:1: max_file_byte is not a setting; did you mean max_file_bytes?"),
        (&["--stal=5"], 2, "'--stall'"),
        (&["--help"], 0, ""),
        (&["--version"], 0, ""),
    ] {
        let output = command(&directory).args(arguments).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(expected), "{told}");
        assert!(!directory.path().join("data").exists());
    }
}

#[test]
fn print_config_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config"), "carry = false").unwrap();
    let output = command(&directory).env("PEAT_NODE_PRINT_CONFIG", "true").output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.lines().any(|line| line.starts_with("carry = false ") && line.ends_with("/config:1")), "{printed}");
    assert!(!printed.contains(KEY) && !directory.path().join("data").exists(), "{printed}");
}

#[test]
fn the_flags_of_the_systemd_unit_are_flags() {
    let unit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/peat-blobd.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/peat-blobd ")).expect("what it starts");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config"), "").unwrap();
    let output = command(&directory).args(start.split(' ')).arg("--print-config").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
