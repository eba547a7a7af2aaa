//! Processes of their own: this program again, spoken with in lines.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Outcome, idle, pair, streams};

/// Runs what a parent asked for with `--child NAME ARGUMENT...`.
///
/// # Errors
/// What went wrong, for the parent's standard error.
pub fn run(arguments: &[String]) -> Outcome<()> {
    let (name, arguments) = arguments.split_first().ok_or("a child wants a name")?;
    match name.as_str() {
        "tcp" => streams::tcp_child(),
        "quic" => streams::quic_child(),
        "receiver" => pair::child(arguments),
        "idle" => idle::child(arguments),
        other => Err(format!("no child {other:?}").into()),
    }
}

/// A child that runs. Killed when it is dropped, unless it has ended.
pub(crate) struct Running {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a child.
    pub(crate) fn start(name: &str, arguments: &[String]) -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--child", name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let output = process.stdout.take().ok_or("the child has no standard output")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// What the child says next.
    pub(crate) fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("the child has ended early".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// The numbers that the child says next.
    pub(crate) fn numbers<const N: usize>(&mut self) -> Outcome<[f64; N]> {
        let line = self.line()?;
        let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        numbers.try_into().map_err(|_| format!("the child says {line:?}").into())
    }

    /// Tells the child that it is time for its next step.
    pub(crate) fn go(&mut self) -> Outcome<()> {
        let input = self.input.as_mut().ok_or("the child has no standard input")?;
        Ok(input.write_all(b"go\n")?)
    }

    /// Waits until the child has ended.
    pub(crate) fn end(mut self) -> Outcome<()> {
        self.input = None;
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the child ended with {status}").into()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is what this asks for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says something to the parent.
pub(crate) fn say(line: &str) -> Outcome<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

/// Waits for the parent; false when it has nothing more to ask.
pub(crate) fn wait() -> Outcome<bool> {
    Ok(std::io::stdin().read_line(&mut String::new())? > 0)
}
