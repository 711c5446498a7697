//! Adversarial review.
use super::*;
use crate::providers::results;
use crate::providers::{ImageSource, Input, Own};

fn b64(image: &[u8]) -> String {
    STANDARD.encode(image)
}

fn sse(contents: &[String]) -> Vec<u8> {
    let mut out = String::new();
    for content in contents {
        out += &format!("data: {}\n\n", json!({"choices":[{"index":0,"delta":{"content":content}}]}));
    }
    out += "data: [DONE]\n\n";
    out.into_bytes()
}

/// A1: a data URI after more than 512 bytes without a blank.
#[test]
fn a1_release_behind_the_end() {
    let image = b64(&png(7, 8));
    let body =
        sse(&[format!("{}data:image/png;base64,", "生".repeat(200)), image, "。".into(), "fin".into()]);
    let (gathered, answer) = whole(&body);
    println!("images {:?} {:?}", gathered.images, answer.cut);
    assert_eq!(gathered.images, [digest(&png(7, 8))]);
}

/// A1b: bare base64, the beginning of which was given out already.
#[test]
fn a1b_release_behind_the_end() {
    let image = b64(&png(7, 8));
    let (first, rest) = image.split_at(10);
    let body = sse(&[format!("{}{first}", "。".repeat(300)), rest.to_owned(), "。".into()]);
    let (gathered, _) = whole(&body);
    assert_eq!(gathered.images, [digest(&png(7, 8))]);
}

#[test]
fn a2_percent_signs() {
    for n in [8_000usize, 16_000, 32_000, 64_000] {
        let body =
            json!({"data": {"task_id": "x", "status": "processing", "input": {"prompt": "%".repeat(n)}}})
                .to_string();
        let begun = std::time::Instant::now();
        let _ = whole(body.as_bytes());
        println!("{n} percent signs: {:?}", begun.elapsed());
    }
}

#[test]
fn a3_many_links() {
    for n in [5_000usize, 10_000, 20_000] {
        let links: Vec<String> =
            (0..n).map(|at| format!("https://cdn.example.com/images/a/very/long/path/{at:09}.png")).collect();
        let json = json!({"data": {"urls": links}});
        let spool = spool();
        let images = Images::new(&spool, false);
        let begun = std::time::Instant::now();
        let found = results::find(&json, &images, &Own::default());
        println!("{n} links: {:?}, {} images", begun.elapsed(), found.images.len());
    }
}

#[test]
fn a4_repeated_and_added() {
    let spool = spool();
    let images = Images::new(&spool, false);
    let a = json!({"data":[{"url":"https://a.example/1.png"}]});
    let b = json!({"data":[{"url":"https://a.example/1.png"},{"url":"https://a.example/2.png"}]});
    let mut found = results::find(&a, &images, &Own::default());
    found.merge(results::find(&b, &images, &Own::default()));
    println!("{:?}", found.images);
    assert_eq!(found.images.len(), 2);
}

fn page(image: &[u8]) -> String {
    format!(
        "<!DOCTYPE html>\n<html><head><title>Under maintenance</title></head><body><h1>We'll be back soon</h1><img alt=\"logo\" src=\"data:image/png;base64,{}\"><p>Please try again later.</p></body></html>",
        b64(image)
    )
}

/// A5: a maintenance page with its logo inside.
#[tokio::test]
async fn a5_a_page_with_a_logo_is_no_result() {
    let spool = spool();
    let head =
        Head { status: 200, headers: vec![("content-type".into(), "text/html".into())], retry_after: None };
    let body = futures_util::stream::iter([Ok::<_, String>(Bytes::from(page(&png(3, 24))))]);
    let (image, ..) = download((head, body), &spool).await;
    println!("{image:?}");
    assert!(image.is_err());
}

/// A6: many long keys.
#[test]
fn a6_keys() {
    fn rss() -> u64 {
        let s = std::fs::read_to_string("/proc/self/status").unwrap();
        s.lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }
    let before = rss();
    let key = "k".repeat(60_000);
    let pieces: Vec<Result<Bytes, String>> = std::iter::once(Ok(Bytes::from_static(b"{")))
        .chain((0..4_000).map(|at| Ok(Bytes::from(format!("\"{at}{key}\":1,")))))
        .chain(std::iter::once(Ok(Bytes::from_static(b"\"z\":1}"))))
        .collect();
    // made before: 240 MB of input itself; so only a lazy stream is fair
    drop(pieces);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (spool, mut gathered) = (spool(), Gathered::default());
        let lazy = futures_util::stream::iter((0..4_002).map(move |at| {
            Ok::<_, String>(match at {
                0 => Bytes::from_static(b"{"),
                4_001 => Bytes::from_static(b"\"z\":1}"),
                at => Bytes::from(format!("\"{at}{key}\":1,")),
            })
        }));
        let begun = rss();
        let head = Head { status: 200, headers: vec![], retry_after: None };
        let (answer, _e) = read((head, lazy), AMPLE, spool.buffer(), &spool, &mut gathered, None).await;
        println!("{} bytes; peak {} -> {} KiB (before {before})", answer.length, begun, rss());
    });
}

#[test]
fn a7_inputs_echoed_by_another_spelling() {
    let request = |body: &str| Own::of(&serde_json::from_str(body).unwrap());
    let own = request(
        r#"{"prompt":"draw ![x](https://evil.example/a b.png) and HTTPS://Evil.Example/c.png and https://evil.example/d%20e.png"}"#,
    );
    for echo in [
        "https://evil.example/a b.png",
        "https://evil.example/a%20b.png",
        "https://evil.example/c.png",
        "https://evil.example/d e.png",
    ] {
        println!("{echo}: ours {}", own.has_link(echo));
    }
    let _ = (Input::Url(String::new()), ImageSource::Url(String::new()));
}
