//! The untidy layer on the wire: what each word does to the bytes of a right answer.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use serde_json::{Value, json};

use super::{Bench, CHAT, GENERATIONS, TASK, V1, V3, ask, events, txt2img};
use crate::simulator::Outcome;

/// Labels and bytes of an answer.
pub struct Wire {
    pub label: Option<String>,
    pub encoding: Option<String>,
    pub bytes: Vec<u8>,
}

impl Wire {
    async fn of(answer: reqwest::Response) -> Self {
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (label, encoding) = (header("content-type"), header("content-encoding"));
        Self { label, encoding, bytes: answer.bytes().await.unwrap().to_vec() }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.bytes.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }
}

pub async fn image(bench: &Bench, directive: &str) -> Wire {
    let body = json!({"model": "gpt-image-1", "prompt": format!("a cat [[sim: picture=16x16 {directive}]]")});
    Wire::of(bench.send(GENERATIONS, &body).await.unwrap()).await
}

pub async fn image_stream(bench: &Bench, directive: &str) -> Wire {
    let prompt = format!("a cat [[sim: picture=16x16 {directive}]]");
    let body = json!({"model": "gpt-image-1", "prompt": prompt, "stream": true});
    Wire::of(bench.send(GENERATIONS, &body).await.unwrap()).await
}

pub async fn chat(bench: &Bench, directive: &str) -> Wire {
    let body = ask(&format!("a cat [[sim: picture=16x16 style=whole {directive}]]"));
    Wire::of(bench.send(CHAT, &body).await.unwrap()).await
}

pub async fn flux(bench: &Bench, directive: &str) -> Wire {
    // What was answered may be no JSON for us: the ledger knows the id.
    let answer = bench.send(TASK, &txt2img(&format!("a cat [[sim: picture=16x16 {directive}]]"))).await;
    assert_eq!(answer.unwrap().status(), 200);
    let id = bench.last().upstream_id.unwrap();
    Wire::of(bench.request(http::Method::GET, &format!("{TASK}/{id}")).send().await.unwrap()).await
}

#[tokio::test]
async fn labels_are_what_is_asked_for() {
    let bench = Bench::at_once().await;
    for (said, label) in [
        ("text/plain", Some("text/plain")),
        ("none", None),
        ("\"application/json; charset=utf8\"", Some("application/json; charset=utf8")),
    ] {
        let wire = image(&bench, &format!("label={said}")).await;
        assert_eq!(wire.label.as_deref(), label);
        assert!(wire.json()["data"][0]["b64_json"].is_string());
    }
    let wire = chat(&bench, "label=\"Text/Event-Stream; charset=utf-8\"").await;
    assert_eq!(wire.label.as_deref(), Some("Text/Event-Stream; charset=utf-8"));
    assert!(wire.text().contains("data: [DONE]"));
    assert_eq!(
        flux(&bench, "label=application/octet-stream").await.label.unwrap(),
        "application/octet-stream"
    );
}

#[tokio::test]
async fn text_is_written_in_every_legal_and_illegal_way() {
    let bench = Bench::at_once().await;
    let get = async |word: &str| image(&bench, &format!("wrap={word}")).await;
    assert!(get("bom").await.bytes.starts_with(b"\xef\xbb\xbf{"));
    assert!(get("leading").await.bytes.starts_with(b"\n \n\r\n"));
    assert!(get("leading").await.json()["data"].is_array());
    assert!(get("pretty").await.text().contains("\n  \"data\": ["));
    let slashed = flux(&bench, "wrap=slashes").await;
    assert!(
        slashed.text().contains("http:\\/\\/127.0.0.1") && slashed.json()["data"]["status"] == "completed"
    );
    let escaped = get("unicode").await;
    assert!(escaped.text().contains("\"\\u0064\\u0061\\u0074\\u0061\"") && escaped.json()["data"].is_array());
    assert!(get("newline").await.bytes.ends_with(b"}\n"));
    assert!(get("nul").await.bytes.ends_with(b"}\0"));
    assert!(get("comment").await.bytes.ends_with(b"-->\n"));
    assert!(get("second_document").await.text().contains("}\n{\"status\":\"ok\""));
    assert!(get("fence").await.text().starts_with("```json\n{"));
    assert!(get("guard").await.text().starts_with(")]}'\n{"));
    let wide = get("utf16").await;
    assert_eq!(&wide.bytes[..4], b"\xff\xfe{\0");
    assert_eq!(wide.label.as_deref(), Some("application/json; charset=utf-16"));
    let body = txt2img("a cat [[sim: wrap=crumbs]]").to_string();
    let head = format!("x-api-key: good\r\nuser-agent: x\r\ncontent-length: {}", body.len());
    let post = format!("POST {TASK} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n{head}\r\n\r\n{body}");
    let (answer, _) = bench.raw(&post).await;
    assert!(answer.contains("\r\n1\r\n{\r\n1\r\n\"\r\n"), "{answer}");
}

#[tokio::test]
async fn answers_are_packed_unasked() {
    let bench = Bench::at_once().await;
    let plain = image(&bench, "").await.json()["data"].as_array().unwrap().len();
    let unpacked = |mut from: Box<dyn Read>| {
        let mut text = Vec::new();
        from.read_to_end(&mut text).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["data"].as_array().unwrap().len()
    };
    for (word, encoding) in [("gzip", Some("gzip")), ("gzip_unlabelled", None), ("x_gzip", Some("x-gzip"))] {
        let wire = image(&bench, &format!("wrap={word}")).await;
        assert_eq!(wire.encoding.as_deref(), encoding);
        assert_eq!(unpacked(Box::new(GzDecoder::new(std::io::Cursor::new(wire.bytes)))), plain);
    }
    let wire = image(&bench, "wrap=gzip_twice").await;
    assert_eq!(wire.encoding.as_deref(), Some("gzip, gzip"));
    let twice = GzDecoder::new(GzDecoder::new(std::io::Cursor::new(wire.bytes)));
    assert_eq!(unpacked(Box::new(twice)), plain);
    let wire = image(&bench, "wrap=deflate").await;
    assert_eq!(unpacked(Box::new(ZlibDecoder::new(std::io::Cursor::new(wire.bytes)))), plain);
    let wire = image(&bench, "wrap=deflate_raw").await;
    assert_eq!(wire.encoding.as_deref(), Some("deflate"));
    assert_eq!(unpacked(Box::new(DeflateDecoder::new(std::io::Cursor::new(wire.bytes)))), plain);
    let wire = image(&bench, "wrap=gzip_false").await;
    assert_eq!((wire.encoding.as_deref(), wire.bytes[0]), (Some("gzip"), b'{'));
    let (br, zstd) = (image(&bench, "wrap=br").await, image(&bench, "wrap=zstd").await);
    assert_eq!((br.encoding.as_deref(), zstd.encoding.as_deref()), (Some("br"), Some("zstd")));
    assert!(zstd.bytes.starts_with(b"\x28\xb5\x2f\xfd") && br.bytes.ends_with(&[3]));
}

#[tokio::test]
async fn numbers_are_floats_strings_or_absurd() {
    let bench = Bench::at_once().await;
    assert!(flux(&bench, "wrap=floats").await.text().contains("\"consume\":15000.0"));
    assert!(flux(&bench, "wrap=number_strings").await.text().contains("\"consume\":\"15000\""));
    let coded = flux(&bench, "wrap=string_code").await;
    assert!(coded.text().contains("\"code\":\"200\"") && coded.text().contains("\"consume\":15000"));
    let (_, body) = bench.post(TASK, &txt2img("a cat [[sim: wrap=number_ids]]")).await;
    let id = body["data"]["task_id"].as_u64().expect("a number");
    assert_eq!(bench.poll(&id.to_string()).await["data"]["task_id"], id);
    for figure in ["1e16", "9223372036854775807", "-1", "1e400"] {
        let text = flux(&bench, &format!("consume={figure},...")).await.text();
        assert!(text.contains(&format!("\"consume\":{figure}")), "{text}");
    }
    assert!(flux(&bench, "consume=abc,...").await.text().contains("\"consume\":\"abc\""));
    let body = flux(&bench, "frozen=20000,... consume=absent,...").await.json();
    let usage = &body["data"]["meta"]["usage"];
    assert_eq!((usage["frozen"].as_i64(), usage.get("consume")), (Some(20_000), None));
}

#[tokio::test]
async fn a_stream_is_framed_in_every_manner_and_a_document_as_a_stream() {
    let bench = Bench::at_once().await;
    let event = image(&bench, "wrap=event").await;
    assert_eq!(event.label.as_deref(), Some("text/event-stream"));
    assert!(event.text().starts_with("data: {") && event.text().ends_with("\n\ndata: [DONE]\n\n"));
    let lines = chat(&bench, "wrap=ndjson").await;
    assert!(lines.text().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert!(chat(&bench, "wrap=event_array").await.json().as_array().unwrap().len() > 3);
    let whole = chat(&bench, "wrap=document").await.json();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(whole["object"] == "chat.completion" && text.contains("![gen_"), "{whole}");
    let whole = image_stream(&bench, "wrap=document").await.json();
    assert!(whole["data"][0]["b64_json"].is_string(), "{whole}");
    assert!(!chat(&bench, "wrap=sse_cr").await.text().contains('\n'));
    assert!(chat(&bench, "wrap=sse_crlf").await.text().contains("\r\n\r\ndata: "));
    assert!(chat(&bench, "wrap=sse_tight").await.text().starts_with("data:{"));
    assert!(chat(&bench, "wrap=sse_ids").await.text().starts_with("id: 0\nretry: 3000\ndata: "));
    assert!(chat(&bench, "wrap=sse_comments").await.text().starts_with(": ping 0\n\n"));
    assert!(chat(&bench, "wrap=sse_names").await.text().starts_with("event: message\ndata: "));
    let many = image_stream(&bench, "wrap=sse_multiline").await.text();
    assert!(many.contains("data: {\ndata:   "));
    assert!(events(&many).iter().all(|(_, data)| serde_json::from_str::<Value>(data).is_ok()));
    assert!(image_stream(&bench, "wrap=sse_torn").await.text().contains(": keepalive\n\n"));
    let open = chat(&bench, "wrap=sse_unended").await.text();
    assert!(!open.contains("[DONE]") && !open.contains("\"stop\"") && open.contains("![gen_"));
}

#[tokio::test]
async fn images_are_spelled_otherwise() {
    let bench = Bench::at_once().await;
    let get = async |words: &str| {
        let wire = image(&bench, &format!("spell={words}")).await;
        wire.json()["data"][0]["b64_json"].as_str().unwrap().to_owned()
    };
    let safe = get("url_safe").await;
    assert!(!safe.contains(['+', '/']) && URL_SAFE.decode(safe).unwrap().starts_with(b"\x89PNG"));
    assert!(!get("unpadded").await.contains('='));
    assert!(get("base64_prefix").await.starts_with("base64,iVBOR"));
    assert!(get("data_prefix").await.starts_with("data:image/png;base64,iVBOR"));
    assert!(get("untyped_prefix").await.starts_with("data:;base64,iVBOR"));
    assert!(get("odd_prefix").await.starts_with("DATA:Image/PNG;charset=utf-8;BASE64,iVBOR"));
    let python = get("python_bytes").await;
    assert!(python.starts_with("b'iVBOR") && python.ends_with('\''));
    assert!(!get("percent").await.contains(['+', '/', '=']));
    assert_eq!(get("wrapped_lf").await.lines().next().unwrap().len(), 76);
    assert!(get("wrapped_crlf").await.ends_with("\r\n"));
    assert!(get("spaced,quoted").await.starts_with(" \n\t\"iVBOR"));
    let linked = flux(&bench, "link=query spell=html_escaped,angled").await.json();
    let link = linked["data"]["output"]["image_url"].as_str().unwrap();
    assert!(link.starts_with("<http://") && link.contains("&amp;sp=r&amp;sig="), "{link}");
}

#[tokio::test]
async fn images_sit_where_other_vendors_put_them() {
    let bench = Bench::at_once().await;
    let seats = [
        ("parts", "/choices/0/message/content/1/image_url/url"),
        ("message_images", "/choices/0/message/images/0/image_url/url"),
        ("images", "/images/0/url"),
        ("output_list", "/output/0"),
        ("output_link", "/output"),
        ("output_image_urls", "/output/image_urls/0"),
        ("result_images", "/result/images/0/url"),
        ("url_list", "/result/images/0/url/0"),
    ];
    for (seat, path) in seats {
        for (inline, start) in [("form=url", "http://"), ("inline form=url", "data:image/png;base64,iVBOR")] {
            let body = image(&bench, &format!("seat={seat} {inline}")).await.json();
            let text = body.pointer(path).and_then(Value::as_str).unwrap_or_default();
            assert!(text.starts_with(start), "{seat}: {body}");
            assert_eq!(body["data"], json!([]), "{seat}");
        }
    }
    for (seat, path) in [
        ("result_image", "/result/image"),
        ("inline_data", "/candidates/0/content/parts/0/inlineData/data"),
        ("image_call", "/output/0/result"),
    ] {
        let body = flux(&bench, &format!("seat={seat}")).await.json();
        assert!(body["data"].pointer(path).unwrap().as_str().unwrap().starts_with("iVBOR"), "{seat}: {body}");
    }
    assert!(
        flux(&bench, "inline").await.json()["data"]["output"]["image_url"]
            .as_str()
            .unwrap()
            .starts_with("data:")
    );
    let link = image(&bench, "seat=only_link form=url").await;
    assert!(link.text().starts_with("http://") && link.label.unwrap().starts_with("text/plain"));
    let bytes = image(&bench, "seat=only_bytes").await;
    assert!(bytes.bytes.starts_with(b"\x89PNG") && bytes.label.as_deref() == Some("image/png"));
    for (seat, mark) in [
        ("markdown", "![image](http://"),
        ("html", "<img src=\\\"http://"),
        ("bare", "\"content\":\"http://"),
    ] {
        assert!(chat(&bench, &format!("seat={seat}")).await.text().contains(mark), "{seat}");
    }
    let delta = chat(&bench, "seat=message_images inline").await.text();
    let images: Vec<Value> = events(&delta)
        .iter()
        .filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk.pointer("/choices/0/delta/images/0/image_url/url").cloned())
        .collect();
    assert!(
        images.len() == 1 && images[0].as_str().unwrap().starts_with("data:image/png;base64,"),
        "{delta}"
    );
    let (_, v3) =
        bench.post(V3, &json!({"prompt": "a cat [[sim: inline at_once picture=8x8]]", "samples": 1})).await;
    assert!(v3["download_urls"][0].as_str().unwrap().starts_with("data:image/png"), "{v3}");
    let (_, v1) =
        bench.post(V1, &json!({"prompt": "a cat [[sim: inline picture=8x8]]", "output_format": "png"})).await;
    let v1 = bench.get(&format!("{V1}/status/{}", v1["job_id"].as_str().unwrap())).await.1;
    assert!(v1["result_url"].as_str().unwrap().starts_with("data:image/png"), "{v1}");
}

#[tokio::test]
async fn an_answer_stops_after_its_last_image() {
    let bench = Bench::at_once().await;
    for (stop, end) in [("value", ""), ("quote", "\""), ("object", "\"}")] {
        let text = image(&bench, &format!("stop={stop}")).await.text();
        let packed = text.strip_suffix(end).unwrap().rsplit('"').next().unwrap();
        assert!(STANDARD.decode(packed).unwrap().ends_with(b"IEND\xaeB`\x82"), "{stop}: {text}");
    }
    let link = flux(&bench, "stop=quote wrap=slashes").await.text();
    assert!(link.ends_with(".png\"") && link.contains("\\/files\\/"), "{link}");
    let body = txt2img("a cat [[sim: stop=quote stop_by=eof picture=16x16]]");
    let (_, taken) = bench.post(TASK, &body).await;
    let path = format!("{TASK}/{}", taken["data"]["task_id"].as_str().unwrap());
    let lost = bench.request(http::Method::GET, &path).send().await.unwrap();
    assert!(lost.bytes().await.is_err());
}

#[tokio::test]
async fn a_no_has_every_vendor_s_shape() {
    let bench = Bench::at_once().await;
    let shapes = [
        ("event_json", "event: error\ndata: {\"error\":{"),
        ("event_text", "event: error\ndata: Your request"),
        ("object", "data: {\"error\":{"),
        ("text", "data: {\"error\":\"Your request"),
        ("typed", "\"type\":\"error\""),
        ("typed_flat", "\"type\":\"error\""),
        ("response_failed", "\"type\":\"response.failed\""),
        ("generation_failed", "\"type\":\"image_generation.failed\""),
        ("object_error", "\"object\":\"error\""),
        ("code", "data: {\"code\":\"content_policy_violation\",\"message\":"),
        ("detail", "data: {\"detail\":"),
        ("errors", "\"success\":false"),
        ("finish_reason", "\"finish_reason\":\"content_filter\""),
        ("refusal", "\"refusal\":\"Your request"),
        ("block_reason", "\"blockReason\":"),
    ];
    for (shape, mark) in shapes {
        let said = chat(&bench, &format!("error_event={shape}")).await.text();
        assert!(said.contains(mark), "{shape}: {said}");
        assert_eq!((bench.last().outcome, bench.last().billed_nanos), (Outcome::NoImage, Some(660_000)));
        assert!(bench.last().files.is_empty(), "{shape}");
        let said = image(&bench, &format!("error_event={shape}")).await;
        assert!(!said.text().contains("b64_json") && bench.last().billed_nanos == Some(0), "{shape}");
    }
    let after = chat(&bench, "error_event=object error_after=text").await.text();
    assert!(after.find("Generating").unwrap() < after.find("\"error\"").unwrap());
    let after = image_stream(&bench, "error_event=generation_failed error_after=partial").await.text();
    assert!(after.find("partial_image").unwrap() < after.find("event: image_generation.failed").unwrap());
}
