//! The configuration file: TOML whose keys are the settings. Values become the texts that flags and variables have.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{Apply, SETTINGS, Setting};
use super::{ConfigError, Given, Origin, nearest};

/// Reads what `text`, the content of the file at `path`, says about each setting.
pub(super) fn read(path: &Path, text: &str) -> Result<Vec<(&'static Setting, Given)>, ConfigError> {
    let at = |offset: usize| {
        let line = text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
        Origin::File { path: path.to_owned(), line }
    };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        at: at(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    // In the order of the lines, so that the first mistake is told first.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries.into_iter().map(|(key, value)| entry(key.get_ref(), value, at(key.span().start))).collect()
}

fn entry(key: &str, value: &Spanned<DeValue<'_>>, at: Origin) -> Result<(&'static Setting, Given), ConfigError> {
    let Some(setting) = SETTINGS.iter().find(|setting| setting.key() == key) else {
        let keys: Vec<String> = SETTINGS.iter().map(Setting::key).collect();
        return Err(ConfigError::Unknown { at, name: key.to_owned(), nearest: nearest(key, &keys) });
    };
    let wrong = |allowed: &str| ConfigError::Value {
        at: at.clone(),
        name: setting.key(),
        value: kind(value.get_ref()).to_owned(),
        allowed: allowed.to_owned(),
    };
    let items = match (&setting.apply, value.get_ref()) {
        (Apply::Many(_), DeValue::Array(items)) => {
            items.iter().map(|item| scalar(item.get_ref())).collect::<Option<_>>().ok_or_else(|| wrong("texts"))?
        }
        (Apply::Many(_), DeValue::Table(pairs)) if setting.value.contains('=') => {
            let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                Some(format!("{}={}", key.get_ref(), scalar(value.get_ref())?))
            };
            pairs.iter().map(pair).collect::<Option<_>>().ok_or_else(|| wrong("a table of texts"))?
        }
        (Apply::Many(_), value) => super::split(&scalar(value).ok_or_else(|| wrong("texts"))?),
        (_, value) => vec![scalar(value).ok_or_else(|| wrong("one value"))?],
    };
    Ok((setting, Given { origin: at, items }))
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string()),
        DeValue::Boolean(on) => Some(on.to_string()),
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array of these",
        DeValue::Table(_) => "a table",
    }
}
