//! Result files with bytes around them and odd labels, hosts that are away for a while, links of all lengths.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::untidy::image;
use super::{Bench, V3};

async fn link(bench: &Bench, directive: &str) -> String {
    let id = bench.task(&format!("a cat [[sim: picture=16x16 {directive}]]")).await;
    bench.poll(&id).await["data"]["output"]["image_url"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn bytes_follow_an_image_and_the_ledger_knows_both() {
    let bench = Bench::at_once().await;
    for (directive, more) in [
        ("file_wrap=newline", 1),
        ("file_wrap=two_zeroes", 2),
        ("file_wrap=zeroes", 300),
        ("file_as=jpeg file_wrap=camera", 320),
        ("file_as=jpeg file_wrap=mp4", 2_032),
        ("file_as=webp file_wrap=newline", 1),
        ("file_as=gif file_wrap=zeroes", 300),
    ] {
        let (status, _, bytes) = bench.file(&link(&bench, directive).await).await;
        let (made, _) = bytes.split_at(bytes.len() - more);
        let file = bench.last().files[0].clone();
        assert_eq!((status, file.sha256), (200, Some(hex::encode(Sha256::digest(made)))), "{directive}");
        assert_eq!(file.sent_sha256, Some(hex::encode(Sha256::digest(&bytes))), "{directive}");
        assert_eq!(imagesize::blob_size(&bytes).unwrap().width, 16);
    }
    let gif = bench.file(&link(&bench, "file_as=gif file_wrap=no_terminator").await).await.2;
    assert!(gif.starts_with(b"GIF89a") && gif.ends_with(&[0]));
    let inline = image(&bench, "file_wrap=newline").await.json();
    let inline = inline["data"][0]["b64_json"].as_str().unwrap();
    let inline = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, inline).unwrap();
    assert!(inline.ends_with(b"\x60\x82\n"));
}

#[tokio::test]
async fn files_are_labelled_and_packed_oddly() {
    let bench = Bench::at_once().await;
    for label in ["text/html", "application/octet-stream", "image/jpeg"] {
        let (_, found, bytes) = bench.file(&link(&bench, &format!("file_label={label}")).await).await;
        assert_eq!((found.as_str(), &bytes[..4]), (label, b"\x89PNG".as_slice()));
    }
    assert_eq!(bench.file(&link(&bench, "file_label=none").await).await.1, "");
    for (word, encoding) in [("gzip", Some("gzip")), ("gzip_unlabelled", None)] {
        let link = link(&bench, &format!("file_wrap={word}")).await;
        let answer = bench.http.get(&link).send().await.unwrap();
        let found = answer.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(found.as_deref(), encoding);
        assert!(answer.bytes().await.unwrap().starts_with(b"\x1f\x8b"));
    }
}

#[tokio::test]
async fn a_host_is_away_for_some_gets_or_seconds() {
    let bench = Bench::at_once().await;
    let statuses =
        [("forbidden", 403), ("missing", 404), ("broken", 500), ("html", 200), ("maintenance", 503)];
    for (outage, status) in statuses {
        let link = link(&bench, &format!("outage={outage} outage_gets=2")).await;
        let seen = [bench.file(&link).await, bench.file(&link).await, bench.file(&link).await];
        assert_eq!(seen.each_ref().map(|(status, ..)| *status), [status, status, 200], "{outage}");
        assert!(!seen[1].2.starts_with(b"\x89PNG") && seen[2].2.starts_with(b"\x89PNG"), "{outage}");
    }
    let link = link(&bench, "outage=empty outage_s=60").await;
    assert!(bench.file(&link).await.2.is_empty());
    bench.clock.advance(Duration::from_mins(1));
    assert!(bench.file(&link).await.2.starts_with(b"\x89PNG"));
    let body =
        json!({"prompt": "a cat [[sim: outage=missing outage_of=1 picture=8x8 at_once]]", "samples": 3});
    let (_, v3) = bench.post(V3, &body).await;
    let mut seen = Vec::new();
    for link in v3["download_urls"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        seen.push(bench.file(link).await.0);
    }
    assert_eq!(seen, [200, 404, 200]);
}

#[tokio::test]
async fn links_have_any_length_and_a_password() {
    let bench = Bench::at_once().await;
    for (word, length) in [("long", 2_100), ("very_long", 15_000)] {
        let link = link(&bench, &format!("link={word}")).await;
        assert_eq!((link.len(), bench.file(&link).await.0), (length, 200));
    }
    let signed = link(&bench, "link=query").await;
    assert_eq!(bench.file(&signed).await.0, 200);
    assert_eq!(bench.file(&signed.replace('&', "&amp;")).await.0, 403);
    let link = link(&bench, "link=userinfo").await;
    assert!(link.starts_with("http://relay:p%40ss%3Aword@127.0.0.1"), "{link}");
    assert_eq!(bench.file(&link.replace("relay:p%40ss%3Aword@", "")).await.0, 401);
    assert_eq!(bench.file(&link).await.0, 200);
}
