//! The command line: a flag a setting, made from the table.

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::layers::GivenValues;
use super::settings::{Apply, SETTINGS, Setting};
use super::{ConfigError, Given, Origin, split};

/// What the command line says.
pub(super) struct Parsed {
    pub config: Option<String>,
    pub print_config: bool,
    pub given: GivenValues,
}

pub(super) fn parse(arguments: &[OsString]) -> Result<Parsed, ConfigError> {
    let mut matches = command().try_get_matches_from(arguments)?;
    let given = SETTINGS.iter().filter(|setting| !setting.secret);
    let given = given.filter_map(|setting| Some((setting.name, from_flag(setting, &mut matches)?))).collect();
    Ok(Parsed { config: matches.remove_one("config"), print_config: matches.get_flag("print-config"), given })
}

fn from_flag(setting: &Setting, matches: &mut ArgMatches) -> Option<Given> {
    let values: Vec<String> = matches.remove_many(setting.name)?.collect();
    let items = match setting.apply {
        Apply::Many(_) => values.iter().flat_map(|value| split(value)).collect(),
        _ => values,
    };
    Some(Given { origin: Origin::Flag(setting.name.to_owned()), items })
}

/// The command line as clap has it, for help, completions and pages.
#[must_use]
pub fn command() -> Command {
    let command = Command::new("peat-blobd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("The daemon of peat-blob: one node, and the API that commands it")
        .after_help("Each flag is a key of the file and a variable PEAT_BLOBD_<KEY> too; a flag wins over a variable, a variable over the file.")
        .max_term_width(120)
        .arg(Arg::new("config").long("config").value_name("PATH").help("The configuration file [default: /etc/peat-blobd/peat-blobd.toml, if it exists]"))
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Shows each setting with its value and where it comes from, and does not start"),
        );
    command.args(SETTINGS.iter().filter(|setting| !setting.secret).map(flag))
}

fn flag(setting: &Setting) -> Arg {
    let default = if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
    let flag = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.value)
        .value_parser(ValueParser::string())
        .help(format!("{}{default}", setting.help));
    match setting.apply {
        Apply::Many(_) => flag.action(ArgAction::Append),
        Apply::Switch(_) => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => flag,
    }
}
