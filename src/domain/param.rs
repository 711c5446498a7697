//! One parameter of a request as data: its [`ParamName`], and the [`Param`] descriptor a route gives for it.
//! The same descriptors refuse and adjust requests, document `GET /models`, and draw forms.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request::{Background, GenerateRequest, Operation, Quality};
use super::size::Size;
use super::validate::{FieldCode, FieldError};

/// The parameters of a request that a route may or may not honour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields of GenerateRequest, documented there")]
pub enum ParamName {
    NegativePrompt,
    Images,
    Mask,
    Size,
    N,
    Seed,
    Steps,
    GuidanceScale,
    Strength,
    Quality,
    Background,
    Loras,
    Controls,
    Outpaint,
}

impl ParamName {
    /// All of them, in the order they are checked and reported.
    pub const ALL: [Self; 14] = [
        Self::NegativePrompt,
        Self::Images,
        Self::Mask,
        Self::Size,
        Self::N,
        Self::Seed,
        Self::Steps,
        Self::GuidanceScale,
        Self::Strength,
        Self::Quality,
        Self::Background,
        Self::Loras,
        Self::Controls,
        Self::Outpaint,
    ];

    /// JSON pointer to the parameter in a request.
    pub const fn pointer(self) -> &'static str {
        match self {
            Self::NegativePrompt => "/negative_prompt",
            Self::Images => "/images",
            Self::Mask => "/mask",
            Self::Size => "/size",
            Self::N => "/n",
            Self::Seed => "/seed",
            Self::Steps => "/steps",
            Self::GuidanceScale => "/guidance_scale",
            Self::Strength => "/strength",
            Self::Quality => "/quality",
            Self::Background => "/background",
            Self::Loras => "/loras",
            Self::Controls => "/controls",
            Self::Outpaint => "/outpaint",
        }
    }

    /// Whether leaving the parameter out would make another picture than the one asked for: then a route that does not
    /// know it is refused; otherwise the parameter is dropped and the drop reported.
    pub const fn essential(self) -> bool {
        matches!(self, Self::Images | Self::Mask | Self::Loras | Self::Controls | Self::Outpaint)
    }

    /// The parameter's value, when the request gives one.
    pub fn value(self, request: &GenerateRequest) -> Option<Value> {
        let count = |length: usize| (length > 0).then(|| json!(length));
        match self {
            Self::NegativePrompt => request.negative_prompt.as_ref().map(|text| json!(text)),
            Self::Images => count(request.images.len()),
            Self::Mask => count(usize::from(request.mask.is_some())),
            Self::Size => request.size.map(|size| json!(size)),
            Self::N => request.n.map(|n| json!(n)),
            Self::Seed => request.seed.map(|seed| json!(seed)),
            Self::Steps => request.steps.map(|steps| json!(steps)),
            Self::GuidanceScale => request.guidance_scale.map(|scale| json!(scale)),
            Self::Strength => request.strength.map(|strength| json!(strength)),
            Self::Quality => request.quality.map(|quality: Quality| json!(quality)),
            Self::Background => request.background.map(|background: Background| json!(background)),
            Self::Loras => count(request.loras.len()),
            Self::Controls => count(request.controls.len()),
            Self::Outpaint => request.outpaint.map(|sides| json!(sides)),
        }
    }

    /// Takes the parameter out of the request. Essential ones stay: they are never dropped.
    pub fn clear(self, request: &mut GenerateRequest) {
        match self {
            Self::NegativePrompt => request.negative_prompt = None,
            Self::Size => request.size = None,
            Self::N => request.n = None,
            Self::Seed => request.seed = None,
            Self::Steps => request.steps = None,
            Self::GuidanceScale => request.guidance_scale = None,
            Self::Strength => request.strength = None,
            Self::Quality => request.quality = None,
            Self::Background => request.background = None,
            Self::Images | Self::Mask | Self::Loras | Self::Controls | Self::Outpaint => {}
        }
    }
}

/// What a route says about one parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Param {
    /// Its type and range.
    #[serde(flatten)]
    pub rule: Rule,
    /// Whether a request without it is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The provider has no such parameter: it is written into the prompt, and reported as such.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_prompt: bool,
    /// What the provider takes when it is absent, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Of an option: the only kinds of work that have it; absent for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A parameter's type with its range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Rule {
    /// Free text.
    Text {
        /// Characters at most.
        max_length: usize,
    },
    /// A name of letters, digits, `.`, `_` and `-`.
    Identifier {
        /// Characters at most.
        max_length: usize,
    },
    /// A whole number.
    Integer {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// A number.
    Number {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
        /// Whether `min` itself is out of range.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        exclusive_min: bool,
    },
    /// True or false.
    Boolean,
    /// One of some words.
    Choice {
        /// The words.
        values: Vec<String>,
    },
    /// Width and height.
    Size(SizeRule),
    /// Input images.
    Images {
        /// How many at least.
        min: usize,
        /// How many at most.
        max: usize,
        /// How the provider takes them, the preferred way first.
        carriers: Vec<Carrier>,
    },
    /// Named adapters or controls.
    Names {
        /// How many at least.
        min: usize,
        /// How many at most.
        max: usize,
        /// How the provider takes the images that go with them.
        carriers: Vec<Carrier>,
        /// Names known to work; others are passed on with a warning, since providers change their lists unannounced.
        known: Vec<String>,
    },
    /// Pixels added on each side.
    Outpaint {
        /// Added pixels in all must be fewer than this.
        max_added_pixels: u64,
    },
}

/// Which sizes are legal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SizeRule {
    /// Width times height at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pixels: Option<u64>,
    /// Either side at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_side: Option<u32>,
    /// Both sides are multiples of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiple_of: Option<u32>,
    /// The longer side at most this many times the shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ratio: Option<u32>,
    /// Only these; the nearest in shape is taken and reported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<Size>,
}

/// How an input image travels to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// The provider fetches an address.
    Url,
    /// A `data:` URI in the request's JSON.
    DataUri,
    /// A part of a multipart form.
    Multipart,
    /// Painted white into the first image by the gateway.
    Painted,
}

impl Rule {
    /// Why `value` breaks the rule, if it does. Sizes and counts above a maximum are `fit.rs`'s to adjust.
    pub fn fault(&self, pointer: &str, value: &Value) -> Option<FieldError> {
        let out_of_range = |text: String| Some(FieldError::new(pointer, FieldCode::OutOfRange, text));
        let wrong = |text: String| Some(FieldError::new(pointer, FieldCode::InvalidValue, text));
        match self {
            Self::Text { max_length } => match value.as_str() {
                None => wrong("must be a text".into()),
                Some(text) if text.chars().count() > *max_length => Some(FieldError::new(
                    pointer,
                    FieldCode::TooLong,
                    format!("at most {max_length} characters"),
                )),
                Some(_) => None,
            },
            Self::Identifier { max_length } => {
                let legal = |text: &str| {
                    (1..=*max_length).contains(&text.len())
                        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                };
                let message = || format!("must be 1 to {max_length} letters, digits, '.', '_' or '-'");
                if value.as_str().is_some_and(legal) { None } else { wrong(message()) }
            }
            Self::Integer { min, max } => match value.as_i64() {
                None => wrong("must be a whole number".into()),
                Some(number) if !(*min..=*max).contains(&number) => {
                    out_of_range(format!("must be from {min} to {max}"))
                }
                Some(_) => None,
            },
            Self::Number { min, max, exclusive_min } => match value.as_f64() {
                None => wrong("must be a number".into()),
                Some(number) if number > *max || number < *min || (*exclusive_min && number <= *min) => {
                    let above = if *exclusive_min { "above" } else { "at least" };
                    out_of_range(format!("must be {above} {min} and at most {max}"))
                }
                Some(_) => None,
            },
            Self::Boolean if !value.is_boolean() => wrong("must be true or false".into()),
            Self::Choice { values }
                if !value.as_str().is_some_and(|word| values.iter().any(|known| known == word)) =>
            {
                wrong(format!("must be one of {}", values.join(", ")))
            }
            Self::Images { min, max, .. } | Self::Names { min, max, .. } => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
                let message =
                    if min == max { format!("exactly {min}") } else { format!("from {min} to {max}") };
                if (*min..=*max).contains(&count) { None } else { out_of_range(format!("takes {message}")) }
            }
            Self::Boolean | Self::Choice { .. } | Self::Size(_) | Self::Outpaint { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_refuses_what_it_must_and_accepts_its_bounds() {
        let rule = |text: &str| toml::from_str::<Param>(text).unwrap().rule;
        let cases = [
            ("type='integer'\nmin=1\nmax=4", json!(1), json!(5)),
            ("type='number'\nmin=1.5\nmax=5", json!(1.5), json!(1.4)),
            ("type='number'\nmin=0\nmax=1\nexclusive_min=true", json!(1), json!(0)),
            ("type='boolean'", json!(true), json!("true")),
            ("type='choice'\nvalues=['a','b']", json!("b"), json!("c")),
            ("type='text'\nmax_length=2", json!("éé"), json!("ééé")),
            ("type='identifier'\nmax_length=9", json!("server-1"), json!("http://x")),
            ("type='images'\nmin=1\nmax=1\ncarriers=['url']", json!(1), json!(2)),
        ];
        for (text, good, bad) in cases {
            assert_eq!(rule(text).fault("/x", &good), None, "{text}");
            assert!(rule(text).fault("/x", &bad).is_some_and(|fault| fault.pointer == "/x"), "{text}");
        }
    }
}
