//! The directive in a prompt, `[[sim: key=value key="a value" flag]]`: how a caller's own test asks for a
//! fault end to end, through whatever stands between it and the upstream.

use std::borrow::Cow;

use serde_json::{Map, Value};

const OPEN: &str = "[[sim:";
const CLOSE: &str = "]]";

/// Every directive in the prompt, merged, as the JSON object a rule would carry; `None` without one.
pub fn read(prompt: &str) -> Result<Option<Map<String, Value>>, String> {
    let mut found = None;
    let mut rest = prompt;
    while let Some(start) = rest.find(OPEN) {
        let (body, after) = split(&rest[start + OPEN.len()..])?;
        pairs(body, found.get_or_insert_with(Map::new))?;
        rest = after;
    }
    Ok(found)
}

/// The prompt as a person would read it, without its directives.
pub fn strip(prompt: &str) -> Cow<'_, str> {
    if !prompt.contains(OPEN) {
        return Cow::Borrowed(prompt.trim());
    }
    let mut kept = String::new();
    let mut rest = prompt;
    while let Some(start) = rest.find(OPEN) {
        kept.push_str(&rest[..start]);
        rest = split(&rest[start + OPEN.len()..]).map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    Cow::Owned(kept.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Splits at the closing brackets; those inside quotes do not count.
fn split(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ']' if !quoted && text[at..].starts_with(CLOSE) => {
                return Ok((&text[..at], &text[at + CLOSE.len()..]));
            }
            _ => {}
        }
    }
    Err("a [[sim: …]] directive does not end".to_owned())
}

fn pairs(mut body: &str, into: &mut Map<String, Value>) -> Result<(), String> {
    loop {
        body = body.trim_start();
        if body.is_empty() {
            return Ok(());
        }
        let end = body.find(|letter: char| letter == '=' || letter.is_whitespace()).unwrap_or(body.len());
        let (key, after) = body.split_at(end);
        let Some(value) = after.strip_prefix('=') else {
            into.insert(key.to_owned(), Value::Bool(true));
            body = after;
            continue;
        };
        let (value, after) = if value.starts_with('"') { quoted(value)? } else { bare(value) };
        into.insert(key.to_owned(), value);
        body = after;
    }
}

/// A quoted value is a JSON string, so that `\n` and the like can be said.
fn quoted(text: &str) -> Result<(Value, &str), String> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match stream.next() {
        Some(Ok(value)) => {
            let end = stream.byte_offset();
            Ok((Value::String(value), &text[end..]))
        }
        _ => Err(format!("not a quoted value: {text}")),
    }
}

fn bare(text: &str) -> (Value, &str) {
    let (word, after) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    // `true`, `5`, `0.5` are what they look like; anything else is text.
    let value =
        serde_json::from_str(word).ok().filter(|value: &Value| value.is_boolean() || value.is_number());
    (value.unwrap_or_else(|| Value::String(word.to_owned())), after)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_directive_is_read_wherever_it_stands() {
        let prompt =
            "a cat [[sim: http=503 body=html retry_after=\"a ]] b\\n\" reset]] on a mat [[sim: time=0.5]]";
        let found = read(prompt).unwrap().map(Value::Object);
        let expected =
            json!({"http": 503, "body": "html", "retry_after": "a ]] b\n", "reset": true, "time": 0.5});
        assert_eq!(found, Some(expected));
        assert_eq!(strip(prompt), "a cat on a mat");
        assert_eq!(read("a cat").unwrap(), None);
        assert_eq!(strip(" a cat "), "a cat");
    }

    #[test]
    fn an_unfinished_directive_is_an_error_not_a_cat() {
        assert!(read("a cat [[sim: http=503").is_err());
        assert!(read("a cat [[sim: http=\"503]]").is_err());
    }
}
