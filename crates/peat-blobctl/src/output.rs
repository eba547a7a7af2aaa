//! What a verb says, as a person or a program wants it. One place writes to the standard streams; nothing else prints.
//!
//! A pipe that is closed early silences the output and nothing more: the exit code still tells what became of the work.

use std::cell::Cell;
use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::failure::Failure;

/// How results and errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Mode {
    /// For people.
    #[default]
    Human,
    /// One JSON document; what goes on as it happens is a line each.
    Json,
    /// One JSON document a line: an item of a list, a result, or an event.
    Jsonl,
}

/// Where a verb writes.
pub(crate) struct Output {
    mode: Mode,
    closed: Cell<bool>,
}

impl Output {
    pub(crate) const fn new(mode: Mode) -> Self {
        Self { mode, closed: Cell::new(false) }
    }

    /// Whether nobody reads the output any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether a person sits in front of it: bars are drawn then.
    pub(crate) fn is_interactive(&self) -> bool {
        self.mode == Mode::Human && io::stderr().is_terminal()
    }

    /// The width of the terminal on which a person reads the results; nothing where none does.
    pub(crate) fn width(&self) -> Option<usize> {
        let (terminal_size::Width(width), _) = terminal_size::terminal_size_of(io::stdout()).filter(|_| self.is_human())?;
        Some(usize::from(width))
    }

    /// Whether it is for a person.
    pub(crate) fn is_human(&self) -> bool {
        self.mode == Mode::Human
    }

    /// A result: text for people (without the last line's end), or a document.
    pub(crate) fn result(&self, document: &Value, human: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.mode {
            Mode::Human => self.text(&human()),
            Mode::Json => self.text(&format!("{document:#}")),
            Mode::Jsonl => self.text(&document.to_string()),
        }
    }

    /// A list: text for people, a document that has it under `name`, or an item a line.
    pub(crate) fn list(&self, name: &str, items: &[Value], human: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.mode {
            Mode::Human => self.text(&human()),
            Mode::Json => self.text(&format!("{:#}", json!({ name: items }))),
            Mode::Jsonl => items.iter().try_for_each(|item| self.text(&item.to_string())),
        }
    }

    /// Something that has just happened: a line in every mode.
    pub(crate) fn event(&self, document: &Value, human: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.mode {
            Mode::Human => self.text(&human()),
            Mode::Json | Mode::Jsonl => self.text(&document.to_string()),
        }
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        if self.closed.get() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.set(true);
                Ok(())
            }
            written => written.map_err(Failure::io("cannot write the output")),
        }
    }

    fn text(&self, text: &str) -> Result<(), Failure> {
        if text.is_empty() { Ok(()) } else { self.bytes(format!("{text}\n").as_bytes()) }
    }

    /// Something beside the result that a person should know; programs have it in the document.
    pub(crate) fn note(&self, text: &str) {
        if self.mode == Mode::Human {
            complain(text);
        }
    }

    /// Why the verb failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Failure { kind, message, hint } = failure;
        if self.mode == Mode::Human {
            let hint = hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            return complain(&format!("error: {message}{hint}"));
        }
        let error = json!({ "kind": kind.as_str(), "message": message, "hint": hint, "exit_code": kind.exit_code() });
        complain(&json!({ "error": error }).to_string());
    }
}

/// Writes to standard error; if nobody reads that either, there is nobody left to tell.
fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The mode that a command line asks for which cannot be read otherwise.
pub(crate) fn mode_of_arguments(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Mode {
    let mut mode = Mode::default();
    let mut arguments = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        let value = if argument == "--output" { arguments.next() } else { argument.strip_prefix("--output=").map(str::to_owned) };
        if let Some(asked) = value.and_then(|value| Mode::from_str(&value, false).ok()) {
            mode = asked;
        }
    }
    mode
}
