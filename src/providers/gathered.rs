//! What an answer that holds its images has given so far, whatever API it speaks: chat completions, the Images API or another;
//! images, text, and how it says no. Adapters decide what that costs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::links;
use super::own::Own;
use super::reader::{Images, InlineImage, MARK, Part};
use super::results::{self, Found};
use super::value::{integer, text};
use super::{GeneratedImage, ImageSource};
use crate::domain::image::ImageKind;

/// Text of one answer beyond this is not kept.
const MAX_CONTENT: usize = 1024 * 1024;
/// Reasons to finish that are refusals of the content.
const REFUSALS: [&str; 8] = [
    "content_filter",
    "safety",
    "prohibited_content",
    "blocklist",
    "recitation",
    "moderat",
    "spii",
    "blocked",
];

/// An error that an answer told of where a result was expected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ErrorSaid {
    /// The HTTP status it stands for, when it says one.
    pub status: Option<u16>,
    /// Its code.
    pub code: Option<String>,
    /// What it says.
    pub message: String,
}

/// What an answer has given so far.
pub struct Gathered<'a> {
    own: &'a Own,
    found: Found,
    inline: BTreeMap<String, Arc<InlineImage>>,
    /// The text of a chat.
    pub content: String,
    /// The first error.
    pub error: Option<ErrorSaid>,
    /// Why it was refused, in the answer's words.
    pub refusal: Option<String>,
    /// Whether it said that it was over, as opposed to breaking off.
    pub finished: bool,
    /// What the answer says about itself: `quality`, `size`, `usage`.
    pub about: Map<String, Value>,
}

impl<'a> Gathered<'a> {
    /// Nothing yet; `own` is what the answer may echo.
    pub fn new(own: &'a Own) -> Self {
        Self {
            own,
            found: Found::default(),
            inline: BTreeMap::new(),
            content: String::new(),
            error: None,
            refusal: None,
            finished: false,
            about: Map::new(),
        }
    }

    /// Takes a part; the text that it adds is at the end of [`Self::content`].
    pub fn part(&mut self, part: Part, images: &Images) {
        let Some(json) = part.json else {
            if part.event.contains("error") {
                self.fail(ErrorSaid { message: part.text, ..ErrorSaid::default() });
            } else {
                self.say(&part.text, images);
            }
            return;
        };
        let kind = json.get("type").and_then(Value::as_str).unwrap_or(&part.event).to_ascii_lowercase();
        // A preview, whatever its key is called.
        if kind.ends_with("partial_image") {
            return;
        }
        if let Some(error) = error_said(&json, &kind) {
            self.fail(error);
        }
        for name in ["quality", "size", "usage"] {
            if let Some(value) = json.get(name).filter(|value| !value.is_null()) {
                self.about.insert(name.to_owned(), value.clone());
            }
        }
        self.refused_in(&json);
        match json.get("choices").and_then(Value::as_array) {
            Some(choices) => {
                for choice in choices {
                    self.choice(choice, images);
                }
                // Images beside the text, as some relays put them.
                let beside = json.as_object().into_iter().flatten().filter(|(key, _)| *key != "choices");
                let beside = Value::Object(beside.map(|(key, value)| (key.clone(), value.clone())).collect());
                self.found(results::find(&beside, images, self.own));
            }
            None => self.found(results::find(&json, images, self.own)),
        }
    }

    fn choice(&mut self, choice: &Value, images: &Images) {
        let reason = choice.get("finish_reason").or_else(|| choice.get("finishReason"));
        if let Some(reason) = reason.and_then(Value::as_str).filter(|reason| !reason.is_empty()) {
            self.finished = true;
            self.reason(reason);
        }
        if let Some(error) = choice.get("error").and_then(|error| said(error, None)) {
            self.fail(error);
        }
        for message in [choice.get("delta"), choice.get("message"), Some(choice)].into_iter().flatten() {
            if let Some(refusal) =
                message.get("refusal").and_then(Value::as_str).filter(|text| !text.is_empty())
            {
                self.refusal.get_or_insert_default().push_str(refusal);
            }
            match message.get("content") {
                Some(Value::String(content)) => self.say(content, images),
                Some(Value::Array(parts)) => parts.iter().for_each(|part| self.content_part(part, images)),
                Some(content @ Value::Object(_)) => self.content_part(content, images),
                _ => {}
            }
            for key in ["images", "image"] {
                if let Some(value) = message.get(key) {
                    let one = Value::Object([(key.to_owned(), value.clone())].into_iter().collect());
                    self.found(results::find(&one, images, self.own));
                }
            }
        }
        if let Some(content) = choice.get("text").and_then(Value::as_str) {
            self.say(content, images);
        }
    }

    fn content_part(&mut self, part: &Value, images: &Images) {
        match part.get("text").and_then(Value::as_str).or_else(|| part.as_str()) {
            Some(content) if part.get("image_url").is_none() => self.say(content, images),
            _ => self.found(results::find(part, images, self.own)),
        }
    }

    fn say(&mut self, content: &str, images: &Images) {
        for image in images.in_text(content) {
            self.inline.insert(image.sha256.clone(), image);
        }
        // The marks of inline images mean something only now.
        let mut rest = content;
        while let Some((before, after)) = rest.split_once(MARK) {
            let Some((number, after)) = after.split_once(MARK) else { break };
            self.content.push_str(before);
            if let Some(image) = images.in_text(&format!("{MARK}{number}{MARK}")).first() {
                self.content.extend([MARK, &image.sha256, MARK]);
            }
            rest = after;
        }
        if self.content.len() + rest.len() <= MAX_CONTENT {
            self.content.push_str(rest);
        } else {
            self.found.doubtful = true;
        }
    }

    fn found(&mut self, found: Found) {
        // Told again at the end of a stream, these are the same.
        self.found.merge(found);
    }

    fn fail(&mut self, error: ErrorSaid) {
        self.error.get_or_insert(error);
    }

    /// Refusals that stand beside or in place of a result.
    fn refused_in(&mut self, json: &Value) {
        let blocked = ["/promptFeedback/blockReason", "/response/promptFeedback/blockReason"];
        for pointer in blocked {
            if let Some(reason) = json.pointer(pointer).and_then(text) {
                self.refusal.get_or_insert(reason);
            }
        }
        for prediction in json.get("predictions").and_then(Value::as_array).into_iter().flatten() {
            if let Some(reason) = prediction.get("raiFilteredReason").and_then(text) {
                self.refusal.get_or_insert(reason);
            }
        }
        for candidate in json.get("candidates").and_then(Value::as_array).into_iter().flatten() {
            if let Some(reason) = candidate.get("finishReason").and_then(Value::as_str) {
                self.finished = true;
                self.reason(reason);
            }
        }
    }

    fn reason(&mut self, reason: &str) {
        let lower = reason.to_ascii_lowercase();
        if REFUSALS.iter().any(|refusal| lower.contains(refusal)) {
            self.refusal.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Whether there was something that may be a result, and cannot be told from what is none.
    pub fn doubtful(&self) -> bool {
        self.found.doubtful
    }

    /// The images, each once: those with a place of their own before those in the text, a draft only where there is nothing
    /// else.
    pub fn images(&self) -> Vec<GeneratedImage> {
        let mut images = self.found.images.clone();
        if images.is_empty() {
            let addresses = links::addresses(&links::without_code(&self.content), self.own);
            for address in addresses {
                match self.inline.get(address.trim_matches(|c| MARK.contains(c))) {
                    Some(image) if !self.own.has_bytes(&image.sha256) => {
                        images.push(ImageSource::Inline(Arc::clone(image)));
                    }
                    Some(_) => {}
                    None => images.push(ImageSource::Url(address)),
                }
            }
        }
        if images.is_empty() {
            images.extend(self.found.drafts.last().cloned());
        }
        images.into_iter().map(|source| GeneratedImage { source, kind: ImageKind::Output }).collect()
    }
}

/// The error that a document tells of, in the shapes vendors use.
fn error_said(json: &Value, kind: &str) -> Option<ErrorSaid> {
    let failure =
        kind == "response.incomplete" || matches!(kind.rsplit('.').next(), Some("error" | "failed"));
    let places = ["/error", "/errors/0", "/response/error", "/response/incomplete_details", "/data/error"];
    let found = places.iter().find_map(|pointer| said(json.pointer(pointer)?, Some(json)));
    if found.is_some() {
        return found;
    }
    let is_error = failure || json.get("object").and_then(Value::as_str) == Some("error");
    let bare =
        ["choices", "data", "images", "output", "url", "b64_json", "task_id", "id", "candidates", "result"];
    let alone = bare.iter().all(|name| json.get(*name).is_none_or(Value::is_null));
    // `{code, message}` and `{detail}` where nothing else is: a code of zero or 200 is none.
    let coded =
        json.get("code").is_some_and(|code| !matches!(integer(code), Some(0 | 200)) && text(code).is_some());
    let minimax = json.pointer("/base_resp/status_code").and_then(integer).is_some_and(|code| code != 0);
    if minimax {
        return json.get("base_resp").and_then(|error| said(error, None));
    }
    if is_error || (alone && ((coded && json.get("message").is_some()) || json.get("detail").is_some())) {
        return said(json, None).or_else(|| is_error.then(ErrorSaid::default));
    }
    None
}

/// What an error says: a text, or an object. `None` when it is none at all.
fn said(error: &Value, around: Option<&Value>) -> Option<ErrorSaid> {
    let field = |names: &[&str]| names.iter().find_map(|name| error.get(*name).and_then(text));
    let (code, message) = match error {
        Value::String(message) if !message.is_empty() => (None, message.clone()),
        Value::Object(fields) if !fields.is_empty() => {
            let code = field(&["code", "error_code", "status_code", "type", "reason"]);
            let message =
                field(&["message", "detail", "msg", "status_msg", "error", "raw_message", "reason"]);
            // `{code: 0, message: ""}` says that there is no error.
            let nothing = code.as_deref().is_none_or(|code| code == "0") && message.is_none();
            if nothing {
                return None;
            }
            (code, message.unwrap_or_default())
        }
        _ => return None,
    };
    // Relays of this family put the status into `type` or `code`.
    let within = |value: Option<&Value>| {
        let names = ["status", "status_code", "code", "type", "http_status"];
        let numbers = names.iter().filter_map(|name| value?.get(*name).and_then(integer));
        numbers
            .into_iter()
            .find_map(|number| u16::try_from(number).ok().filter(|status| (400..600).contains(status)))
    };
    Some(ErrorSaid { status: within(Some(error)).or_else(|| within(around)), code, message })
}
