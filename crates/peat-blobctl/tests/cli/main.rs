//! The real program: what it prints, in which mode, and its exit codes.

mod authority;
mod blobs;
mod direct;
mod offline;
mod online;
mod registry;
mod tls;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run of the program came to.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    fn error(&self) -> serde_json::Value {
        let last = self.err.lines().last().unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", self.err));
        document["error"].clone()
    }

    /// The run, if it ended well.
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The program in a directory, with nothing of the environment but what the system needs.
fn program(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peat-blobctl"));
    command.args(arguments).current_dir(directory).env_clear().env("HOME", directory).env("PEAT_BLOBD_DATA_DIR", "nowhere");
    command
}

fn ctl(directory: &Path, arguments: &[&str]) -> Run {
    program(directory, arguments).output().expect("the program runs").into()
}

fn ctl_with_input(directory: &Path, arguments: &[&str], input: &str) -> Run {
    let mut command = program(directory, arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    // A program that ended early has read nothing; its output says why.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends").into()
}

/// A formation with an enrolled node for each name, each in a data directory of that name.
fn formation(directory: &Path, names: &[&str]) {
    ctl(directory, &["keygen", "formation"]).ok();
    for name in names {
        let role = format!("role={name}");
        ctl(directory, &["enroll", "--formation", "formation", "--name", name, "--data", name, "--label", &role]).ok();
    }
}
