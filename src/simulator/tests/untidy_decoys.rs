//! What looks like a result and is none, and what comes back besides: on the wire, and not in the ledger.

use serde_json::json;

use super::untidy::{chat, flux, image, image_stream};
use super::{Bench, CHAT, TASK, txt2img};
use crate::simulator::Outcome;

#[tokio::test]
async fn echoes_stand_where_requests_are_echoed_and_nothing_was_made() {
    let bench = Bench::at_once().await;
    for (word, path) in [
        ("echo_input", "/data/input/image"),
        ("echo_meta_input", "/data/meta/input/image_url"),
        ("echo_config", "/data/config/image"),
        ("echo_request", "/data/request/body/image"),
    ] {
        let body = flux(&bench, &format!("decoy={word}")).await.json();
        let link = body.pointer(path).and_then(|link| link.as_str()).unwrap_or_default().to_owned();
        assert!(link.contains("/decoys/"), "{word}: {body}");
        assert_eq!((body["data"]["status"].as_str(), bench.last().files.len()), (Some("completed"), 0));
        assert_eq!(bench.last().outcome, Outcome::NoImage);
        let (status, label, bytes) = bench.file(&link).await;
        assert_eq!((status, label.as_str()), (200, "image/png"));
        assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 24);
    }
}

#[tokio::test]
async fn inputs_are_handed_back() {
    let bench = Bench::at_once().await;
    let link = "https://example.invalid/in.png";
    let task = |word: &str, image: &str| {
        let mut body = txt2img(&format!("a cat [[sim: decoy={word}]]"));
        body["task_type"] = json!("img2img");
        body["input"] = json!({"prompt": body["input"]["prompt"], "image": image});
        body
    };
    let get = async |word: &str, image: &str| {
        let (_, body) = bench.post(TASK, &task(word, image)).await;
        let id = body["data"]["task_id"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
        bench.poll(&id).await["data"]["output"]["image_url"].as_str().unwrap().to_owned()
    };
    assert_eq!(get("input_link", link).await, link);
    let moved = get("input_bytes", link).await;
    let answer = bench.http.get(&moved).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (307, link));
    let small = bench.file("/decoys/small.png").await.2;
    let packed = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &small);
    let moved = get("input_bytes", &format!("data:image/png;base64,{packed}")).await;
    assert_eq!(bench.file(&moved).await.2, small);
    let message = json!({"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": link}},
        {"type": "text", "text": "blue, as https://example.invalid/style.png [[sim: decoy=prompt_link]]"},
    ]});
    let body = json!({"model": "gpt-4o-image", "messages": [message], "stream": true});
    let text = bench.stream(CHAT, &body).await;
    assert!(text.contains("![gen_01](https://example.invalid/style.png)"), "{text}");
}

#[tokio::test]
async fn previews_stand_alone_or_beside_the_result() {
    let bench = Bench::at_once().await;
    assert!(flux(&bench, "decoy=thumbnail").await.json()["data"]["thumbnail_url"].is_string());
    assert!(image(&bench, "decoy=preview").await.json()["preview_url"].is_string());
    assert!(chat(&bench, "decoy=progress").await.text().contains("[100](http://"));
    assert!(image(&bench, "decoy=unknown_key").await.json()["artifact_ref"]["x_data"].is_string());
    assert!(chat(&bench, "decoy=decoy_host").await.text().contains("![gen_01](https://videos.openai.com/"));
    let partial = image_stream(&bench, "decoy=partial").await.text();
    assert!(partial.contains("event: image_generation.partial_image") && !partial.contains("completed"));
    let both = image(&bench, "decoy=thumbnail,preview beside").await.json();
    assert!(both["data"][0]["b64_json"].is_string() && both["thumb"].is_string());
    assert_eq!((bench.last().files.len(), bench.last().outcome), (1, Outcome::Completed));
}

#[tokio::test]
async fn the_prompt_comes_back_changed() {
    let bench = Bench::at_once().await;
    let get = async |form: &str| {
        let prompt = format!("a \"cafe\u{301}\" <cat> [[sim: prompt_as={form}]]");
        let id = bench.task(&prompt).await;
        bench.poll(&id).await["data"]["input"]["prompt"].as_str().unwrap().to_owned()
    };
    assert!(get("nfc").await.starts_with("a \"café\" <cat>"));
    assert!(get("html").await.starts_with("a &quot;cafe\u{301}&quot; &lt;cat&gt;"));
    assert!(get("prefixed").await.starts_with("A highly detailed photograph of a \"cafe"));
    assert!(!get("truncated").await.contains("truncated"));
    assert!(get("translated").await.starts_with("一只猫"));
}

#[tokio::test]
async fn a_task_changes_its_mind_with_figures_of_our_choosing() {
    let bench = Bench::at_once().await;
    let prompt = "a cat [[sim: status=failed,failed consume=0,0 frozen=20000,0 restored=true]]";
    let id = bench.task(prompt).await;
    let seen = [bench.poll(&id).await, bench.poll(&id).await, bench.poll(&id).await];
    let status: Vec<_> = seen.iter().map(|body| body["data"]["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["failed", "failed", "completed"]);
    let frozen: Vec<_> = seen.iter().map(|body| body["data"]["meta"]["usage"]["frozen"].as_i64()).collect();
    assert_eq!(frozen, [Some(20_000), Some(0), Some(0)]);
    assert!(seen[0]["data"]["logs"].to_string().contains("restored frozen points"));
    assert!(seen[2]["data"]["output"]["image_url"].is_string());
}
