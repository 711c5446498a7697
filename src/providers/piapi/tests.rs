//! PiAPI's fixtures through its adapters: what each recorded or documented body becomes, and that every documented request
//! is produced from a `/generate` body.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::WireBody;
use super::super::conformance::{Canned, check, covers, same_meaning, submit, wire};
use super::expected::{CHAT, ELSEWHERE, FLUX, IMAGES, POLLED, REQUESTED, SUBMITTED};

const FOLDER: &str = "src/providers/piapi/fixtures";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join(name)).unwrap()
}

#[tokio::test]
async fn every_answer_is_read() {
    let bodies = [(FLUX, "txt2img", "{\"prompt\":\"x\"}"), (CHAT, "chat", "{\"prompt\":\"draw\"}")];
    let of = |kind: &str, form: &str| match form {
        "generations" => r#"{"prompt":"x","model":"gpt-image-1","quality":"low","size":"1024x1024"}"#,
        "edits" => {
            r#"{"prompt":"x","model":"gpt-image-1","operation":"edit","images":[{"url":"https://example.com/a.png"}]}"#
        }
        _ => bodies.iter().find(|(known, _, _)| *known == kind).unwrap().2,
    };
    let mut wrong = Vec::new();
    for (name, kind, form, status, expected) in SUBMITTED {
        let body = fixture(name);
        let got =
            submit(kind, None, form, of(kind, form), &Canned::of(name, &body, *status), usize::MAX).await;
        println!("{name}: {got}");
        wrong.extend((got != *expected).then(|| format!("{name}\n  is   {got}\n  want {expected}")));
    }
    for (name, prompt, expected) in POLLED {
        let body = fixture(name);
        let got = check(FLUX, None, "handle-1", prompt, &Canned::of(name, &body, 200)).await;
        println!("{name}: {got}");
        wrong.extend((got != *expected).then(|| format!("{name}\n  is   {got}\n  want {expected}")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_fixture_is_forgotten() {
    let mut all: BTreeSet<&str> = ELSEWHERE.iter().copied().collect();
    all.extend(SUBMITTED.iter().map(|row| row.0));
    all.extend(POLLED.iter().map(|row| row.0));
    all.extend(REQUESTED.iter().map(|row| row.0));
    covers(FOLDER, &all);
}

/// Equal in meaning: the webhook configuration aside, which is the gateway's own.
#[test]
fn every_documented_request_comes_of_a_generate_body() {
    for (name, kind, form, body) in REQUESTED {
        let mut expected: Value = serde_json::from_slice(&fixture(name)).unwrap();
        if let Some(fields) = expected.as_object_mut() {
            fields.remove("config");
        }
        let WireBody::Json(sent) = wire(kind, None, form, body).body else { panic!("{name}: not JSON") };
        println!("{name} ← {body}");
        assert!(same_meaning(&sent, &expected), "{name}\n sent     {sent}\n expected {expected}");
    }
}

#[tokio::test]
async fn streams_read_the_same_in_any_pieces() {
    for name in ["gpt4o_image_stream_success_01.sse", "gpt4o_image_stream_generation_failed.sse"] {
        let body = fixture(name);
        let canned = Canned::of(name, &body, 200);
        let whole = submit(CHAT, None, "chat", r#"{"prompt":"draw"}"#, &canned, usize::MAX).await;
        for piece in [1, 7, 100] {
            assert_eq!(
                submit(CHAT, None, "chat", r#"{"prompt":"draw"}"#, &canned, piece).await,
                whole,
                "{name} by {piece}"
            );
        }
    }
}

/// What came before a flood is paid for, and counts.
#[tokio::test]
async fn a_flood_after_the_picture_loses_no_picture() {
    let name = "gpt4o_image_stream_success_01.sse";
    let body = String::from_utf8(fixture(name)).unwrap();
    let whole = Canned::of(name, body.as_bytes(), 200);
    let whole = submit(CHAT, None, "chat", r#"{"prompt":"draw"}"#, &whole, usize::MAX).await;
    assert!(whole.starts_with("done: 1 linked"), "{whole}");
    let (told, _) = body.split_once("data: [DONE]").unwrap();
    for flood in [":\n\n", "data: {}\n\n"] {
        let flooded = told.to_owned() + &flood.repeat(60_000);
        let canned = Canned::of(name, flooded.as_bytes(), 200);
        assert_eq!(submit(CHAT, None, "chat", r#"{"prompt":"draw"}"#, &canned, usize::MAX).await, whole);
        let canned = Canned::of(name, &flooded.as_bytes()[told.len()..], 200);
        assert_eq!(
            submit(CHAT, None, "chat", r#"{"prompt":"draw"}"#, &canned, usize::MAX).await,
            "refused as Silent: billed unknown"
        );
    }
}

#[tokio::test]
async fn a_cut_answer_is_an_unknown_outcome_unless_it_names_its_task() {
    let body = fixture("piapi_flux_create_img2img_pending.json");
    let cut_at = |cut: usize| Canned { cut: Some(cut), ..Canned::of("x.json", &body, 200) };
    let at_id = body.windows(7).position(|window| window == b"task_id").unwrap();
    let read =
        async |cut: usize| submit(FLUX, None, "txt2img", r#"{"prompt":"x"}"#, &cut_at(cut), usize::MAX).await;
    assert_eq!(read(at_id).await, "refused as Garbled: billed unknown");
    assert_eq!(read(at_id + 80).await, "pending 1631d053-2352-4add-95cc-360fc52d5f89");
}

/// A job that our own call named is ours, whatever its prompt has become; one that only a callback named must show our
/// callback's address and no other prompt.
#[tokio::test]
async fn whose_job_it_is() {
    let mut body: Value =
        serde_json::from_slice(&fixture("piapi_flux_get_completed_unified_kontext.json")).unwrap();
    body["data"]["config"] =
        json!({"webhook_config": {"endpoint": "https://gw.example/hooks/x/1", "secret": "s"}});
    let body = body.to_string();
    let canned = Canned::of("x.json", body.as_bytes(), 200);
    for prompt in ["something else", "change the word Piapi to Pineapple"] {
        let got = check(FLUX, None, "h", prompt, &canned).await;
        assert!(got.starts_with("done: 1 linked"), "{got}");
    }
    let named = async |prompt: &str, callback: &str| {
        super::super::conformance::check_named(FLUX, None, "h", prompt, Some(callback), &canned).await
    };
    let (ours, theirs) = ("https://gw.example/hooks/x/1", "https://gw.example/hooks/x/2");
    assert!(named("change the word Piapi to Pineapple", ours).await.starts_with("done: 1 linked"));
    for (prompt, callback) in [("something else", ours), ("change the word Piapi to Pineapple", theirs)] {
        let got = named(prompt, callback).await;
        assert!(got.starts_with("failed as Contract") && got.ends_with("billed unknown"), "{got}");
    }
}

#[tokio::test]
async fn a_stream_of_pictures_counts_what_completes() {
    let png =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let event = |kind: &str, named: bool| {
        let name = if named { format!("event: {kind}\n") } else { String::new() };
        format!(
            "{name}data: {}\n\n",
            json!({"type": kind, "b64_json": png, "quality": "high", "size": "1024x1024"})
        )
    };
    for named in [true, false] {
        let body =
            event("image_generation.partial_image", named) + &event("image_generation.completed", named);
        let canned = Canned::of("x.sse", body.as_bytes(), 200);
        let got =
            submit(IMAGES, None, "generations", r#"{"prompt":"x","model":"gpt-image-1"}"#, &canned, 11).await;
        assert_eq!(got, "done: 0 linked, 1 inline, 0 preprocessed; billed yes $0.167");
        let partial = event("image_generation.partial_image", named);
        let canned = Canned::of("x.sse", partial.as_bytes(), 200);
        let got =
            submit(IMAGES, None, "generations", r#"{"prompt":"x","model":"gpt-image-1"}"#, &canned, 11).await;
        assert_eq!(got, "refused as Silent: billed unknown");
    }
}

/// Broken bodies: cut, with bytes changed, with bits of other bodies in them.
fn broken() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let names: Vec<&'static str> = SUBMITTED.iter().map(|row| row.0).collect();
    (
        0..names.len(),
        any::<prop::sample::Index>(),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    )
        .prop_map(move |(at, cut, changes)| {
            let mut body = fixture(names[at]);
            body.truncate(cut.index(body.len() + 1));
            for (place, byte) in changes {
                if !body.is_empty() {
                    let place = place.index(body.len());
                    body[place] = byte;
                }
            }
            (at, body)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// `summary` itself fails on a success without a picture.
    #[test]
    fn no_broken_answer_panics_or_is_a_success_without_a_picture((at, body) in broken()) {
        let (name, kind, form, status, _) = SUBMITTED[at];
        let request = if form == "edits" {
            r#"{"prompt":"x","operation":"edit","images":[{"url":"https://example.com/a.png"}]}"#
        } else {
            r#"{"prompt":"x"}"#
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(submit(kind, None, form, request, &Canned::of(name, &body, status), 50));
        runtime.block_on(check(FLUX, None, "h", "x", &Canned::of(name, &body, status)));
    }
}

/// Images that an answer tells twice, in part or signed anew, are one each; links that differ in more are not.
#[tokio::test]
async fn images_told_twice_are_one() {
    let body = r#"{"prompt":"x","model":"gpt-image-1","quality":"high","size":"1024x1024","n":1}"#;
    let say = async |first: &str, then: &[&str]| {
        let then: Vec<_> = then.iter().map(|url| json!({"url": url})).collect();
        let first = json!({"type": "image_generation.completed", "url": first});
        let stream = format!("data: {first}\n\ndata: {}\n\n", json!({"created": 1, "data": then}));
        submit(IMAGES, None, "generations", body, &Canned::of("x.sse", stream.as_bytes(), 200), usize::MAX)
            .await
    };
    let one = say("https://cdn.example/a.png?sig=1&se=2", &["https://cdn.example/a.png?sig=2&se=3"]).await;
    let two =
        say("https://cdn.example/a.png", &["https://cdn.example/a.png", "https://cdn.example/b.png"]).await;
    let by_query = say("https://cdn.example/get?id=1", &["https://cdn.example/get?id=2"]).await;
    let images = |said: &str| {
        said.strip_prefix("done: ").and_then(|said| said.split_whitespace().next()?.parse::<u32>().ok())
    };
    assert_eq!(
        (images(&one), images(&two), images(&by_query)),
        (Some(1), Some(2), Some(2)),
        "{one}\n{two}\n{by_query}"
    );
}

/// However many images come, no more are charged for than were asked for.
#[tokio::test]
async fn more_than_was_asked_for_is_not_charged() {
    let body = r#"{"prompt":"x","model":"gpt-image-1","quality":"high","size":"1024x1024","n":1}"#;
    let mut charged = Vec::new();
    for count in [1, 60] {
        let data: Vec<_> =
            (0..count).map(|n| json!({"url": format!("https://cdn.example/{n}.png")})).collect();
        let answer = json!({"created": 1, "data": data}).to_string();
        let canned = Canned::of("many.json", answer.as_bytes(), 200);
        let said = submit(IMAGES, None, "generations", body, &canned, usize::MAX).await;
        charged.push(said.split_whitespace().find(|word| word.starts_with('$')).map(str::to_owned));
    }
    assert!(charged[0].is_some() && charged[0] == charged[1], "{charged:?}");
}

/// Words of the prompt in a task's log are no word of the provider's, and what was consumed is not restored.
#[tokio::test]
async fn a_prompt_cannot_say_that_nothing_was_charged() {
    let words = "a sign that says restored frozen points";
    let task = |prompt: &str| {
        json!({"code": 200, "message": "success", "data": {"task_id": "t1", "status": "failed",
            "logs": [format!("prompt: {prompt}"), "worker crashed"], "meta": {"usage": {"consume": 20000, "frozen": 0}},
            "error": {"code": 10000, "message": "Internal error"}}})
        .to_string()
    };
    for (prompt, log) in [(words, words), ("a cat", words)] {
        let body = json!({"prompt": prompt}).to_string();
        let answer = task(log);
        let canned = Canned::of("t.json", answer.as_bytes(), 200);
        let said = submit(FLUX, None, "txt2img", &body, &canned, usize::MAX).await;
        assert!(said.contains("billed yes"), "{said}");
    }
}

/// An answer that is cut within its task's id, or before it, proves nothing.
#[tokio::test]
async fn a_refusal_that_was_cut_is_none() {
    let answer = br#"{"code":500,"message":"internal error","data":{"task_id":"0f647527-12bd-4f","status":"pending"}}"#;
    let id = answer.windows(8).position(|window| window == b"0f647527").unwrap();
    for cut in [id - 12, id, id + 4] {
        let canned = Canned { cut: Some(cut), ..Canned::of("t.json", answer, 200) };
        let said = submit(FLUX, None, "txt2img", r#"{"prompt":"x"}"#, &canned, usize::MAX).await;
        assert!(said.contains("billed unknown"), "{cut}: {said}");
    }
}
