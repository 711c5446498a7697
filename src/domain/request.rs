//! What a caller asks for: [`GenerateRequest`], the body of `POST /generate`. Types and their documentation only;
//! `validate.rs` says which values are legal for anybody, `catalog.rs` and `fit.rs` what a route can honour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::id::FileId;
use super::image::MediaType;
use super::money::Usd;
use super::retention::Retention;
use super::secret::sha256_hex;
use super::size::{AspectRatio, Size};
use super::webhook::WebhookTarget;

/// One request for pictures, in provider-neutral words. Only `prompt` is required.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"prompt": "a little cat", "model": "flux-schnell", "size": "1024x1024"}))]
pub struct GenerateRequest {
    /// What to draw, or how to change the images: 1 to 32,000 characters.
    pub prompt: String,
    /// A model of `GET /models`, an operator's alias, a pinned route (`piapi_flux/Qubico/flux1-dev`), or `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What kind of work this is; derived from the other fields when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// What to keep out of the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Input images, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageInput>,
    /// Where to paint for an inpaint: white is painted anew, black is kept. As large as the first image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<ImageInput>,
    /// Width and height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Without `size`, the largest legal size of this shape is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aspect_ratio: Option<AspectRatio>,
    /// How many pictures, 1 to 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10)]
    pub n: Option<u32>,
    /// The same seed draws the same picture where a route supports it; -1 is random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Denoising steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// How closely to follow the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// How far an input image may be changed: above 0, at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Quality grade, where a model has grades.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Background of the picture, where a model can choose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// Style adapters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<Lora>,
    /// Images that steer the composition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<Control>,
    /// How many pixels to add on each side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpaint: Option<Outpaint>,
    /// How the pictures are handed over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Output,
    /// Which providers may serve this, in which order, at what cost.
    #[serde(default, skip_serializing_if = "is_default")]
    pub routing: Routing,
    /// Options only one provider knows, by provider id; allow-listed by the catalogue, 4 KiB in all. Those for a provider that
    /// the request cannot go to are reported in `adjustments`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object, example = json!({"piapi_flux": {"service_mode": "public"}}))]
    pub provider_options: BTreeMap<String, Map<String, Value>>,
    /// Refuse with 422 whatever would otherwise be adjusted and reported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Seconds within which a provider must have been asked; after that the task fails unbilled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub start_within_s: Option<u32>,
    /// Seconds within which the task must end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub deadline_s: Option<u32>,
    /// Weight in the line before a provider: `high` goes four times as often as `normal`, `low` a quarter as often; nothing
    /// waits for ever.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Where to tell of this task, beside the endpoints that are registered; signed with the secret of `GET /webhooks/secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookTarget>,
    /// How long the pictures are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retention: Retention,
    /// The caller's own labels, at most 16 and 4 KiB; returned with the task, never sent upstream.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object, example = json!({"order": "1234"}))]
    pub metadata: BTreeMap<String, String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl GenerateRequest {
    /// How many pictures are wanted.
    pub fn count(&self) -> u32 {
        self.n.unwrap_or(1)
    }

    /// SHA-256 of the request's canonical form, in hex: equal for bodies that differ only in white space, key order,
    /// spelled-out defaults or `null`s; different when anything the caller asks for differs.
    pub fn fingerprint(&self) -> String {
        // A struct serialises its fields in one order and its maps are sorted, so this text is canonical.
        sha256_hex(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// What kind of work a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A picture from words.
    TextToImage,
    /// A picture after a picture.
    ImageToImage,
    /// A picture changed by instruction.
    Edit,
    /// A part of a picture painted anew.
    Inpaint,
    /// A picture continued beyond its edges.
    Outpaint,
    /// A picture like another.
    Variation,
    /// A picture whose composition follows another.
    Control,
}

impl Operation {
    /// Its name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TextToImage => "text_to_image",
            Self::ImageToImage => "image_to_image",
            Self::Edit => "edit",
            Self::Inpaint => "inpaint",
            Self::Outpaint => "outpaint",
            Self::Variation => "variation",
            Self::Control => "control",
        }
    }
}

/// An input image: exactly one of its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://example.com/cat.png"}))]
pub struct ImageInput {
    /// A public https address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A file of `POST /files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_id: Option<FileId>,
    /// The bytes, base64-encoded (a `data:` URI is taken too).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64_json: Option<String>,
}

/// Quality grades.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum Quality {
    Auto,
    Low,
    Medium,
    High,
}

/// Backgrounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum Background {
    Auto,
    Transparent,
    Opaque,
}

/// A style adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// A name of `GET /models/{id}`; an unlisted name is passed on with a warning.
    #[schema(example = "mjv6")]
    pub name: String,
    /// Its weight, 0 to 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// A reference image for adapters that take one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInput>,
}

/// An image that steers the composition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// What is taken from the image: `depth`, `canny`, `soft_edge`, `openpose`…
    #[serde(rename = "type")]
    #[schema(example = "depth")]
    pub kind: String,
    /// The image.
    pub image: ImageInput,
    /// Its weight, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Also return the preprocessed image (the depth map, the edges…), as an image of kind `preprocessed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub return_preprocessed: bool,
}

/// Pixels to add on each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names are the meaning")]
pub struct Outpaint {
    pub left: u32,
    pub right: u32,
    pub top: u32,
    pub bottom: u32,
}

/// How pictures are handed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// File type; absent: as the provider made it. Where the provider cannot draw in it, the picture is converted here (JPEG at
    /// quality 90 on white, PNG and WebP without loss); one that cannot be converted is kept as it came and reported in
    /// `adjustments`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// As a link, or also as base64 in the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Handover>,
}

/// File types pictures can be asked for in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum Format {
    Png,
    Jpeg,
    Webp,
}

impl Format {
    /// As a picture's type.
    pub const fn media_type(self) -> MediaType {
        match self {
            Self::Png => MediaType::Png,
            Self::Jpeg => MediaType::Jpeg,
            Self::Webp => MediaType::Webp,
        }
    }
}

/// Ways a picture reaches the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// `images[].url`
    Url,
    /// `images[].b64_json` beside the URL, in the answers of `GET /tasks/{id}` and of `POST /generate` when it has waited for the
    /// end; never in lists, events or webhooks.
    B64,
}

/// Which providers may serve a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Provider ids; when not empty, no other is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Provider ids to try first, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<String>,
    /// Provider ids never to use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Whether another route may be tried after a proven unbilled failure (default true).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_fallback: Option<bool>,
    /// How routes are ordered beyond `order` (default `order`: as configured).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// What to do when it is unknown whether a paid call was accepted (default `hold`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unknown: Option<OnUnknown>,
    /// The most that may have been billed for the task over all its attempts; default: one attempt's price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<Usd>,
}

/// Orders among routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// As configured.
    #[default]
    Order,
    /// Lowest price first; unknown prices last.
    Cheapest,
    /// Lowest observed median time first.
    Fastest,
}

/// What to do with a paid call whose outcome is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Wait and reconcile, then fail as `outcome_unknown`.
    #[default]
    Hold,
    /// Fail as `outcome_unknown` at once.
    Fail,
    /// Submit again once the window is over, but only inside `max_cost_usd`.
    Resubmit,
}

/// Place in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> GenerateRequest {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn white_space_key_order_and_nulls_do_not_change_the_fingerprint() {
        let one = read(r#"{"prompt":"a cat","n":1,"metadata":{"a":"1","b":"2"},"routing":{}}"#);
        let two = read(
            r#"{ "metadata": {"b":"2", "a":"1"}, "seed": null, "n": 1, "prompt": "a cat", "strict": false }"#,
        );
        assert_eq!(one.fingerprint(), two.fingerprint());
        assert_ne!(
            one.fingerprint(),
            read(r#"{"prompt":"a dog","n":1,"metadata":{"a":"1","b":"2"}}"#).fingerprint()
        );
    }

    #[test]
    fn operations_have_one_name() {
        for operation in [Operation::TextToImage, Operation::Edit, Operation::Control] {
            assert_eq!(serde_json::to_value(operation).unwrap(), operation.as_str());
        }
    }
}
