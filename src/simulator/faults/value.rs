//! Values of the vocabulary that are spelled the same way in a rule's JSON and in a prompt's directive.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Text that may be written as a number or a boolean: `retry_after=5` means the text `5`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text(pub String);

/// A list of words, one per use: `["a","b"]` in JSON, `a,b` in a directive. A closing `...` keeps the word
/// before it for ever; without it the natural answer returns when the list is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Words(pub Vec<String>);

impl Words {
    /// The word for the `n`-th use, counted from 0.
    pub fn at(&self, n: usize) -> Option<&str> {
        let (words, for_ever) = match self.0.as_slice() {
            [words @ .., dots] if dots == "..." => (words, true),
            words => (words, false),
        };
        let last = if for_ever { words.last() } else { None };
        words.get(n).or(last).map(String::as_str)
    }
}

struct AsText;

impl Visitor<'_> for AsText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number or a boolean")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<String, E> {
        Ok(truth.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsText).map(Self)
    }
}

struct AsWords;

impl<'de> Visitor<'de> for AsWords {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or words separated by commas")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
        Ok(text.split(',').map(str::to_owned).collect())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<String>, E> {
        Ok(vec![number.to_string()])
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<String>, E> {
        Ok(vec![number.to_string()])
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Vec<String>, E> {
        // As JSON would have it, `1e16` and not its digits.
        Ok(vec![format!("{number:?}")])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
        let mut words = Vec::new();
        while let Some(Text(word)) = seq.next_element()? {
            words.push(word);
        }
        Ok(words)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsWords).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_used_one_by_one_and_dots_keep_the_last() {
        let words: Words = serde_json::from_str(r#""Processing,processing\t,,quantum""#).unwrap();
        let seen: Vec<_> = (0..5).map(|n| words.at(n)).collect();
        assert_eq!(seen, [Some("Processing"), Some("processing\t"), Some(""), Some("quantum"), None]);
        let words: Words = serde_json::from_str(r#"[503, "404", "..."]"#).unwrap();
        assert_eq!((words.at(0), words.at(1), words.at(9)), (Some("503"), Some("404"), Some("404")));
    }

    #[test]
    fn text_takes_numbers_as_they_are_written() {
        let Text(text) = serde_json::from_str("-5").unwrap();
        assert_eq!(text, "-5");
    }
}
