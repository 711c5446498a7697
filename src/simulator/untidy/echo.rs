//! What comes back besides the images: the prompt in another form, and figures that were asked for.

use serde_json::{Value, json};

use super::draft::Draft;
use crate::simulator::faults::{Faults, PromptForm, Words, strip};

/// Marks a figure that is written verbatim.
const VERBATIM: &str = "@verbatim:";

/// Replaces `usage.consume` and `usage.frozen` of a task object by what is said for this poll.
pub fn figures(draft: &mut Draft, faults: &Faults, poll: usize) {
    let said = |words: &Option<Words>| words.as_ref().and_then(|words| words.at(poll).map(str::to_owned));
    let figures = [("consume", said(&faults.consume)), ("frozen", said(&faults.frozen))];
    let Some(object) = draft.object() else { return };
    let usage = object.get_mut("meta").and_then(|meta| meta.get_mut("usage")).and_then(Value::as_object_mut);
    let Some(usage) = usage else { return };
    for (name, figure) in figures {
        match figure.as_deref() {
            None => {}
            Some("absent") => {
                usage.remove(name);
            }
            Some("null") => {
                usage.insert(name.to_owned(), Value::Null);
            }
            Some(figure) if is_number(figure) => {
                usage.insert(name.to_owned(), json!(format!("{VERBATIM}{figure}@")));
            }
            Some(text) => {
                // In quotation marks of its own: a number as a string.
                usage.insert(name.to_owned(), json!(text.trim_matches('"')));
            }
        }
    }
}

fn is_number(text: &str) -> bool {
    let start = text.trim_start_matches('-');
    start.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| "+-.eE0123456789".contains(c))
}

/// Writes the marked figures as they were said: `1e400` is JSON, but no number that a document can hold.
pub fn verbatim(mut text: String) -> String {
    while let Some(at) = text.find(&format!("\"{VERBATIM}")) {
        let start = at + 1 + VERBATIM.len();
        let Some(end) = text[start..].find("@\"") else { return text };
        let figure = text[start..start + end].to_owned();
        text.replace_range(at..start + end + 2, &figure);
    }
    text
}

/// Replaces the prompt wherever it comes back.
pub fn prompt(draft: &mut Draft, prompt: &str, form: PromptForm) {
    let other = changed(prompt, form);
    let plain = strip(prompt).into_owned();
    let plain_other = changed(&plain, form);
    for document in draft.documents() {
        walk(document, &mut |text| {
            if text == prompt {
                text.clone_from(&other);
            } else if *text == plain {
                text.clone_from(&plain_other);
            }
        });
    }
}

/// The prompt in this form.
pub fn changed(prompt: &str, form: PromptForm) -> String {
    match form {
        PromptForm::Nfc => composed(prompt),
        PromptForm::Html => prompt
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
            .replace('\'', "&#39;"),
        PromptForm::Translated => "一只猫坐在垫子上，照片级真实感".to_owned(),
        PromptForm::Prefixed => format!("A highly detailed photograph of {prompt}"),
        PromptForm::Truncated => {
            let half = prompt.chars().count() / 2;
            prompt.chars().take(half).collect()
        }
    }
}

/// Latin letters with one mark, composed: enough for a prompt, and no tables.
fn composed(text: &str) -> String {
    const COMPOSED: [(char, &str, &str); 6] = [
        ('\u{300}', "aeiouAEIOU", "àèìòùÀÈÌÒÙ"),
        ('\u{301}', "aeiouAEIOU", "áéíóúÁÉÍÓÚ"),
        ('\u{302}', "aeiouAEIOU", "âêîôûÂÊÎÔÛ"),
        ('\u{303}', "anoANO", "ãñõÃÑÕ"),
        ('\u{308}', "aeiouAEIOU", "äëïöüÄËÏÖÜ"),
        ('\u{327}', "cC", "çÇ"),
    ];
    let mut letters: Vec<char> = Vec::new();
    for letter in text.chars() {
        let row = COMPOSED.iter().find(|(mark, ..)| *mark == letter);
        let whole = row.zip(letters.last()).and_then(|((_, plain, marked), before)| {
            let at = plain.chars().position(|plain| plain == *before)?;
            marked.chars().nth(at)
        });
        match whole {
            Some(whole) => {
                letters.pop();
                letters.push(whole);
            }
            None => letters.push(letter),
        }
    }
    letters.into_iter().collect()
}

/// Every string of a document.
fn walk(value: &mut Value, each: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(many) => many.iter_mut().for_each(|one| walk(one, each)),
        Value::Object(fields) => fields.values_mut().for_each(|one| walk(one, each)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_they_were_said() {
        let text = format!("{{\"consume\":\"{VERBATIM}1e400@\",\"frozen\":\"{VERBATIM}-1@\"}}");
        assert_eq!(verbatim(text), "{\"consume\":1e400,\"frozen\":-1}");
        assert!(
            is_number("9223372036854775807") && is_number("1e16") && !is_number("abc") && !is_number("-")
        );
    }

    #[test]
    fn a_decomposed_prompt_is_composed() {
        assert_eq!(changed("Cafe\u{301} u\u{308}ber", PromptForm::Nfc), "Café über");
        assert_eq!(changed("<a & \"b\">", PromptForm::Html), "&lt;a &amp; &quot;b&quot;&gt;");
        assert_eq!(changed("abcdef", PromptForm::Truncated), "abc");
    }
}
