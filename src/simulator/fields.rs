//! Reading a JSON object field by field, and saying what is wrong with it; each upstream words the
//! complaint in its own dialect.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// Why a field is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Missing,
    Unknown,
    Type,
    Value,
}

/// A field that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub field: String,
    pub kind: Kind,
    pub message: String,
}

impl Wrong {
    /// A complaint about a value.
    pub fn value(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), kind: Kind::Value, message: message.into() }
    }

    fn kind(field: &str, kind: Kind, message: &str) -> Self {
        Self { field: field.to_owned(), kind, message: message.to_owned() }
    }
}

/// The fields of an object.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// Of this value, if it is an object.
    pub fn of(value: &'a Value, name: &str) -> Result<Self, Wrong> {
        value.as_object().map(Self).ok_or_else(|| Wrong::kind(name, Kind::Type, "must be an object"))
    }

    /// Of this map.
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self(map)
    }

    /// Refuses any field but these.
    pub fn only(self, known: &[&str]) -> Result<(), Wrong> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Wrong::kind(key, Kind::Unknown, "unknown field")),
            None => Ok(()),
        }
    }

    /// Whether the field is there.
    pub fn has(self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The field, if it is there.
    pub fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name)
    }

    fn typed<T>(
        self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| Wrong::kind(name, Kind::Type, expected))
    }

    /// A string.
    pub fn text(self, name: &str) -> Result<Option<&'a str>, Wrong> {
        self.typed(name, "must be a string", Value::as_str)
    }

    /// A string that must be there and say something.
    pub fn needed(self, name: &str) -> Result<&'a str, Wrong> {
        match self.text(name)? {
            Some(text) if !text.trim().is_empty() => Ok(text),
            _ => Err(Wrong::kind(name, Kind::Missing, "is required")),
        }
    }

    /// One of these words.
    pub fn word(self, name: &str, known: &[&str]) -> Result<Option<&'a str>, Wrong> {
        let word = self.text(name)?;
        match word.filter(|word| !known.contains(word)) {
            Some(_) => Err(Wrong::value(name, format!("must be one of {}", known.join(", ")))),
            None => Ok(word),
        }
    }

    /// A whole number in this range.
    pub fn integer(self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Wrong> {
        let number = self.typed(name, "must be an integer", Value::as_i64)?;
        match number.filter(|number| !range.contains(number)) {
            Some(_) => {
                let (low, high) = range.into_inner();
                Err(Wrong::value(name, format!("must be between {low} and {high}")))
            }
            None => Ok(number),
        }
    }

    /// A number that passes this test.
    pub fn number(self, name: &str, legal: impl Fn(f64) -> bool, rule: &str) -> Result<Option<f64>, Wrong> {
        let number = self.typed(name, "must be a number", Value::as_f64)?;
        match number.filter(|number| !legal(*number)) {
            Some(_) => Err(Wrong::value(name, rule)),
            None => Ok(number),
        }
    }

    /// A boolean.
    pub fn flag(self, name: &str) -> Result<Option<bool>, Wrong> {
        self.typed(name, "must be a boolean", Value::as_bool)
    }

    /// An array, empty when absent.
    pub fn list(self, name: &str) -> Result<&'a [Value], Wrong> {
        let list = self.typed(name, "must be an array", Value::as_array)?;
        Ok(list.map_or(&[], Vec::as_slice))
    }
}
