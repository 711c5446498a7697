//! JSON in which an object is given by its fields' names and by nothing else. serde would also read `["a cat"]` as a request,
//! field by field in the order in which a type happens to declare them.

use serde::Deserializer;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A document, or a part of one.
pub(super) struct Named(pub Value);

impl IntoDeserializer<'_, Error> for Named {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Named {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(fields) => {
                let mut fields =
                    MapDeserializer::new(fields.into_iter().map(|(name, value)| (name, Self(value))));
                let read = visitor.visit_map(&mut fields)?;
                fields.end().map(|()| read)
            }
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.into_iter().map(Self));
                let read = visitor.visit_seq(&mut items)?;
                items.end().map(|()| read)
            }
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.0.is_array() {
            return Err(Error::invalid_type(Unexpected::Seq, &"an object"));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        inner: Option<Inner>,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        more: BTreeMap<String, Value>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        of: Kind,
        share: Option<f32>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        One,
        Other,
    }

    fn read(value: Value) -> Result<Outer, String> {
        serde_path_to_error::deserialize(Named(value)).map_err(|error| error.path().to_string())
    }

    #[test]
    fn an_object_is_read_by_name_and_a_list_is_none() {
        let whole = json!({"name": "a", "inner": {"of": "one", "share": 1}, "list": [{"of": "other"}], "more": {"x": [1, {}]}});
        let found = read(whole).unwrap();
        assert_eq!(found.inner, Some(Inner { of: Kind::One, share: Some(1.0) }));
        assert_eq!(found.list, [Inner { of: Kind::Other, share: None }]);
        assert_eq!(found.more["x"], json!([1, {}]));
        assert_eq!(read(json!(["a", null])), Err(".".to_owned()));
        assert_eq!(read(json!({"name": "a", "inner": ["one", 1]})), Err("inner".to_owned()));
        assert_eq!(read(json!({"name": "a", "list": [["one", 1]]})), Err("list[0]".to_owned()));
        assert_eq!(read(json!({"name": "a", "inner": {"of": "none"}})), Err("inner.of".to_owned()));
    }
}
