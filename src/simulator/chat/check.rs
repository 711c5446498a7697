//! A chat request for a picture: what is legal, and what its text says about size and number. There are no
//! parameters for those; clients write them into the prompt.

use http::StatusCode;
use serde_json::Value;

use crate::simulator::dialect::openai;
use crate::simulator::faults::strip;
use crate::simulator::fields::{Fields, Kind, Wrong};
use crate::simulator::intake::Refusal;

/// A legal request.
#[derive(Debug, Clone)]
pub struct Order {
    pub text: String,
    /// The pictures sent along.
    pub inputs: Vec<String>,
    pub size: (u32, u32),
    pub n: u64,
}

/// The text of a body, as far as it can be seen.
pub fn text_of(body: &Value) -> String {
    let messages = body.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let texts = messages.iter().filter_map(|message| message.get("content")).flat_map(|content| {
        let parts = content.as_array().map_or(&[][..], Vec::as_slice);
        content.as_str().into_iter().chain(parts.iter().filter_map(|part| part.get("text")?.as_str()))
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Judges a whole body. Strict where the real reaction is unknown: fields nobody documents, other roles,
/// several rounds ("does not have multi rounds feature").
pub fn check(body: &Value) -> Result<Order, Refusal> {
    let refuse = |wrong: Wrong| -> Refusal {
        let code = if wrong.kind == Kind::Unknown { Some("unknown_parameter") } else { None };
        let message = format!("{}: {}", wrong.field, wrong.message);
        openai(StatusCode::BAD_REQUEST, &message, "invalid_request_error", Some(&wrong.field), code).into()
    };
    let top = Fields::of(body, "body").map_err(refuse)?;
    let model = top.needed("model").map_err(refuse)?;
    if model != "gpt-4o-image" {
        let message = format!("The requested model '{model}' does not exist.");
        let (kind, code) = ("invalid_request_error", Some("model_not_found"));
        return Err(openai(StatusCode::NOT_FOUND, &message, kind, Some("model"), code).into());
    }
    legal(top).map_err(refuse)
}

fn legal(top: Fields<'_>) -> Result<Order, Wrong> {
    top.only(&["model", "messages", "stream"])?;
    if top.flag("stream")? != Some(true) {
        return Err(Wrong::value("stream", "this model can only be used in stream mode"));
    }
    let [message] = top.list("messages")? else {
        return Err(Wrong::value("messages", "exactly one message is supported"));
    };
    let message = Fields::of(message, "messages")?;
    message.only(&["role", "content"])?;
    message.needed("role")?;
    message.word("role", &["user"])?;
    let mut inputs = Vec::new();
    let mut texts = Vec::new();
    match message.get("content") {
        Some(Value::String(text)) => texts.push(text.as_str()),
        Some(Value::Array(parts)) => {
            for part in parts {
                match content(Fields::of(part, "content")?)? {
                    Part::Text(text) => texts.push(text),
                    Part::Image(url) => inputs.push(url.to_owned()),
                }
            }
        }
        _ => return Err(Wrong::value("content", "must be a string or an array of parts")),
    }
    let text = texts.join("\n");
    if text.trim().is_empty() {
        return Err(Wrong::value("content", "a text is required"));
    }
    let plain = strip(&text);
    Ok(Order { size: size_in(&plain), n: count_in(&plain), inputs, text })
}

enum Part<'a> {
    Text(&'a str),
    Image(&'a str),
}

fn content(part: Fields<'_>) -> Result<Part<'_>, Wrong> {
    match part.text("type")? {
        Some("text") => {
            part.only(&["type", "text"])?;
            Ok(Part::Text(part.needed("text")?))
        }
        Some("image_url") => {
            part.only(&["type", "image_url"])?;
            let Some(holder) = part.get("image_url") else {
                return Err(Wrong::value("image_url", "is required"));
            };
            let holder = Fields::of(holder, "image_url")?;
            holder.only(&["url", "detail"])?;
            let url = holder.needed("url")?;
            let known = ["http://", "https://", "data:image/"];
            if known.iter().any(|start| url.starts_with(start)) {
                Ok(Part::Image(url))
            } else {
                Err(Wrong::value("url", "must be a link or a data: URI of an image"))
            }
        }
        _ => Err(Wrong::value("type", "must be text or image_url")),
    }
}

/// The size the text speaks of: `1024:1536` or `1024x1536` in pixels, or `ratio 2:3`; a square otherwise.
fn size_in(text: &str) -> (u32, u32) {
    let lower = text.to_lowercase();
    let mut ratio = None;
    for (at, a, b) in pairs(&lower) {
        if (64..=4096).contains(&a) && (64..=4096).contains(&b) {
            return (a, b);
        }
        let before: String = lower[..at].chars().rev().take(14).collect();
        let spoken_of = ["oitar", "tcepsa"].iter().any(|word| before.contains(word));
        if spoken_of && (1..=32).contains(&a) && (1..=32).contains(&b) {
            ratio = ratio.or(Some((a, b)));
        }
    }
    let (a, b) = ratio.unwrap_or((1, 1));
    let long = |a: u32, b: u32| (1024 * a / b / 8 * 8).min(4096);
    if a >= b { (long(a, b), 1024) } else { (1024, long(b, a)) }
}

/// Every `number separator number` in the text, with where it starts.
fn pairs(text: &str) -> impl Iterator<Item = (usize, u32, u32)> {
    let starts = text.char_indices().filter(|(at, letter)| {
        letter.is_ascii_digit() && !text[..*at].ends_with(|before: char| before.is_ascii_digit())
    });
    starts.filter_map(|(at, _)| {
        let (first, rest) = number(&text[at..])?;
        let rest = rest.trim_start_matches(' ').strip_prefix([':', 'x', '×', '*'])?;
        let (second, _) = number(rest.trim_start_matches(' '))?;
        Some((at, first, second))
    })
}

fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// How many pictures the text asks for, 1 to 10: `2 images`, `3 different pictures`, `n=2`, `n: 2`.
pub fn count_in(text: &str) -> u64 {
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let things = ["image", "images", "picture", "pictures", "variations", "versions"];
    let few = |word: &str| word.parse::<u64>().ok().filter(|n| (1..=10).contains(n));
    let named = words.windows(2).find_map(|pair| (pair[0] == "n").then(|| few(pair[1])).flatten());
    let counted = (0..words.len()).find_map(|at| {
        let next = words.iter().skip(at + 1).take(2).any(|word| things.contains(word));
        few(words[at]).filter(|_| next)
    });
    named.or(counted).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_the_text() {
        let cases = [
            ("a cat", (1024, 1024)),
            ("Image size: 1024:1536. a cat", (1024, 1536)),
            ("a cat, 1536x1024", (1536, 1024)),
            ("a cat, 640 × 480 pixels", (640, 480)),
            ("a cat, ratio 2:3", (1024, 1536)),
            ("a cat, aspect ratio: 3:2", (1536, 1024)),
            ("a cat at 10:30", (1024, 1024)),
            ("日本 ratio 16:9", (1816, 1024)),
        ];
        for (text, size) in cases {
            assert_eq!(size_in(text), size, "{text}");
        }
    }

    #[test]
    fn counts_are_read_from_the_text() {
        let cases = [
            ("a cat", 1),
            ("2 images of a cat", 2),
            ("3 different pictures", 3),
            ("a cat, n=4", 4),
            ("a cat. n: 2", 2),
            ("a cat with 2 hats", 1),
            ("11 images", 1),
            ("a cat, 1024x1536 images", 1),
        ];
        for (text, n) in cases {
            assert_eq!(count_in(text), n, "{text}");
        }
    }
}
