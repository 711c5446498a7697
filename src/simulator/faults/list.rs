//! Lists of words, and how the enums of words are declared.

use std::fmt;

use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};

use super::Words;

/// Several words of one kind: `["a","b"]` in JSON, `a,b` in a directive.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct List<T>(pub Vec<T>);

impl<T: PartialEq> List<T> {
    /// Whether this word is among them.
    pub fn has(&self, word: &T) -> bool {
        self.0.contains(word)
    }
}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Words::deserialize(deserializer)?;
        let each = words.0.iter().map(|word| T::deserialize(StrDeserializer::<D::Error>::new(word.trim())));
        each.collect::<Result<_, _>>().map(Self).map_err(D::Error::custom)
    }
}

/// Declares enums whose variants are words of the vocabulary.
macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $word:ident),+ $(,)? })+) => {
        $(
            $(#[$about])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum $name { $($(#[$doc])* $word),+ }
        )+
    };
}

pub(super) use words;

#[cfg(test)]
mod tests {
    use crate::simulator::{Faults, Wrap};

    #[test]
    fn several_words_are_read_from_a_directive_and_from_a_rule() {
        let said = Faults::from_prompt("a cat [[sim: wrap=bom,gzip seat=message_images]]").unwrap().unwrap();
        let ruled: Faults =
            serde_json::from_str(r#"{"wrap": ["bom", "gzip"], "seat": "message_images"}"#).unwrap();
        assert_eq!(said, ruled);
        assert!(said.wrap.is_some_and(|wrap| wrap.has(&Wrap::Gzip) && !wrap.has(&Wrap::Br)));
        assert!(Faults::from_prompt("[[sim: wrap=bom,bomb]]").is_err());
    }
}
