//! Which requests are well-formed for anybody, whatever the route: [`GenerateRequest::validate`] lists every fault with
//! a JSON pointer to it. What one route can honour is the catalogue's matter.

use std::fmt::Display;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::request::{GenerateRequest, ImageInput};

/// The longest prompt, in Unicode characters.
pub const MAX_PROMPT: usize = 32_000;
/// The most pictures one task may ask for.
pub const MAX_COUNT: u32 = 10;
/// The most input images, and the most entries of the other lists.
pub const MAX_IMAGES: usize = 16;
/// The longest URL, in bytes.
pub const MAX_URL: usize = 2_048;
/// The largest seed: the largest integer every JSON reader keeps exactly.
pub const MAX_SEED: i64 = (1 << 53) - 1;
/// The most metadata, in bytes of keys and values together.
pub const MAX_METADATA: usize = 4_096;
/// The most options of providers, in bytes of JSON: they are shown in every answer about the task.
pub const MAX_OPTIONS: usize = 4_096;
/// The longest deadline, in seconds.
pub const MAX_DEADLINE_S: u32 = 86_400;

/// One fault of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"pointer": "/n", "code": "out_of_range", "detail": "must be from 1 to 10"}))]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the field.
    pub pointer: String,
    /// What kind of fault it is.
    pub code: FieldCode,
    /// What the field must be.
    pub detail: String,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FieldCode {
    /// No such field.
    UnknownField,
    /// The field must be there.
    Required,
    /// The value has the wrong type or form.
    InvalidValue,
    /// The value is too small or too large.
    OutOfRange,
    /// The text or list is too long.
    TooLong,
    /// Two fields contradict each other.
    Conflict,
    /// The route cannot honour the field.
    Unsupported,
}

impl FieldError {
    /// A fault at `pointer`.
    pub fn new(pointer: impl Into<String>, code: FieldCode, detail: impl Display) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.to_string() }
    }
}

impl GenerateRequest {
    /// Every fault that makes the request illegal on any route; empty when there is none.
    pub fn validate(&self) -> Vec<FieldError> {
        let mut faults = Faults::default();
        self.check_texts(&mut faults);
        self.check_numbers(&mut faults);
        self.check_options(&mut faults);
        self.check_images(&mut faults);
        faults.0.extend(self.webhook.as_ref().and_then(|webhook| webhook.fault("/webhook")));
        if let (Some(size), Some(ratio)) = (self.size, self.aspect_ratio)
            && size.ratio() != ratio.reduced()
        {
            faults.add(
                "/aspect_ratio",
                FieldCode::Conflict,
                format!("contradicts size {size}; leave one of them out"),
            );
        }
        faults.0
    }

    fn check_texts(&self, faults: &mut Faults) {
        if self.prompt.trim_matches(is_blank).is_empty() {
            faults.add("/prompt", FieldCode::Required, "must say what to draw");
        }
        faults.length("/prompt", &self.prompt, MAX_PROMPT);
        faults.length("/negative_prompt", self.negative_prompt.as_deref().unwrap_or_default(), MAX_PROMPT);
        faults.length("/model", self.model.as_deref().unwrap_or_default(), 200);
        if self.metadata.len() > 16 {
            faults.add("/metadata", FieldCode::TooLong, "at most 16 keys");
        }
        if self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_METADATA {
            faults.add(
                "/metadata",
                FieldCode::TooLong,
                format!("at most {MAX_METADATA} bytes of keys and values"),
            );
        }
    }

    fn check_options(&self, faults: &mut Faults) {
        let size = serde_json::to_string(&self.provider_options).unwrap_or_default().len();
        if size > MAX_OPTIONS {
            faults.add("/provider_options", FieldCode::TooLong, format!("at most {MAX_OPTIONS} bytes"));
        }
    }

    fn check_numbers(&self, faults: &mut Faults) {
        faults.range("/n", self.n, 1, MAX_COUNT);
        faults.range("/seed", self.seed, -1, MAX_SEED);
        faults.range("/steps", self.steps, 1, 150);
        faults.range("/guidance_scale", self.guidance_scale, 0.0, 100.0);
        faults.range("/start_within_s", self.start_within_s, 1, MAX_DEADLINE_S);
        faults.range("/deadline_s", self.deadline_s, 1, MAX_DEADLINE_S);
        if self.strength.is_some_and(|strength| !(strength > 0.0 && strength <= 1.0)) {
            faults.add("/strength", FieldCode::OutOfRange, "must be above 0 and at most 1");
        }
        for (at, lora) in self.loras.iter().enumerate() {
            faults.range(&format!("/loras/{at}/strength"), lora.strength, 0.0, 2.0);
        }
        for (at, control) in self.controls.iter().enumerate() {
            faults.range(&format!("/controls/{at}/strength"), control.strength, 0.0, 1.0);
        }
        if let Some(added) = self.outpaint {
            let sides =
                [("left", added.left), ("right", added.right), ("top", added.top), ("bottom", added.bottom)];
            for (name, side) in sides {
                faults.range(&format!("/outpaint/{name}"), Some(side), 0, super::size::MAX_SIDE);
            }
            if sides.iter().all(|(_, side)| *side == 0) {
                faults.add("/outpaint", FieldCode::Required, "at least one side must grow");
            }
        }
        if self.routing.max_cost_usd.is_some_and(|most| most.nanos() <= 0) {
            faults.add("/routing/max_cost_usd", FieldCode::OutOfRange, "must be above 0");
        }
    }

    fn check_images(&self, faults: &mut Faults) {
        for (name, length) in
            [("/images", self.images.len()), ("/loras", self.loras.len()), ("/controls", self.controls.len())]
        {
            if length > MAX_IMAGES {
                faults.add(name, FieldCode::TooLong, format!("at most {MAX_IMAGES}"));
            }
        }
        for (pointer, input) in self.inputs() {
            faults.input(&pointer, input);
        }
    }

    /// Every input image of the request with the pointer to it.
    pub fn inputs(&self) -> Vec<(String, &ImageInput)> {
        let mut inputs: Vec<_> =
            self.images.iter().enumerate().map(|(at, input)| (format!("/images/{at}"), input)).collect();
        inputs.extend(self.mask.iter().map(|mask| ("/mask".to_owned(), mask)));
        let loras = self.loras.iter().enumerate();
        inputs.extend(
            loras.filter_map(|(at, lora)| Some((format!("/loras/{at}/image"), lora.image.as_ref()?))),
        );
        let controls = self.controls.iter().enumerate();
        inputs.extend(controls.map(|(at, control)| (format!("/controls/{at}/image"), &control.image)));
        inputs
    }
}

impl GenerateRequest {
    /// As [`Self::inputs`], to change them.
    pub fn inputs_mut(&mut self) -> Vec<(String, &mut ImageInput)> {
        let images = self.images.iter_mut().enumerate();
        let mut inputs: Vec<_> = images.map(|(at, input)| (format!("/images/{at}"), input)).collect();
        inputs.extend(self.mask.iter_mut().map(|mask| ("/mask".to_owned(), mask)));
        let loras = self.loras.iter_mut().enumerate();
        inputs.extend(
            loras.filter_map(|(at, lora)| Some((format!("/loras/{at}/image"), lora.image.as_mut()?))),
        );
        let controls = self.controls.iter_mut().enumerate();
        inputs.extend(controls.map(|(at, control)| (format!("/controls/{at}/image"), &mut control.image)));
        inputs
    }
}

/// White space and characters that draw nothing: a prompt of these alone says nothing.
fn is_blank(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: &str, code: FieldCode, detail: impl Display) {
        self.0.push(FieldError::new(pointer, code, detail));
    }

    fn length(&mut self, pointer: &str, text: &str, most: usize) {
        // Bytes bound characters from above, so short texts are not counted one by one.
        if text.len() > most && text.chars().count() > most {
            self.add(pointer, FieldCode::TooLong, format!("at most {most} characters"));
        }
    }

    fn range<T: PartialOrd + Display + Copy>(&mut self, pointer: &str, value: Option<T>, least: T, most: T) {
        // Written so that NaN is out of range too.
        if value.is_some_and(|value| !(value >= least && value <= most)) {
            self.add(pointer, FieldCode::OutOfRange, format!("must be from {least} to {most}"));
        }
    }

    fn input(&mut self, pointer: &str, input: &ImageInput) {
        let ways = [input.url.is_some(), input.file_id.is_some(), input.b64_json.is_some()];
        if ways.iter().filter(|given| **given).count() != 1 {
            self.add(pointer, FieldCode::InvalidValue, "exactly one of url, file_id and b64_json");
        }
        if let Some(url) = &input.url {
            let pointer = format!("{pointer}/url");
            if url.len() > MAX_URL {
                self.add(&pointer, FieldCode::TooLong, format!("at most {MAX_URL} bytes"));
            } else if !url.starts_with("https://") && !url.starts_with("http://") {
                self.add(&pointer, FieldCode::InvalidValue, "must be an http or https address");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(body: &str) -> Vec<(String, FieldCode)> {
        let request: GenerateRequest = serde_json::from_str(body).unwrap();
        request.validate().into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn a_plain_request_has_no_fault() {
        assert_eq!(faults(r#"{"prompt":"a cat"}"#), vec![]);
        let full = r#"{"prompt":"x","size":"1024x512","aspect_ratio":"4:2","n":10,"seed":-1,"strength":1,
            "images":[{"url":"https://example.com/a.png"}],"outpaint":{"left":1},"deadline_s":86400}"#;
        assert_eq!(faults(full), vec![]);
    }

    #[test]
    fn every_fault_is_listed_with_its_pointer() {
        let body = r#"{"prompt":" \u200b ","n":0,"strength":0,"size":"10x10","aspect_ratio":"2:1","outpaint":{},
            "images":[{"url":"ftp://x"},{}],"loras":[{"name":"a","strength":3}],"deadline_s":0,
            "routing":{"max_cost_usd":"0"}}"#;
        let expected = [
            ("/prompt", FieldCode::Required),
            ("/n", FieldCode::OutOfRange),
            ("/deadline_s", FieldCode::OutOfRange),
            ("/strength", FieldCode::OutOfRange),
            ("/loras/0/strength", FieldCode::OutOfRange),
            ("/outpaint", FieldCode::Required),
            ("/routing/max_cost_usd", FieldCode::OutOfRange),
            ("/images/0/url", FieldCode::InvalidValue),
            ("/images/1", FieldCode::InvalidValue),
            ("/aspect_ratio", FieldCode::Conflict),
        ];
        assert_eq!(faults(body), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn prompts_are_counted_in_characters() {
        let long = |count| faults(&format!(r#"{{"prompt":"{}"}}"#, "é".repeat(count)));
        assert_eq!(long(MAX_PROMPT), vec![]);
        assert_eq!(long(MAX_PROMPT + 1), vec![("/prompt".to_owned(), FieldCode::TooLong)]);
    }
}
