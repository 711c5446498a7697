//! gpt-4o-image: what a stream says, in every style, and how it goes wrong.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Bench, CHAT, ask, events, fixture, fixture_text, same_shape};
use crate::simulator::{Endpoint, Faults, Outcome, Style};

/// The text of a stream: its deltas put together. Every data line but the terminator must parse.
fn text(stream: &str) -> String {
    let data = events(stream).into_iter().map(|(_, data)| data);
    let chunks = data.filter(|data| !["[DONE]", "[none]"].contains(&data.as_str()));
    let text = chunks.map(|data| {
        let chunk: Value = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}"));
        assert_eq!(chunk["object"], "chat.completion.chunk", "{data}");
        chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    });
    text.collect()
}

/// Links to the simulator's own files, in order, without their duplicates.
fn links(bench: &Bench, text: &str) -> Vec<String> {
    let start = format!("({}", bench.simulator.url());
    let mut links: Vec<String> = Vec::new();
    for part in text.split(&start).skip(1) {
        let link = part.split(".png").next().unwrap().replace("/cdn/download/", "/cdn/") + ".png";
        if !links.contains(&link) {
            links.push(link);
        }
    }
    links
}

async fn say(bench: &Bench, directive: &str) -> String {
    bench.stream(CHAT, &ask(&format!("draw a cyberpunk city [[sim: {directive}]]"))).await
}

#[tokio::test]
async fn a_stream_looks_like_the_documented_one() {
    let bench = Bench::at_once().await;
    let stream = say(&bench, "style=piapi picture=40x40").await;
    let documented = fixture_text("gpt4o_image_stream_success_01.sse");
    let (first, last) = (
        |stream: &str| events(stream)[0].1.clone(),
        |stream: &str| {
            let events = events(stream);
            (events[events.len() - 2].1.clone(), events[events.len() - 1].1.clone())
        },
    );
    let parse = |data: &str| serde_json::from_str::<Value>(data).unwrap();
    same_shape(&parse(&first(&documented)), &parse(&first(&stream)), "first");
    same_shape(&parse(&last(&documented).0), &parse(&last(&stream).0), "last");
    assert_eq!(last(&stream).1, "[DONE]");
    assert_eq!(parse(&last(&stream).0)["choices"][0]["finish_reason"], "stop");

    let text = text(&stream);
    assert!(text.starts_with("```json\n{\n \"prompt\": \"draw a cyberpunk city\",\n \"ratio\": \"1:1\",\n"));
    for part in ["> ID: `task_01", "Queuing.", "Generating....", "Progress 25", "Generation complete ✅"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for decoy in
        ["https://asyncdata.net/web/", "https://asyncdata.net/source/", "[100](https://videos.openai.com/"]
    {
        assert!(text.contains(decoy), "{decoy} in {text}");
    }
    assert!(text.contains("> gen_id: `gen_01") && text.contains("![gen_01"), "{text}");
    let empty = "\"delta\":{\"content\":\"\"}";
    assert!(stream.contains(empty), "empty deltas occur");
    let links = links(&bench, &text);
    assert_eq!(links.len(), 1);
    let whole = events(&stream).iter().any(|(_, data)| data.contains(&links[0]));
    assert!(!whole, "the link is split over deltas");
    assert_eq!(bench.size(&links[0]).await, (40, 40));
    let last = bench.last();
    assert_eq!((last.outcome, last.billed_nanos), (Outcome::Completed, Some(20_000_000)));
    assert!(last.files[0].sha256.is_some());
}

#[tokio::test]
async fn every_style_parses_and_has_its_own_manner() {
    let bench = Bench::at_once().await;
    let cases = [
        ("piapi", "\n\ndata: [DONE]\n\n"),
        ("302ai", "\n\ndata: [DONE]\n\n"),
        ("chinese", "\n\ndata: [DONE]\n\n"),
        ("whole", "\n\ndata: [DONE]\n\n"),
        ("crlf", "\r\n\r\ndata: [DONE]\r\n\r\n"),
        ("comments", "\n\ndata: [DONE]\n\n"),
        ("none", "\n\ndata:[none]\n\n"),
        ("eof", "\"finish_reason\":\"stop\"}]}\n\n"),
        ("tricky", "\n\ndata: [DONE]\n\n"),
    ];
    for (style, end) in cases {
        let stream = say(&bench, &format!("style={style} picture=32x32")).await;
        assert!(stream.ends_with(end), "{style}: {}", &stream[stream.len() - 80..]);
        let text = text(&stream);
        let links = links(&bench, &text);
        assert_eq!(links.len(), 1, "{style}: {text}");
        assert_eq!(bench.size(&links[0]).await, (32, 32), "{style}");
        match style {
            "302ai" => {
                assert!(!text.contains("!["), "{text}");
                assert_eq!(text.matches("[Click to download](").count(), 2);
                assert_eq!(bench.size(&links[0].replace("/cdn/", "/cdn/download/")).await, (32, 32));
            }
            "chinese" => assert!(text.contains("排队中") && text.contains("[点击下载]("), "{text}"),
            "whole" => assert!(events(&stream).iter().any(|(_, data)| data.contains(&links[0]))),
            "comments" => assert!(stream.contains(": keep-alive\n\n")),
            "tricky" => assert!(text.contains(".png?name=cat_(1).png)"), "{text}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn styles_are_seeded() {
    let runs = [Bench::at_once().await, Bench::at_once().await];
    let mut texts = Vec::new();
    for bench in &runs {
        let mut seen = Vec::new();
        for _ in 0..6 {
            let stream = bench.stream(CHAT, &ask("a cat")).await;
            let end = stream[stream.len() - 12..].to_owned();
            seen.push((text(&stream).replace(&bench.simulator.url(), ""), end));
        }
        texts.push(seen);
    }
    assert_eq!(texts[0], texts[1]);
    texts[0].dedup();
    assert!(texts[0].len() > 1);
}

#[tokio::test]
async fn size_and_number_are_read_from_the_text() {
    let bench = Bench::at_once().await;
    let prompt = "Image size: 128:192. 2 images of a cat";
    let links = links(&bench, &text(&bench.stream(CHAT, &ask(prompt)).await));
    assert_eq!(links.len(), 2);
    assert_eq!(bench.size(&links[1]).await, (128, 192));
    let last = bench.last();
    assert_eq!((last.n, last.billed_nanos), (2, Some(20_000_000)));
}

#[tokio::test]
async fn documented_requests_are_accepted_and_others_refused() {
    let bench = Bench::at_once().await;
    for name in ["text", "one_image", "two_images"] {
        let request = fixture(&format!("gpt4o_image_request_{name}.json"));
        let stream = bench.stream(CHAT, &request).await;
        assert_eq!(links(&bench, &text(&stream)).len(), 1, "{name}");
    }
    let mut plain = ask("");
    plain["messages"][0]["content"] = json!("a cat as a plain string");
    bench.stream(CHAT, &plain).await;

    let change = |path: &str, value: Value| {
        let mut request = ask("a cat");
        *request.pointer_mut(path).unwrap() = value;
        request
    };
    let mut extra = ask("a cat");
    extra["n"] = json!(2);
    let two = json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]);
    let cases = [
        (change("/model", json!("gpt-5")), 404, "model_not_found"),
        (change("/stream", json!(false)), 400, ""),
        (change("/stream", json!("true")), 400, ""),
        (change("/messages", json!([])), 400, ""),
        (change("/messages", two), 400, ""),
        (change("/messages/0/role", json!("system")), 400, ""),
        (change("/messages/0/content", json!([])), 400, ""),
        (change("/messages/0/content", json!([{"type": "audio"}])), 400, ""),
        (change("/messages/0/content", json!([{"type": "image_url", "image_url": "x"}])), 400, ""),
        (
            change("/messages/0/content", json!([{"type": "image_url", "image_url": {"url": "ftp://x"}}])),
            400,
            "",
        ),
        (extra, 400, "unknown_parameter"),
    ];
    for (request, status, code) in cases {
        let (got, body) = bench.post(CHAT, &request).await;
        assert_eq!(got, status, "{request}");
        assert!(body["error"]["message"].is_string(), "{body}");
        assert_eq!(body["error"]["code"].as_str().unwrap_or_default(), code, "{body}");
        assert_eq!(bench.last().billed_nanos, Some(0));
    }
    let answer = bench.http.post(bench.url(CHAT)).json(&ask("x")).send().await.unwrap();
    assert_eq!(super::read(answer).await, (401, fixture("gpt4o_error_openai_style.json")));
}

#[tokio::test]
async fn answers_without_a_picture_cost_a_little() {
    let bench = Bench::at_once().await;
    let cases = [
        ("refuse", "I'm sorry", Outcome::NoImage),
        ("downgrade", "DALL-E", Outcome::NoImage),
        ("no_image", "Generation complete", Outcome::NoImage),
        ("missing=1", "Generation complete", Outcome::NoImage),
        ("generation_failed reason=\"too rude\"", "Reason: too rude", Outcome::Failed),
        ("fail", "Generation failed", Outcome::Failed),
    ];
    for (directive, says, outcome) in cases {
        let stream = say(&bench, &format!("{directive} style=piapi")).await;
        let text = text(&stream);
        assert!(text.contains(says), "{directive}: {text}");
        assert!(links(&bench, &text).is_empty(), "{directive}: {text}");
        assert!(stream.ends_with("data: [DONE]\n\n"));
        let last = bench.last();
        assert_eq!((last.outcome, last.billed_nanos), (outcome, Some(660_000)), "{directive}");
    }
    say(&bench, "refuse billed=false").await;
    assert_eq!(bench.last().billed_nanos, Some(0));
    let text = text(&say(&bench, "queue_text=5 style=piapi picture=32x32").await);
    assert_eq!(text.matches("Queuing.").count(), 6);
}

#[tokio::test]
async fn a_stream_is_cut_where_told_and_paid_for_all_the_same() {
    let bench = Bench::at_once().await;
    for by in ["reset", "eof"] {
        for cut in ["start", "head", "before_image", "mid_url", "after_image"] {
            let prompt = format!("a cat [[sim: style=piapi picture=32x32 cut={cut} cut_by={by}]]");
            let (answer, reset) = bench.raw_post(CHAT, &ask(&prompt)).await;
            assert_eq!(reset, by == "reset", "{cut} {by}");
            assert_eq!(answer.is_empty(), cut == "start", "{cut}: {answer}");
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            // Undoes the chunks: every event here is one line of its own.
            let lines: Vec<_> = body.lines().filter(|line| line.starts_with("data: ")).collect();
            let stream = lines.join("\n\n");
            let text = text(&stream);
            match cut {
                "start" | "head" => assert!(text.is_empty(), "{text}"),
                "before_image" => assert!(text.contains("complete ✅") && !text.contains("!["), "{text}"),
                "mid_url" => assert!(text.contains("![gen_") && !text.ends_with(')'), "{text}"),
                _ => assert!(text.ends_with(".png)"), "{text}"),
            }
            assert!(!stream.contains("finish_reason\":\"stop"));
            assert_eq!(bench.last().billed_nanos, Some(20_000_000), "{cut}");
        }
    }
}

#[tokio::test]
async fn framing_can_be_hostile() {
    let bench = Bench::at_once().await;
    let raw = async |directive: &str| {
        let prompt = format!("a cat [[sim: style=piapi picture=32x32 sse={directive}]]");
        let answer = bench.send(CHAT, &ask(&prompt)).await.unwrap();
        answer.bytes().await.unwrap()
    };
    let cr = String::from_utf8(raw("cr_only").await.to_vec()).unwrap();
    assert!(!cr.contains('\n'));
    assert_eq!(links(&bench, &text(&cr)).len(), 1);
    let bom = String::from_utf8(raw("bom").await.to_vec()).unwrap();
    assert!(bom.starts_with('\u{feff}'));
    assert_eq!(links(&bench, &text(&bom)).len(), 1);
    let bad = raw("bad_utf8").await;
    assert!(std::str::from_utf8(&bad).is_err());
    assert_eq!(links(&bench, &text(&String::from_utf8_lossy(&bad))).len(), 1);
    let twice = String::from_utf8(raw("done_twice").await.to_vec()).unwrap();
    assert_eq!(twice.matches("data: [DONE]").count(), 2);
    let error = String::from_utf8(raw("error_event").await.to_vec()).unwrap();
    assert!(events(&error).last().unwrap().1.starts_with("{\"error\":"));
    assert_eq!(bench.last().billed_nanos, Some(660_000));
    assert!(raw("big_event").await.len() > 20 << 20);
}

#[tokio::test]
async fn some_streams_never_get_anywhere() {
    let bench = Bench::at_once().await;
    for (sse, mark) in [
        ("no_newline", "xxxx"),
        ("comments_forever", ": keep-alive"),
        ("flood", "data: {"),
        ("comment_flood", ":\n\n:"),
    ] {
        let answer = bench.send(CHAT, &ask(&format!("a cat [[sim: sse={sse}]]"))).await.unwrap();
        let mut body = answer.bytes_stream();
        let mut text = String::new();
        while text.matches(mark).count() < 3 {
            let part = tokio::time::timeout(Duration::from_secs(10), body.next()).await.unwrap();
            text.push_str(&String::from_utf8_lossy(&part.unwrap().unwrap()));
        }
        assert!(!text.contains("finish_reason\":\"stop"), "{sse}");
    }
}

#[tokio::test]
async fn a_style_can_be_a_rule() {
    let bench = Bench::at_once().await;
    bench.rule(Endpoint::Chat, Faults { style: Some(Style::None), ..Faults::default() });
    assert!(bench.stream(CHAT, &ask("a cat")).await.ends_with("data:[none]\n\n"));
}
