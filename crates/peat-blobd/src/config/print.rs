//! The configuration as it is in force, each value with its origin, in the form of the configuration file.

use std::fmt::Write;

use super::settings::{Apply, SETTINGS, Setting};
use super::{Loaded, Origin};

impl Loaded {
    /// Every setting, one a line. Read as a configuration file it says the same again, apart from secrets, which are hidden.
    #[must_use]
    pub fn print(&self) -> String {
        let lines: Vec<(String, String)> = SETTINGS.iter().map(|setting| self.line(setting)).collect();
        let width = lines.iter().map(|(value, _)| value.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
        lines.iter().fold(String::new(), |mut text, (value, origin)| {
            writeln!(text, "{value:width$}  # {origin}").expect("writing to memory cannot fail");
            text
        })
    }

    /// A setting with its value, and where that comes from.
    fn line(&self, setting: &Setting) -> (String, String) {
        let key = setting.key();
        let Some(given) = self.given.get(setting.name) else {
            let default = setting.default.replace("{data-dir}", &self.config.data_dir.to_string_lossy());
            let line = match default.as_str() {
                "" => format!("# {key} ="),
                default => format!("{key} = {}", value(setting, &[default.to_owned()])),
            };
            return (line, Origin::Default.to_string());
        };
        let line = match setting.secret {
            true => format!("# {key} = (hidden)"),
            false => format!("{key} = {}", value(setting, &given.items)),
        };
        (line, given.origin.to_string())
    }
}

/// The value as TOML.
fn value(setting: &Setting, items: &[String]) -> String {
    match setting.apply {
        Apply::Many(_) => format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")),
        _ => items.iter().map(|item| scalar(item)).collect(),
    }
}

fn scalar(text: &str) -> String {
    let is_number = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    if is_number || ["true", "false"].contains(&text) { text.to_owned() } else { quoted(text) }
}

/// A basic string (TOML 1.1, "String").
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => write!(quoted, "\\u{:04X}", u32::from(c)).expect("writing to memory cannot fail"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
