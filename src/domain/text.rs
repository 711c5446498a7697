//! Types whose JSON is one string: their `Display` and `FromStr` are their wire form, and their schema says so.

/// Gives types with `Display` and `FromStr` their serde and `OpenAPI` forms.
macro_rules! as_text {
    ($($name:ident { $(pattern: $pattern:literal,)? $(format: $format:ident,)? example: $example:literal })*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, Type};
                let schema = ObjectBuilder::new().schema_type(Type::String).examples([$example]);
                $(let schema = schema.pattern(Some($pattern));)?
                $(let schema = schema.format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::$format)));)?
                schema.into()
            }
        }

        impl utoipa::ToSchema for $name {}
    )*};
}

pub(crate) use as_text;
