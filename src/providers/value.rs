//! Reads values as providers write them: numbers as floats or strings, ids as numbers, texts that are empty.

use serde_json::Value;

/// A name or a code is no longer than this, in characters.
const MAX_WORD: usize = 100;

/// A text, or a number as text; `None` when it is empty or neither.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A text that is a name or a code, cut to the length of one.
pub fn word(value: &Value) -> Option<String> {
    text(value).map(|text| text.chars().take(MAX_WORD).collect())
}

/// A number without a fraction, however it is written; beyond the largest it is the largest.
pub fn integer(value: &Value) -> Option<i64> {
    let number = match value {
        Value::Number(number) => match number.as_i64() {
            Some(whole) => return Some(whole),
            None => number.as_f64()?,
        },
        Value::String(text) => match text.trim().parse::<i64>() {
            Ok(whole) => return Some(whole),
            Err(_) => text.trim().parse::<f64>().ok()?,
        },
        _ => return None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a cast from a float stops at the largest integer")]
    number.is_finite().then_some(number.round() as i64).or((number == f64::INFINITY).then_some(i64::MAX))
}

/// A share in percent as a fraction, when it is more than nothing.
pub fn percent(value: &Value) -> Option<f32> {
    let percent = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().trim_end_matches('%').trim().parse().ok()?,
        _ => return None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a fraction for display")]
    (percent > 0.0).then_some((percent / 100.0).min(1.0) as f32)
}

/// An id that can be put into a path and a log: nothing else is believed to be one.
pub fn job_id(value: &Value) -> Option<String> {
    let id = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_u64()?.to_string(),
        _ => return None,
    };
    let legal =
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    legal.then_some(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_however_they_are_written() {
        for value in [json!(20_000), json!(20_000.0), json!("20000"), json!(" 20000.0 "), json!(2e4)] {
            assert_eq!(integer(&value), Some(20_000), "{value}");
        }
        assert_eq!(integer(&json!(1e300)), Some(i64::MAX));
        assert_eq!(integer(&json!("1e400")), Some(i64::MAX));
        assert_eq!(integer(&json!("-1")), Some(-1));
        for value in [json!("abc"), json!(null), json!({}), json!("")] {
            assert_eq!(integer(&value), None, "{value}");
        }
        assert_eq!(
            (percent(&json!("45%")), percent(&json!(450)), percent(&json!(0))),
            (Some(0.45), Some(1.0), None)
        );
    }

    #[test]
    fn ids_are_believed_only_when_plain() {
        assert_eq!(job_id(&json!("0f647527-12bd")).as_deref(), Some("0f647527-12bd"));
        assert_eq!(job_id(&json!(1_234)).as_deref(), Some("1234"));
        for wrong in
            [json!(""), json!("../etc"), json!("a\nb"), json!("a b"), json!("x".repeat(129)), json!(1.5)]
        {
            assert_eq!(job_id(&wrong), None, "{wrong}");
        }
    }
}
