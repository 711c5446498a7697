//! Whatever stands around an answer, and however it is cut up, the same comes of it.

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
use crate::providers::Kind;
use crate::providers::call::unknown;
use crate::providers::conformance::spool;

const AMPLE: Limits = Limits {
    total: 1 << 30,
    lines: 1_000_000,
    idle: Duration::from_secs(90),
    silent: Duration::from_secs(300),
    whole: Duration::from_secs(900),
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
    let pixel = |x: u32, y: u32| image::Rgb([seed, (x * 7 % 256) as u8, (y * 31 % 256) as u8]);
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
fn what_was_whole_before_a_cut_counts() {
    let images: Vec<Vec<u8>> = (0..3).map(|seed| png(seed, 40)).collect();
    let document = json!({"data": images.iter().map(|image| json!({"b64_json": STANDARD.encode(image)})).collect::<Vec<_>>()}).to_string();
    let at = |nth: usize| document.match_indices("b64_json").nth(nth).unwrap().0;
    for (cut, expected) in [
        (at(0) + 30, 0),
        (at(1) - 3, 1),
        (at(1) + 40, 1),
        (at(2) - 2, 2),
        (document.len() - 3, 3),
        (document.len(), 3),
    ] {
        for broken in [false, true] {
            let body = Ok(Bytes::copy_from_slice(&document.as_bytes()[..cut]));
            let pieces = if broken { vec![body, Err("reset".to_owned())] } else { vec![body] };
            let (found, answer) = read_pieces(&[], pieces, AMPLE);
            assert_eq!(found.images.len(), expected, "cut at {cut}");
            assert_eq!(answer.whole, cut == document.len() && !broken);
        }
    }
    // Inside the base64, behind the image's own end.
    let cut = document.rfind('"').unwrap() - 1;
    assert_eq!(whole(&document.as_bytes()[..cut]).0.images.len(), 3);
    // Half a word is none.
    let (found, _) = whole(br#"{"data":{"task_id":"abc-1","url":"https://x.example/a"#);
    assert_eq!(found.parts[0].json, Some(json!({"data": {"task_id": "abc-1"}})));
    let (found, _) = whole(br#"{"code":200,"data":{"task_id":"abc-"#);
    assert_eq!(found.parts[0].json, Some(json!({"code": 200, "data": {}})));
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

#[test]
fn errors_are_read_in_every_framing() {
    for body in [
        "event: error\ndata: upstream is down\n\n",
        "error: upstream is down\n\n",
        "event: error\ndata: \"upstream is down\"\n\ndata: [DONE]\n\n",
    ] {
        let (found, _) = whole(body.as_bytes());
        let said = |part: &Part| {
            part.event == "error"
                && (part.text.contains("down") || part.json == Some(json!("upstream is down")))
        };
        assert!(found.parts.iter().any(said), "{body}: {:?}", found.parts);
    }
}

/// Floods end, whatever they are made of, and what came before them counts.
#[test]
fn floods_end_and_lose_nothing() {
    let limits = Limits { total: 200_000, lines: 1_000, ..AMPLE };
    for flood in [
        "data: x\n\n",
        "data: {}\r\n\r\n",
        ": still here\n\n",
        ":\n",
        "\r",
        "data: not a word is ended",
        "\n",
    ] {
        let body = format!("data: {{\"a\":1}}\n\n{}", flood.repeat(100_000));
        let (found, answer) = read_pieces(&[], vec![Ok(body.into())], limits);
        assert_eq!(found.parts[0].json, Some(json!({"a": 1})), "{flood:?}");
        assert!(!answer.whole && answer.cut.is_some(), "{flood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_and_comments_are_silence() {
    let ends_after = async |body: futures_util::stream::BoxStream<'static, Result<Bytes, String>>| {
        let (begun, spool) = (Instant::now(), spool());
        let (answer, _) =
            read((Head::default(), body), AMPLE, spool.buffer(), &spool, &mut Gathered::default(), None)
                .await;
        (begun.elapsed().as_secs(), answer.cut.unwrap())
    };
    let silent = futures_util::stream::pending().boxed();
    assert_eq!(ends_after(silent).await, (90, "the answer fell silent".to_owned()));
    let every = |text: &'static [u8]| {
        futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_secs(15)).await;
            Some((Ok(Bytes::from_static(text)), ()))
        })
        .boxed()
    };
    let comments =
        every(b": still here, and nothing to say, for as long as anybody cares to listen to it\n\n");
    assert_eq!(ends_after(comments).await, (300, "the stream sent no event".to_owned()));
    let blanks = every(b"   ");
    assert_eq!(ends_after(blanks).await, (900, "the answer does not end".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_flood_lets_others_work() {
    let pieces = futures_util::stream::repeat(Ok(Bytes::from(":\n".repeat(100)))).boxed();
    let (spool, mut gathered) = (spool(), Gathered::default());
    let flooded = read((Head::default(), pieces), AMPLE, spool.buffer(), &spool, &mut gathered, None);
    let mut turns = 0_u32;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    let (answer, _) = tokio::select! { ended = flooded => ended, () = others => unreachable!() };
    assert!(answer.cut.unwrap().starts_with("a stream of more than"));
    assert!(turns > 3, "{turns}");
}

/// An image that is too large for memory goes to a file, and is the same.
#[tokio::test]
async fn a_large_image_goes_through_the_spool() {
    let mut noise = 1_u32;
    let pixel = |_, _| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = noise.to_be_bytes();
        image::Rgb([a, b, c])
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(1_200, 1_200, pixel).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let image = bytes.into_inner();
    assert!(image.len() > 4_000_000);
    let body = json!({"data": [{"b64_json": STANDARD.encode(&image)}]}).to_string();
    let spool = spool();
    struct Kept(Vec<Arc<InlineImage>>);
    impl Interpreter for Kept {
        fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
            self.0.extend(images.in_text(&strings(&part.json.unwrap())));
            Vec::new()
        }
        fn conclude(&mut self, _: &Answer) -> Result<Progress, ProviderError> {
            unreachable!()
        }
    }
    let mut kept = Kept(Vec::new());
    let pieces: Vec<_> =
        body.as_bytes().chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let body = futures_util::stream::iter(pieces);
    let (_, evidence) = read((Head::default(), body), AMPLE, spool.buffer(), &spool, &mut kept, None).await;
    let kept = kept.0.pop().unwrap();
    assert!(kept.bytes.in_memory().is_none() && evidence.body.in_memory().is_none());
    assert_eq!((kept.bytes.len(), kept.sha256.clone()), (image.len() as u64, digest(&image)));
    let read: Vec<u8> = kept.bytes.stream().map(|piece| piece.unwrap().to_vec()).concat().await;
    assert_eq!(digest(&read), kept.sha256);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Cut into any pieces an answer reads the same.
    #[test]
    fn any_pieces_read_the_same(
        spelling in 0usize..16, events in any::<bool>(), side in 4u32..60,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let image = png(9, side);
        let document = json!({"data": [{"b64_json": spellings(&image)[spelling].1, "x": "é😀"}], "n": 1.5}).to_string();
        let body = if events { format!("event: done\r\ndata: {document}\r\n\r\n") } else { document };
        let (once, first) = whole(body.as_bytes());
        let (again, second) = in_pieces(body.as_bytes(), &cuts);
        prop_assert_eq!(&once.parts, &again.parts);
        prop_assert_eq!(&once.images, &again.images);
        prop_assert_eq!(again.images, [digest(&image)]);
        prop_assert_eq!(first.whole, second.whole);
    }

    /// Any cut behind the last image keeps it.
    #[test]
    fn any_cut_behind_the_last_image_keeps_it(side in 4u32..40, at in any::<prop::sample::Index>(), tail in "[ a-z\":{},]{0,40}") {
        let image = png(7, side);
        let document = format!("{{\"data\":[{{\"b64_json\":\"{}\"}}],\"rest\":\"{}\"", STANDARD.encode(&image), tail.replace('"', ""));
        let end = document.find("\"}]").unwrap() + 1;
        let cut = end + at.index(document.len() - end + 1);
        prop_assert_eq!(whole(&document.as_bytes()[..cut]).0.images, [digest(&image)]);
    }

    #[test]
    fn lines_end_in_every_way(body in "(data: ?[a-zé\u{1f600}]{0,6}|event: b|: c|\r|\n|\r\n){0,40}", cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let body = format!("data: x\n{body}");
        prop_assert_eq!(in_pieces(body.as_bytes(), &cuts).0.parts, whole(body.as_bytes()).0.parts);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), start in 0usize..6) {
        let starts: [&[u8]; 6] = [b"", b"{\"a\":\"", b"data: {\"a\":[", b"[1,", b"iVBORw0KGgoAAAANSUhEUgAA", b"\x1f\x8b\x08"];
        let body = [starts[start], &bytes].concat();
        whole(&body);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            whole(json!({"a": text}).to_string().as_bytes());
        }
    }
}
