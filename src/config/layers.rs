//! Lays file and environment over the defaults, and reads the result so that one wrong value does not hide the next.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::{Table, Value};

/// Tables whose entries are named by the operator: a file that has them means just those.
const WHOLE: [&str; 2] = ["providers", "models"];
const PREFIX: &str = "EASEL__";

/// Defaults ← file ← environment.
pub(super) fn merge(
    defaults: &str,
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) -> Table {
    // The defaults are compiled in and parsed by a test.
    let mut document: Table = toml::from_str(defaults).unwrap_or_default();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|e| e.to_string());
        match text.and_then(|text| toml::from_str::<Table>(&text).map_err(|e| placed(&e, &text))) {
            Ok(own) => {
                for name in WHOLE {
                    if own.contains_key(name) {
                        document.remove(name);
                    }
                }
                lay(&mut document, own);
            }
            Err(problem) => problems.push(format!("{}: {}", path.display(), problem.trim_end())),
        }
    }
    for (name, text) in environment {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        set(&mut document, &path, text);
    }
    document
}

/// Where a text is no TOML, and why. Its own words would show the line, which may hold a secret.
fn placed(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message())
}

fn lay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            // A secret's table is a value, not a section.
            (Some(Value::Table(old)), Value::Table(new)) if !is_secret(old) => lay(old, new),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

fn is_secret(table: &Table) -> bool {
    table.len() == 1 && (table.contains_key("env") || table.contains_key("file"))
}

/// Sets one value from the environment. Where the value below is a text or a secret the text is taken as it is; elsewhere it
/// is read as TOML, and as a text when it is none.
fn set(table: &mut Table, path: &[String], text: &str) {
    match path {
        [] => {}
        [key] => {
            let as_text = match table.get(key) {
                Some(Value::String(_)) => true,
                Some(Value::Table(old)) => is_secret(old),
                _ => key.ends_with("key") || key.ends_with("url"),
            };
            let parsed =
                toml::from_str::<Table>(&format!("v = {text}")).ok().and_then(|mut one| one.remove("v"));
            let value = parsed.filter(|_| !as_text).unwrap_or_else(|| Value::String(text.to_owned()));
            table.insert(key.clone(), value);
        }
        [section, rest @ ..] => {
            let below = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(below) = below {
                set(below, rest, text);
            }
        }
    }
}

/// Reads the document. A wrong value is noted and its default put in its place, so that the reading goes on; keys nobody
/// knows are noted too.
pub(super) fn read<T: DeserializeOwned>(
    mut document: Table,
    defaults: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    let defaults: Table = toml::from_str(defaults).unwrap_or_default();
    for _ in 0..100 {
        let mut unknown = Vec::new();
        let mut note = |path: serde_ignored::Path<'_>| unknown.push(format!("{path}: unknown key"));
        let reader = serde_ignored::Deserializer::new(document.clone(), &mut note);
        match serde_path_to_error::deserialize(reader) {
            Ok(read) => {
                problems.extend(unknown);
                return Some(read);
            }
            Err(error) => {
                let path: Vec<String> = error.path().iter().map(segment).collect();
                let text = error.inner().to_string();
                problems.push(format!("{}: {}", path.join("."), text.lines().next().unwrap_or_default()));
                if !mend(&mut document, &defaults, &path) {
                    return None;
                }
            }
        }
    }
    None
}

fn segment(segment: &Segment) -> String {
    segment.to_string().trim_matches(['[', ']']).to_owned()
}

/// Puts the default in the place of a wrong value, or takes the value out. Whether anything changed.
fn mend(document: &mut Table, defaults: &Table, path: &[String]) -> bool {
    let Some((last, sections)) = path.split_last() else { return false };
    let mut below = document;
    let mut default = Some(defaults);
    for section in sections {
        default = default.and_then(|table| table.get(section)?.as_table());
        // Inside a list: the list goes as a whole.
        if !below.get(section).is_some_and(Value::is_table) {
            return below.remove(section).is_some();
        }
        match below.get_mut(section) {
            Some(Value::Table(table)) => below = table,
            _ => return false,
        }
    }
    let before = below.remove(last);
    let default = default.and_then(|table| table.get(last)).filter(|value| before.as_ref() != Some(value));
    match (default, before) {
        (Some(value), _) => {
            below.insert(last.clone(), value.clone());
            true
        }
        (None, before) => before.is_some(),
    }
}
