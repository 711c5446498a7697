//! The Images API: answers, streams, and OpenAI's contract.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Bench, GENERATIONS, events, fixture, fixture_text, generate, same_shape};
use crate::simulator::Outcome;

const EDITS: &str = "/v1/images/edits";

fn decoded(b64: &Value) -> image::DynamicImage {
    image::load_from_memory(&STANDARD.decode(b64.as_str().unwrap()).unwrap()).unwrap()
}

fn picture(width: u32, height: u32, format: image::ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// A multipart form, by hand.
#[derive(Default)]
struct Form(Vec<u8>);

const BOUNDARY: &str = "------------------------d74496d66958873e";

impl Form {
    fn text(self, name: &str, text: &str) -> Self {
        self.part(&format!("name=\"{name}\""), text.as_bytes())
    }

    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.part(&format!("name=\"{name}\"; filename=\"a.png\""), bytes)
    }

    fn part(mut self, named: &str, bytes: &[u8]) -> Self {
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {named}\r\n\r\n");
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    async fn send(mut self, bench: &Bench) -> reqwest::Response {
        self.0.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let request = bench.request(http::Method::POST, EDITS).header("content-type", kind);
        request.body(self.0).send().await.unwrap()
    }
}

#[tokio::test]
async fn an_answer_holds_the_picture_itself() {
    let bench = Bench::at_once().await;
    let mut request = fixture("gpt_image_1_request_piapi_doc.json");
    request["prompt"] = json!("A cute baby sea otter [[sim: picture=64x32]]");
    let (status, body) = bench.post(GENERATIONS, &request).await;
    assert_eq!(status, 200);
    let mut documented = fixture("gpt_image_openai_recorded_edit.json");
    documented["usage"] = fixture("gpt_image_1_response_openai_spec.json")["usage"].clone();
    same_shape(&documented, &body, "");
    let bytes = STANDARD.decode(body["data"][0]["b64_json"].as_str().unwrap()).unwrap();
    assert_eq!(image::guess_format(&bytes).unwrap(), image::ImageFormat::Jpeg);
    assert_eq!(decoded(&body["data"][0]["b64_json"]).width(), 64);
    let last = bench.last();
    assert_eq!((last.outcome, last.billed_nanos), (Outcome::Completed, Some(11_000_000)));
    assert_eq!(last.files[0].sha256, Some(hex::encode(Sha256::digest(&bytes))));
    assert_eq!(last.files[0].url, "inline:0");
}

#[tokio::test]
async fn usage_echo_and_form_are_as_told() {
    let bench = Bench::at_once().await;
    let prompt = "an otter [[sim: picture=32x32 usage=false echo=false form=url]]";
    let request = json!({"model": "gpt-image-1", "prompt": prompt, "n": 2, "quality": "high"});
    let (_, body) = bench.post(GENERATIONS, &request).await;
    let keys: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["created", "data"]);
    assert_eq!(body["data"][0]["revised_prompt"], prompt);
    assert_eq!(bench.size(body["data"][1]["url"].as_str().unwrap()).await, (32, 32));
    assert_eq!(bench.last().billed_nanos, Some(2 * 167_000_000));

    let preview =
        json!({"model": "gpt-image-2-preview", "prompt": "x", "response_format": "url", "size": "64x64"});
    let (_, body) = bench.post(GENERATIONS, &preview).await;
    assert_eq!(bench.size(body["data"][0]["url"].as_str().unwrap()).await, (64, 64));
    assert_eq!(bench.last().billed_nanos, Some(100_000_000));
}

#[tokio::test]
async fn a_stream_names_its_events_or_not() {
    let bench = Bench::at_once().await;
    let ask = |style: &str| {
        let prompt = format!("an otter [[sim: picture=64x64 {style}]]");
        json!({"model": "gpt-image-1", "prompt": prompt, "stream": true, "partial_images": 2})
    };
    let documented = events(&fixture_text("gpt_image_1_stream_generation_full.sse"));
    let stream = bench.stream(GENERATIONS, &ask("")).await;
    let got = events(&stream);
    assert_eq!(got.len(), documented.len());
    for ((name, data), (documented_name, documented)) in got.iter().zip(&documented) {
        assert_eq!(name, documented_name);
        let parse = |data: &str| serde_json::from_str::<Value>(data).unwrap();
        same_shape(&parse(documented), &parse(data), name);
    }
    let parse = |data: &str| serde_json::from_str::<Value>(data).unwrap();
    assert_eq!(decoded(&parse(&got[0].1)["b64_json"]).width(), 16);
    assert_eq!(decoded(&parse(&got[2].1)["b64_json"]).width(), 64);

    let bare = bench.stream(GENERATIONS, &ask("style=bare")).await;
    assert!(!bare.contains("event:") && !bare.contains("[DONE]"));
    let relay = bench.stream(GENERATIONS, &ask("style=openrouter")).await;
    assert!(!relay.contains("event:") && relay.ends_with("data: [DONE]\n\n"));
    assert!(relay.contains("\"created\":") && !relay.contains("\"created_at\":"));
}

#[tokio::test]
async fn a_stream_goes_wrong_as_told() {
    let bench = Bench::at_once().await;
    for cut in ["start", "head", "before_image", "mid_url", "after_image"] {
        let prompt = format!("an otter [[sim: picture=32x32 cut={cut} cut_by=eof]]");
        let request = json!({"model": "gpt-image-1", "prompt": prompt, "stream": true, "partial_images": 1});
        let (answer, _) = bench.raw_post(GENERATIONS, &request).await;
        let partial = answer.contains("event: image_generation.partial_image");
        let completed = answer.contains("event: image_generation.completed");
        let whole = answer.contains("\"usage\":");
        let expected = match cut {
            "start" | "head" => (false, false, false),
            "before_image" => (true, false, false),
            "mid_url" => (true, true, false),
            _ => (true, true, true),
        };
        assert_eq!((partial, completed, whole), expected, "{cut}");
        assert_eq!(bench.last().billed_nanos, Some(42_000_000));
    }
    let ask = |sse: &str| {
        let prompt = format!("an otter [[sim: picture=32x32 sse={sse}]]");
        json!({"model": "gpt-image-1", "prompt": prompt, "stream": true})
    };
    let error = bench.stream(GENERATIONS, &ask("error_event")).await;
    assert_eq!(events(&error).last().unwrap().0, "error");
    let twice = bench.stream(GENERATIONS, &ask("done_twice")).await;
    assert_eq!(twice.matches("[DONE]").count(), 2);
    assert!(bench.stream(GENERATIONS, &ask("bom")).await.starts_with('\u{feff}'));
}

#[tokio::test]
async fn the_contract_is_held() {
    let bench = Bench::at_once().await;
    let with = |key: &str, value: Value| {
        let mut request = generate("an otter");
        request[key] = value;
        request
    };
    let (status, body) = bench.post(GENERATIONS, &with("response_format", json!("url"))).await;
    assert_eq!((status, body), (400, fixture("gpt_image_openai_recorded_400_response_format.json")));
    let mut transparent = with("background", json!("transparent"));
    transparent["output_format"] = json!("jpeg");
    let cases = [
        with("size", json!("512x512")),
        with("quality", json!("ultra")),
        with("background", json!("blue")),
        with("output_format", json!("gif")),
        with("output_compression", json!(101)),
        with("moderation", json!("none")),
        with("n", json!(0)),
        with("n", json!(11)),
        with("n", json!("2")),
        with("partial_images", json!(4)),
        with("stream", json!("yes")),
        with("input_fidelity", json!("high")),
        with("prompt", json!("")),
        with("prompt", json!("x".repeat(32_001))),
        with("user", json!("someone")),
        transparent,
    ];
    for request in cases {
        let (status, body) = bench.post(GENERATIONS, &request).await;
        assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid_request_error")), "{request}");
        assert!(body["error"]["param"].is_string() && body["error"]["code"].is_string(), "{body}");
    }
    let (status, body) = bench.post(GENERATIONS, &with("model", json!("dall-e-3"))).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(bench.simulator.billed().total_nanos, 0);
}

#[tokio::test]
async fn refusals_and_failures_cost_nothing() {
    let bench = Bench::at_once().await;
    let (status, body) = bench.post(GENERATIONS, &generate("an otter [[sim: refuse]]")).await;
    same_shape(&fixture("gpt_image_moderation_blocked.json"), &body, "");
    assert_eq!((status, &body["error"]["code"]), (400, &json!("moderation_blocked")));
    let (status, body) = bench.post(GENERATIONS, &generate("an otter [[sim: fail]]")).await;
    assert_eq!((status, &body["error"]["type"]), (500, &json!("invalid_request_error")));
    let (status, body) = bench.post(GENERATIONS, &generate("an otter [[sim: no_image billed=false]]")).await;
    assert_eq!((status, &body["data"]), (200, &json!([])));
    assert_eq!(bench.simulator.billed().total_nanos, 0);
}

#[tokio::test]
async fn edits_take_real_pictures() {
    let bench = Bench::at_once().await;
    let png = picture(20, 10, image::ImageFormat::Png);
    let jpeg = picture(20, 10, image::ImageFormat::Jpeg);
    let small = picture(5, 5, image::ImageFormat::Png);
    let form = || {
        let prompt = "a hat [[sim: picture=32x32]]";
        Form::default().text("model", "gpt-image-1").text("prompt", prompt).text("n", "2")
    };
    let whole = form().file("image", &png).file("image[]", &jpeg).file("mask", &png);
    let (status, body) = super::read(whole.send(&bench).await).await;
    assert_eq!((status, body["data"].as_array().unwrap().len()), (200, 2), "{body}");
    assert_eq!(bench.last().endpoint, EDITS);
    let answer = form().text("stream", "true").file("image", &png).send(&bench).await;
    let got = events(&answer.text().await.unwrap());
    assert_eq!((got[0].0.as_str(), got.len()), ("image_edit.completed", 2));

    let cases = [
        (form(), "image"),
        (form().file("image", b"<svg/>"), "image"),
        (form().file("image", &png).file("mask", &small), "mask"),
        (form().file("image", &png).file("mask", &jpeg), "mask"),
        (form().text("response_format", "url").file("image", &png), "response_format"),
        ((0..17).fold(form(), |form, _| form.file("image", &png)), "image"),
    ];
    for (form, param) in cases {
        let (status, body) = super::read(form.send(&bench).await).await;
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{body}");
        assert_eq!(bench.last().billed_nanos, Some(0));
    }
    let (status, _) = bench.post(EDITS, &generate("not a form")).await;
    assert_eq!(status, 400);
}
