//! Where values come from: flags, then `PEAT_BLOBD_*`, then the variables of peat-node, then the file, then defaults. Reads the
//! files that are named, and nothing of the process: arguments and environment come in as values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::settings::{self, Apply, SETTINGS, Setting, WITHOUT_EFFECT};
use super::{Config, ConfigError, ValueError, command, file, parse, rules};

/// Where the file is if nothing says otherwise; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/peat-blobd/peat-blobd.toml";
const PREFIX: &str = "PEAT_BLOBD_";
const PRINT_CONFIG: [&str; 2] = ["PEAT_BLOBD_PRINT_CONFIG", "PEAT_NODE_PRINT_CONFIG"];
const CONFIG: &str = "PEAT_BLOBD_CONFIG";

/// What a configuration is read from. It is read again at each reload. It may hold secrets, so nothing shows it.
#[derive(Clone)]
pub struct Sources {
    /// The command line, the program's name first.
    pub arguments: Vec<OsString>,
    /// The environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// The file that is read if it exists and no other is named.
    pub default_file: PathBuf,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a flag.
    Flag(String),
    /// In an environment variable.
    Variable(String),
    /// In the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
    },
    /// Nowhere: it is the default.
    Default,
}

impl Origin {
    /// The greater wins.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Variable(name) if !name.starts_with(PREFIX) => 2,
            Self::Variable(_) => 3,
            Self::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value as its origin has it. It may be a secret, so nothing shows it.
#[derive(Clone)]
pub(super) struct Given {
    pub origin: Origin,
    pub items: Vec<String>,
}

/// What the sources say, by the names of settings.
pub(super) type GivenValues = BTreeMap<&'static str, Given>;

/// What the sources came to.
#[derive(Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What the user should know, though nothing is wrong.
    pub warnings: Vec<String>,
    /// Whether the configuration is to be shown, and the daemon not to be started.
    pub print_config: bool,
    pub(super) given: GivenValues,
}

impl Sources {
    /// Reads everything and holds it together.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let command = command::parse(&self.arguments)?;
        let environment = self.texts()?;
        let mut warnings = check_names(&environment)?;
        let mut given = match self.file(command.config.as_deref(), &environment) {
            None => GivenValues::new(),
            Some((at, path)) => {
                let text = std::fs::read_to_string(&path);
                let text = text.map_err(|source| ConfigError::Unreadable { at, path: path.clone(), source })?;
                file::read(&path, &text)?.into_iter().map(|(setting, given)| (setting.name, given)).collect()
            }
        };
        for setting in SETTINGS {
            let compat = setting.compat.map(str::to_owned);
            let named = compat.into_iter().chain([setting.variable()]).filter_map(|name| Some((environment.get(&name)?, name)));
            for (text, name) in named {
                let items = if matches!(setting.apply, Apply::Many(_)) { split(text) } else { vec![text.clone()] };
                given.insert(setting.name, Given { origin: Origin::Variable(name), items });
            }
        }
        given.extend(command.given);
        let print_config = command.print_config || is_on(&environment, &PRINT_CONFIG)?;
        let config = build(&mut given, &mut warnings)?;
        Ok(Loaded { config, warnings, print_config, given })
    }

    /// The variables that concern this program and are not empty.
    fn texts(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let ours = self.environment.iter().filter_map(|(name, value)| Some((name.to_str()?, value)));
        let ours = ours.filter(|(name, value)| is_ours(name) && !value.is_empty());
        ours.map(|(name, value)| {
            let text = value.to_str().ok_or_else(|| ConfigError::NotText(Origin::Variable(name.to_owned())))?;
            Ok((name.to_owned(), text.to_owned()))
        })
        .collect()
    }

    /// The configuration file and what names it.
    fn file(&self, flag: Option<&str>, environment: &BTreeMap<String, String>) -> Option<(Origin, PathBuf)> {
        let flag = flag.map(|path| (Origin::Flag("config".to_owned()), path.into()));
        let variable = || environment.get(CONFIG).map(|path| (Origin::Variable(CONFIG.to_owned()), path.into()));
        let default = || self.default_file.exists().then(|| (Origin::Default, self.default_file.clone()));
        flag.or_else(variable).or_else(default)
    }
}

impl Loaded {
    /// What is in force after a reload that found `new`: the settings that a reload can change as they are there, the others as
    /// they are here, with a warning for each that differs.
    ///
    /// # Errors
    /// [`ConfigError`] when the two do not go together.
    pub fn reloaded(&self, new: Self) -> Result<Self, ConfigError> {
        let mut given = GivenValues::new();
        let mut warnings = Vec::new();
        for setting in SETTINGS {
            let (old, new) = (self.given.get(setting.name), new.given.get(setting.name));
            if !setting.reload && old.map(|given| &given.items) != new.map(|given| &given.items) {
                warnings.push(format!("{} has changed and takes effect at the next start", setting.key()));
            }
            if let Some(chosen) = if setting.reload { new } else { old } {
                given.insert(setting.name, chosen.clone());
            }
        }
        let config = build(&mut given, &mut warnings)?;
        if config.door() != self.config.door() {
            return Err(ConfigError::Door);
        }
        Ok(Self { config, warnings, print_config: false, given })
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

impl Config {
    /// Sets one setting from its texts, as a file or flags would.
    pub(super) fn apply(&mut self, setting: &Setting, given: &Given) -> Result<(), ConfigError> {
        let first = given.items.first().map_or("", String::as_str);
        let applied = match setting.apply {
            Apply::Switch(set) => parse::switch(first).map(|on| set(self, on)),
            Apply::One(set) => set(self, first),
            Apply::Many(set) => set(self, &given.items),
            Apply::File(set) => {
                let path = PathBuf::from(first);
                match parse::read_secret(&path) {
                    Ok(text) => set(self, &text).map_err(|ValueError(allowed)| ValueError(format!("a file with {allowed}"))),
                    Err(source) => return Err(ConfigError::Unreadable { at: given.origin.clone(), path, source }),
                }
            }
        };
        applied.map_err(|ValueError(allowed)| {
            let value = if setting.secret { "the value given".to_owned() } else { format!("{:?}", given.items.join(",")) };
            ConfigError::Value { at: given.origin.clone(), name: setting.key(), value, allowed }
        })
    }
}

/// Makes a configuration of what is given.
fn build(given: &mut GivenValues, warnings: &mut Vec<String>) -> Result<Config, ConfigError> {
    rules::settle_twins(given)?;
    let data_dir = settings::named("data-dir");
    let mut config = Config::new(data_dir.default);
    if let Some(given) = given.get(data_dir.name) {
        config.apply(data_dir, given)?;
        config = Config::new(config.data_dir);
    }
    for setting in SETTINGS {
        if let Some(given) = given.get(setting.name) {
            config.apply(setting, given)?;
        }
    }
    rules::check(&mut config, given, warnings)?;
    Ok(config)
}

/// Refuses variables with our prefix that nothing reads, and tells of those of peat-node that nothing reads.
fn check_names(environment: &BTreeMap<String, String>) -> Result<Vec<String>, ConfigError> {
    let settings = SETTINGS.iter().flat_map(|setting| setting.compat.map(str::to_owned).into_iter().chain([setting.variable()]));
    let others = PRINT_CONFIG.into_iter().chain([CONFIG]).chain(WITHOUT_EFFECT.iter().map(|(name, _)| *name));
    let known: Vec<String> = settings.chain(others.map(str::to_owned)).collect();
    let mut warnings = Vec::new();
    for name in environment.keys().filter(|name| !known.contains(name)) {
        if let Some(key) = name.strip_prefix(PREFIX).filter(|key| !is_of_kubernetes(key)) {
            let keys: Vec<String> = known.iter().filter_map(|name| name.strip_prefix(PREFIX)).map(str::to_owned).collect();
            let nearest = nearest(key, &keys).map(|key| format!("{PREFIX}{key}"));
            return Err(ConfigError::Unknown { at: Origin::Variable(name.clone()), name: "it".to_owned(), nearest });
        }
        warnings.push(format!("{name} is not known and has no effect"));
    }
    Ok(warnings)
}

/// Whether Kubernetes makes such a variable for a service that has this program's name.
fn is_of_kubernetes(key: &str) -> bool {
    key.starts_with("SERVICE_") || key == "PORT" || key.starts_with("PORT_")
}

fn is_on(environment: &BTreeMap<String, String>, names: &[&str]) -> Result<bool, ConfigError> {
    let Some((name, text)) = names.iter().find_map(|name| Some((*name, environment.get(*name)?))) else { return Ok(false) };
    parse::switch(text).map_err(|ValueError(allowed)| ConfigError::Value {
        at: Origin::Variable(name.to_owned()),
        name: "it".to_owned(),
        value: format!("{text:?}"),
        allowed,
    })
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name.starts_with("PEAT_NODE_")
}

/// The items of a list that was written as one text.
pub(super) fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// The name that takes the fewest edits to become, if these are few enough for it to have been meant.
pub(super) fn nearest(name: &str, known: &[String]) -> Option<String> {
    let (edits, nearest) = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), known)).min()?;
    (edits <= 1 + nearest.len() / 4).then(|| nearest.clone())
}
