//! Whatever stands around an answer, and however it is cut up, the same comes of it.

mod bounds;
mod wrappings;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::providers::call::unknown;
use crate::providers::conformance::spool;
use crate::providers::{Kind, Progress, ProviderError};

const AMPLE: Limits = Limits {
    total: 1 << 30,
    lines: 1_000_000,
    idle: Duration::from_secs(90),
    silent: Duration::from_mins(5),
    whole: Duration::from_mins(15),
    mending: false,
};

/// The parts of an answer, and the digests of the images that stand in them.
#[derive(Default)]
struct Gathered {
    parts: Vec<Part>,
    images: Vec<String>,
}

impl Interpreter for Gathered {
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
        let text = part.json.as_ref().map_or_else(|| part.text.clone(), strings);
        self.images.extend(images.in_text(&text).into_iter().map(|image| image.sha256.clone()));
        self.parts.push(part);
        Vec::new()
    }

    fn conclude(&mut self, _: &Answer) -> Result<Progress, ProviderError> {
        Err(ProviderError::new(Kind::Garbled, unknown("a test"), "a test"))
    }
}

/// All strings of a document, one after the other.
fn strings(json: &Value) -> String {
    match json {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(strings).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => fields.values().map(strings).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

fn read_pieces(
    head: &[(&str, &str)],
    pieces: Vec<Result<Bytes, String>>,
    limits: Limits,
) -> (Gathered, Answer) {
    let headers = head.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let head = Head { status: 200, headers, retry_after: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (spool, mut gathered) = (spool(), Gathered::default());
        let body = futures_util::stream::iter(pieces);
        let (answer, evidence) =
            read((head, body), limits, spool.buffer(), &spool, &mut gathered, None).await;
        assert_eq!(evidence.body.len(), answer.length);
        (gathered, answer)
    })
}

fn whole(body: &[u8]) -> (Gathered, Answer) {
    read_pieces(&[], vec![Ok(Bytes::copy_from_slice(body))], AMPLE)
}

fn in_pieces(body: &[u8], cuts: &[prop::sample::Index]) -> (Gathered, Answer) {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    at.extend([0, body.len()]);
    at.sort_unstable();
    let pieces = at.windows(2).map(|pair| Ok(Bytes::copy_from_slice(&body[pair[0]..pair[1]]))).collect();
    read_pieces(&[], pieces, AMPLE)
}

fn png(seed: u8, side: u32) -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([seed, (x * 7).to_le_bytes()[0], (y * 31).to_le_bytes()[0]]);
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(side, side, pixel).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn digest(bytes: &[u8]) -> String {
    crate::domain::secret::sha256_hex(bytes)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// Ways to write an image into a JSON string.
fn spellings(image: &[u8]) -> Vec<(&'static str, String)> {
    let plain = STANDARD.encode(image);
    let wrapped = |end: &str| {
        plain
            .as_bytes()
            .chunks(76)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect::<Vec<_>>()
            .join(end)
    };
    vec![
        ("plain", plain.clone()),
        ("no padding", plain.trim_end_matches('=').to_owned()),
        ("url-safe", URL_SAFE_NO_PAD.encode(image)),
        ("data uri", format!("data:image/png;base64,{plain}")),
        ("data uri without a type", format!("data:;base64,{plain}")),
        ("data uri of another type", format!("DATA:application/octet-stream;charset=x;base64,{plain}")),
        ("a prefix", format!("base64,{plain}")),
        ("python's bytes", format!("b'{plain}'")),
        ("percent-encoded", plain.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D")),
        ("wrapped", wrapped("\n")),
        ("wrapped by CR LF", wrapped("\r\n")),
        ("wrapped and escaped twice", wrapped("\\n")),
        ("white space around", format!("  {plain}\n")),
        ("markdown", format!("Here you are:\n![cat](data:image/png;base64,{plain})\nEnjoy!")),
        ("glued to prose", format!("Here is your picture: data:image/png;base64,{plain} Enjoy it!")),
        ("after a word", format!("picture;data:image/png;base64,{plain}")),
    ]
}

#[test]
fn an_image_is_found_however_it_is_written() {
    for side in [8, 120] {
        let image = png(1, side);
        for (name, text) in spellings(&image) {
            let (found, answer) = whole(json!({"data": [{"b64_json": text}]}).to_string().as_bytes());
            assert_eq!(found.images, [digest(&image)], "{name}, {side}");
            assert!(answer.whole && answer.broken.is_none(), "{name}");
            assert!(answer.json.unwrap().to_string().len() < 300, "{name}: it is not kept as text");
        }
    }
}

#[test]
fn text_around_an_image_stays_and_words_are_no_images() {
    let image = STANDARD.encode(png(2, 20));
    let text = format!(
        "Before it (data:image/png;base64,{image}) after it, and https://x.example/iVBORw0KGgo/a.png"
    );
    let (found, _) = whole(json!({"content": text}).to_string().as_bytes());
    let content = found.parts[0].json.as_ref().unwrap()["content"].as_str().unwrap();
    assert_eq!(
        content,
        format!("Before it ({MARK}0{MARK}) after it, and https://x.example/iVBORw0KGgo/a.png")
    );
    for words in [
        "iVBORw0KGgoAAAANSUhEUgAAABkAAAAO",
        "UklGRsomething that is no image at all, and has no end",
        &"QUJD".repeat(50_000),
    ] {
        let (found, answer) = whole(json!({"content": words}).to_string().as_bytes());
        assert_eq!(found.parts[0].json.as_ref().unwrap()["content"], *words);
        assert_eq!(found.images.len(), 0, "{answer:?}");
    }
    let (found, _) =
        whole(json!({"content": format!("a mark of ours: {MARK}0{MARK}")}).to_string().as_bytes());
    assert!(!found.parts[0].json.as_ref().unwrap().to_string().contains(MARK));
}

#[test]
fn an_answer_is_what_its_bytes_say() {
    let document = json!({"data": [{"url": "https://x.example/1.png"}], "created": 1}).to_string();
    let events = format!("event: image_generation.completed\ndata: {document}\n\ndata: [DONE]\n\n");
    let labels: [&[(&str, &str)]; 6] = [
        &[],
        &[("content-type", "application/json")],
        &[("content-type", "text/plain; charset=latin1")],
        &[("content-type", "Text/Event-Stream; charset=utf-8")],
        &[("content-type", "application/octet-stream")],
        &[("content-type", "")],
    ];
    let wrappings: Vec<(&str, Vec<u8>)> = vec![
        ("as it is", document.clone().into()),
        ("a mark in front", format!("\u{feff}{document}").into()),
        ("kept alive by white space", format!("{}{document}\n\n", " \r\n".repeat(200)).into()),
        ("kept alive by zeroes", [vec![0; 100], document.clone().into()].concat()),
        ("guarded", format!(")]}}'\n{document}").into()),
        ("followed by zeroes", [document.clone().into(), vec![0; 100]].concat()),
        ("followed by a comment", format!("{document}<!-- served by x at 12 -->").into()),
        ("in a list", format!("[{document}]").into()),
        ("in a cut list", format!("[{document},\n").into()),
        ("as events", events.clone().into()),
        ("as events with CR", events.replace('\n', "\r").into()),
        ("as events with CR LF", events.replace('\n', "\r\n").into()),
        ("as events without a blank", events.replace(": ", ":").into()),
        ("as events with blank lines before", format!("\n\n\r\n{events}").into()),
        ("as events after a mark", format!("\u{feff}{events}").into()),
        (
            "as events among others",
            format!("retry: 10\n\nid: 7\n\n: x\n\ndata:\n\nevent: ping\n\n{events}").into(),
        ),
        ("as a line of events", format!("data: {document}").into()),
        ("pretty, over several lines", format!("data: {}\n\n", document.replace(',', ",\ndata:   ")).into()),
        ("a document on a line of its own", format!("event: x\n{document}\n\n").into()),
        ("gzip", gzip(document.as_bytes())),
        ("gzip of events", gzip(events.as_bytes())),
        ("gzip twice", gzip(&gzip(document.as_bytes()))),
    ];
    for (name, body) in &wrappings {
        for label in labels {
            let pieces = body.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let (found, answer) = read_pieces(label, pieces, AMPLE);
            let links: Vec<_> =
                found.parts.iter().filter_map(|part| part.json.as_ref()?.pointer("/data/0/url")).collect();
            assert_eq!(links, ["https://x.example/1.png"], "{name} labelled {label:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn every_content_encoding_is_taken_off_and_a_wrong_word_is_no_harm() {
    use async_compression::tokio::write as to;
    use tokio::io::AsyncWriteExt;
    macro_rules! packed {
        ($encoder:ident, $body:expr) => {{
            let mut encoder = to::$encoder::new(Vec::new());
            encoder.write_all($body).await.unwrap();
            encoder.shutdown().await.unwrap();
            encoder.into_inner()
        }};
    }
    let image = png(5, 100);
    let document = json!({"data": [{"b64_json": STANDARD.encode(&image)}]}).to_string();
    let body = document.as_bytes();
    let cases: Vec<(&'static str, Vec<u8>)> = vec![
        ("gzip", packed!(GzipEncoder, body)),
        ("x-gzip", packed!(GzipEncoder, body)),
        ("", packed!(GzipEncoder, body)),
        ("deflate", packed!(ZlibEncoder, body)),
        ("deflate", packed!(DeflateEncoder, body)),
        ("br", packed!(BrotliEncoder, body)),
        ("zstd", packed!(ZstdEncoder, body)),
        ("", packed!(ZstdEncoder, body)),
        ("gzip, br", packed!(BrotliEncoder, &packed!(GzipEncoder, body))),
        ("gzip", body.to_vec()),
        ("br", body.to_vec()),
        ("deflate", body.to_vec()),
        ("gzip, gzip", packed!(GzipEncoder, body)),
        ("identity", body.to_vec()),
        ("gzip", image.clone()),
        ("gzip", packed!(GzipEncoder, &image)),
    ];
    let read = move || {
        for (encoding, body) in cases {
            let (found, answer) =
                read_pieces(&[("content-encoding", encoding)], vec![Ok(body.into())], AMPLE);
            assert_eq!(found.images, [digest(&image)], "{encoding}: {answer:?}");
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap();
}

#[test]
fn a_bomb_is_cut_off() {
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 400_000);
    let (_, answer) = read_pieces(&[], vec![Ok(bomb.into())], AMPLE);
    assert!(answer.cut.as_deref().is_some_and(|why| why.contains("inflates")), "{:?}", answer.cut);
    assert!(answer.length < 40 << 20, "{}", answer.length);
}

#[test]
fn bodies_that_are_the_image_or_its_base64() {
    let image = png(3, 60);
    for (name, body) in [
        ("bytes", image.clone()),
        ("base64", STANDARD.encode(&image).into_bytes()),
        ("a data uri", format!("data:image/png;base64,{}", STANDARD.encode(&image)).into_bytes()),
        ("a JSON string", json!(STANDARD.encode(&image)).to_string().into_bytes()),
        (
            "a link's page",
            [b"data: ".to_vec(), STANDARD.encode(&image).into_bytes(), b"\n\n".to_vec()].concat(),
        ),
    ] {
        for labelled in ["image/jpeg", "text/event-stream", "application/json", ""] {
            let (found, answer) =
                read_pieces(&[("content-type", labelled)], vec![Ok(body.clone().into())], AMPLE);
            assert_eq!(found.images, [digest(&image)], "{name} as {labelled}: {answer:?}");
        }
        let (found, answer) = whole(&body[..body.len() * 2 / 3]);
        assert!(found.images.is_empty() && answer.broken == Some(BrokenImage::Cut), "{name}: {answer:?}");
    }
}

#[test]
fn every_type_is_taken_with_what_follows_it() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/images");
    let mut images = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        let image = std::fs::read(&file).unwrap();
        for trailer in [&b""[..], b"\n", &[0; 300]] {
            let body = [&image, trailer].concat();
            let (found, answer) = whole(&body);
            assert_eq!(found.images, [digest(&body)], "{} + {trailer:?}: {answer:?}", file.display());
            let text = json!({"data": [{"b64_json": STANDARD.encode(&body)}]}).to_string();
            let (found, answer) = whole(text.as_bytes());
            assert_eq!(found.images, [digest(&body)], "{} + {trailer:?}, inline: {answer:?}", file.display());
            images += 1;
        }
    }
    assert!(images >= 30, "{images}");
}

#[test]
fn the_running_text_of_a_chat_is_one_text() {
    let image = png(4, 90);
    let text = format!(
        "Look: ![cat](data:image/png;base64,{}) and ![b](https://x.example/b.png).",
        STANDARD.encode(&image)
    );
    for length in [1, 3, 50, 4_000, usize::MAX] {
        let pieces = text.as_bytes().chunks(length.min(text.len()));
        let chunk = |piece: &[u8]| {
            let content = std::str::from_utf8(piece).unwrap();
            format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": content}}]}))
        };
        let body: String = pieces.map(chunk).collect();
        let (found, answer) = whole(format!("{body}data: [DONE]\n\n").as_bytes());
        let content = |part: &Part| {
            part.json.as_ref()?.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned)
        };
        let all: String = found.parts.iter().filter_map(content).collect();
        let expected = format!("Look: ![cat]({MARK}0{MARK}) and ![b](https://x.example/b.png).");
        assert_eq!(all, expected, "by {length}");
        assert_eq!(found.images, [digest(&image)], "by {length}");
        assert!(answer.done);
    }
}

#[test]
fn json_is_read_as_it_is_meant() {
    for (body, meant) in [
        (r#"{"a":1e400,"b":NaN,"c":-0,"d":1.50}"#, json!({"a": "1e400", "b": null, "c": -0.0, "d": 1.5})),
        ("{\"a\":\"line\nfeed \u{1}\"}", json!({"a": "line\nfeed \u{1}"})),
        (r#"{"a":"\u0068\u00e9\ud83d\ude00 \ud83d \/ \q \u12"}"#, json!({"a": "hé😀 \u{fffd} / q \\u12"})),
        (r#"{"a":[1,2,],"b":,"c":{},}"#, json!({"a": [1, 2], "c": {}})),
        (
            r#"{"status": "", // pending/processing
            "code": 1100}"#,
            json!({"status": "", "code": 1100}),
        ),
        (r#"{"a":1,"a":2}"#, json!({"a": 2})),
    ] {
        assert_eq!(whole(body.as_bytes()).0.parts[0].json, Some(meant), "{body}");
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(
        whole(format!("{{\"a\":{deep},\"b\":2}}").as_bytes()).0.parts[0].json.as_ref().unwrap()["b"] == 2
    );
    let (found, _) = whole(b"{\"n\":1}\n{\"n\":2}\n[{\"n\":3},{\"n\":4}]");
    assert_eq!(
        found.parts.iter().map(|part| part.json.as_ref().unwrap()["n"].as_i64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
}
