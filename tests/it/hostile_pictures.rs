//! Results that are not the pictures they should be: none costs a second purchase, none is taken for a picture, and what is
//! one is kept to the byte.

use std::io::Cursor;

use axum::Router;
use axum::routing::any;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use easel::domain::secret::sha256_hex;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bucket::{Bucket, Shelf, Shelved};
use crate::harness::{Db, listen};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";

/// A host of its own that answers everything with these bytes; its address.
pub async fn host(bytes: Vec<u8>) -> String {
    let listener = listen().await;
    let url = format!("http://{}/picture.png", listener.local_addr().unwrap());
    let router = Router::new().fallback(any(move || std::future::ready(bytes.clone())));
    TaskTracker::new().spawn(easel::server::serve(listener, router, CancellationToken::new()));
    url
}

/// A JPEG of noise.
fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(3);
    let noise = image::RgbImage::from_fn(width, height, |_, _| image::Rgb([0; 3].map(|_: u8| random.u8(..))));
    let mut bytes = Cursor::new(Vec::new());
    noise.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// A black PNG.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn body(fault: &str) -> String {
    json!({"prompt": format!("a cat [[sim: {fault} picture=64x64]]"), "model": FLUX}).to_string()
}

fn end(task: &Value) -> &str {
    task["error"]["code"].as_str().unwrap_or_else(|| task["status"].as_str().unwrap())
}

/// A fault of the host's that never passes…
const EVER: u32 = 1_000_000;
/// …and one of the order itself.
const OWN: u32 = 0;

/// Nothing half-written, and every object of the task's the one it describes.
async fn check(shelved: &Shelved, task: &Value) {
    assert_eq!(task["cost"]["billed"], "yes", "{task}");
    let objects = shelved.objects();
    let failed = task["status"] == "failed";
    assert_eq!(!shelved.quarantined().is_empty(), failed, "what gave no image is in quarantine: {objects:?}");
    let kept = |name: &str| name.starts_with("sha256/") || name.starts_with("quarantine/");
    assert!(objects.iter().all(|(name, _)| kept(name)), "{objects:?}");
    assert_eq!(shelved.bucket.as_ref().map_or(0, Bucket::parts), 0);
    for image in task["images"].as_array().unwrap() {
        let at = format!("/tasks/{}/images/{}", task["id"].as_str().unwrap(), image["index"]);
        let picture = shelved.gateway.get(&at).await;
        assert_eq!(image["sha256"], sha256_hex(&picture.bytes));
    }
}

/// M1, M3, M4, M5, M7 and M8: what passes is waited for, what does not ends the task with a reason; one purchase each.
#[rstest]
#[case::m1_png(json!({"file_bomb": "png"}), EVER, "asset_rejected")]
#[case::m1_jpeg(json!({"file_bomb": "jpeg"}), EVER, "asset_rejected")]
#[case::m1_tall(json!({"file_bomb": "tall"}), EVER, "asset_rejected")]
#[case::m3_svg(json!({"file_type": "svg"}), EVER, "asset_unavailable")]
#[case::m3_html(json!({"file_type": "html"}), EVER, "asset_unavailable")]
#[case::m3_pdf(json!({"file_type": "pdf"}), EVER, "asset_unavailable")]
#[case::m3_zip(json!({"file_type": "zip"}), EVER, "asset_unavailable")]
#[case::m3_twice(json!({"file_type": "svg"}), 2, "succeeded")]
#[case::m4_says_too_little(json!({"file_length_lie": "short"}), 1, "succeeded")]
#[case::m4_says_too_much(json!({"file_length_lie": "long"}), 1, "succeeded")]
#[case::m4_says_too_much_for_ever(json!({"file_length_lie": "long"}), EVER, "succeeded")]
#[case::m4_much(json!({"file_trailing": 33_600_000}), EVER, "succeeded")]
#[case::m5_empty(json!({"file_empty": true}), 2, "succeeded")]
#[case::m5_empty_for_ever(json!({"file_empty": true}), EVER, "asset_unavailable")]
#[case::m5_truncated(json!({"file_truncated": true}), 2, "succeeded")]
#[case::m5_cut(json!({"file_cut": true}), 2, "succeeded")]
#[case::m5_garbage_after(json!({"file_trailing": 31_000_000}), 1, "succeeded")]
#[case::m7(json!({"file_expire": 403}), OWN, "succeeded")]
#[case::m8(json!({"file_varies": true}), OWN, "succeeded")]
#[tokio::test]
async fn what_is_no_picture_is_not_kept_and_what_may_become_one_is_waited_for(
    #[case] fault: Value,
    #[case] times: u32,
    #[case] wanted: &str,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(Db::Sqlite, shelf, "").await;
    let gateway = &shelved.gateway;
    let mut directive = String::new();
    if times == OWN {
        let (name, value) = fault.as_object().unwrap().iter().next().unwrap();
        directive = if value == true { name.clone() } else { format!("{name}={value}") };
    } else {
        gateway.rule(&json!({"on": "files", "times": times, "do": fault})).await;
    }
    let task = gateway.run(&body(&directive)).await;
    assert_eq!((end(&task), gateway.receptions()), (wanted, 1), "{task}");
    check(&shelved, &task).await;
    let images = task["images"].as_array().unwrap().len();
    assert_eq!(images, usize::from(wanted == "succeeded"), "{task}");
    shelved.stop().await;
}

/// M6: who gives a byte a second gives up its slot, and the others go on.
#[rstest]
#[tokio::test]
async fn a_download_that_stalls_frees_its_slot(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let shelved = Shelved::start(db, Shelf::Folder, "downloads = 1\nstall_s = 1\n").await;
    let gateway = &shelved.gateway;
    let slow =
        json!({"on": "files", "match": {"prompt_contains": "slow"}, "times": 2, "do": {"file_slow": 1}});
    gateway.rule(&slow).await;
    let stalled = gateway.generate(&body("").replace("a cat", "a slow cat")).await["id"].clone();
    // The slow one's turn is first: it takes the one slot there is.
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.advance_to_next().await;
    let quick = gateway.generate(&body("")).await["id"].clone();
    let quick = gateway.settle(quick.as_str().unwrap()).await;
    assert_eq!(quick["status"], "succeeded");
    let stalled = gateway.settle(stalled.as_str().unwrap()).await;
    assert_eq!((stalled["status"].as_str(), gateway.receptions()), (Some("succeeded"), 2), "{stalled}");
    shelved.stop().await;
}

/// The same scan over and over: what a decoder would read for hours.
fn endless_scans(times: usize) -> Vec<u8> {
    let mut small = Cursor::new(Vec::new());
    image::GrayImage::new(8, 8).write_to(&mut small, image::ImageFormat::Jpeg).unwrap();
    let mut bytes = small.into_inner();
    let frame = bytes.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    bytes[frame + 1] = 0xc2;
    let scan = bytes.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
    let whole = bytes.len();
    let (head, rest) = bytes.split_at(scan);
    let body = &rest[..whole - scan - 2];
    [head, &body.repeat(times), &[0xff, 0xd9]].concat()
}

/// A JPEG with so many bytes of an editor's notes before its size.
fn talkative(notes: usize) -> Vec<u8> {
    let picture = jpeg(64, 64);
    let segment = |length: usize| {
        let length = length.min(65_000);
        let mut segment = vec![0xff, 0xe1];
        segment.extend(u16::try_from(length + 2).unwrap().to_be_bytes());
        segment.extend(b"http://ns.adobe.com/xap/1.0/\0GPS 48.1 11.5 a cat ".iter().cycle().take(length));
        segment
    };
    let segments: Vec<u8> = (0..notes.div_ceil(65_000)).flat_map(|_| segment(65_000)).collect();
    [&picture[..2], &segments, &picture[2..]].concat()
}

/// M2, M3 and M10: odd pictures are kept to the byte and served as what they are, with nothing a browser could run; making
/// them smaller or another type ends in time and loses nothing.
#[rstest]
#[tokio::test]
async fn odd_pictures_are_kept_to_the_byte(#[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf) {
    let archive = b"GIF89a\x40\0\x40\0\0\0\0,\0\0\0\0\x40\0\x40\0\0\x02\x02\x44\x01\0;PK\x05\x06<script>alert(1)</script>;";
    let text = |length: usize| {
        let mut chunk = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        chunk.extend(b"tEXtprompt\0a secret cat".iter().chain([b' '].iter().cycle()).take(length + 4));
        let mut crc = flate2::Crc::new();
        crc.update(&chunk[4..]);
        chunk.extend(crc.sum().to_be_bytes());
        chunk
    };
    let plain = png(64, 64);
    let noted = [&plain[..33], &text(1_048_576), &plain[33..]].concat();
    for (row, bytes, kind) in [
        ("M2", endless_scans(80_000), "image/jpeg"),
        ("M3", archive.to_vec(), "image/gif"),
        ("M10", talkative(1_000_000), "image/jpeg"),
        ("M10", talkative(2_500_000), "image/jpeg"),
        ("M10", noted, "image/png"),
    ] {
        let shelved = Shelved::start(Db::Sqlite, shelf, "").await;
        let gateway = &shelved.gateway;
        let host = host(bytes.clone()).await;
        gateway.rule(&json!({"on": "files", "do": {"file_redirect": host}})).await;
        let mut request: Value = serde_json::from_str(&body("")).unwrap();
        let task = gateway.run(&request.to_string()).await;
        assert_eq!(
            (end(&task), &task["images"][0]["media_type"]),
            ("succeeded", &json!(kind)),
            "{row}: {task}"
        );
        assert_eq!(task["images"][0]["sha256"], sha256_hex(&bytes), "{row}");
        check(&shelved, &task).await;
        let path = format!("/tasks/{}/images/0", task["id"].as_str().unwrap());
        for asked in [path.clone(), format!("{path}?width=64"), format!("{path}?download=1")] {
            let answer = gateway.get(&asked).await;
            assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, Some(kind)), "{row}");
            assert!(answer.bytes == bytes, "{row} {asked}: it is no wider");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("content-security-policy"), Some("sandbox; default-src 'none'"));
        }
        request["output"] = json!({"format": "webp"});
        let task = gateway.run(&request.to_string()).await;
        assert_eq!(end(&task), "succeeded", "{row}: {task}");
        let kept = task["images"][0]["sha256"] == sha256_hex(&bytes);
        let said =
            task["adjustments"].as_array().unwrap().iter().any(|made| made["param"] == "/output/format");
        assert_eq!(kept, said, "{row}: kept as it was, and said so; or converted: {task}");
        assert_eq!(gateway.receptions(), 2);
        shelved.stop().await;
    }
}

/// Complete images with what the world appends to them, all of 24 × 16 pixels: what each is, its bytes, its type.
fn wrapped() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let with = |image: &[u8], rest: &[u8]| [image, rest].concat();
    let (png, jpeg) = (png(24, 16), jpeg(24, 16));
    let progressive = include_bytes!("fixtures/images/progressive.jpg");
    let gif = include_bytes!("fixtures/images/still.gif");
    let webp = include_bytes!("fixtures/images/lossy.webp");
    let avif = include_bytes!("fixtures/images/still.avif");
    let mut trailer = b"SEFH".repeat(79);
    trailer.extend(b"SEFT");
    let mut random = fastrand::Rng::with_seed(5);
    let video: Vec<u8> =
        b"\0\0\0\x18ftypmp42".iter().copied().chain((0..5_000).map(|_| random.u8(..))).collect();
    let mut streamed = webp.to_vec();
    streamed[4..8].copy_from_slice(&[0xff; 4]);
    vec![
        ("PNG and a line feed", with(&png, b"\n"), "image/png"),
        ("PNG and two zeroes", with(&png, &[0; 2]), "image/png"),
        ("PNG without its last checksum", png[..png.len() - 4].to_vec(), "image/png"),
        ("JPEG and a camera's trailer", with(&jpeg, &trailer), "image/jpeg"),
        ("JPEG and a video", with(&jpeg, &video), "image/jpeg"),
        ("progressive JPEG and a line feed", with(progressive, b"\r\n"), "image/jpeg"),
        ("GIF without its trailer", gif[..gif.len() - 1].to_vec(), "image/gif"),
        ("GIF and zeroes", with(gif, &[0; 300]), "image/gif"),
        ("GIF with zeroes for a trailer", with(&gif[..gif.len() - 1], &[0; 300]), "image/gif"),
        ("WebP and a video", with(webp, &video), "image/webp"),
        ("WebP whose encoder did not know its size", streamed, "image/webp"),
        ("AVIF and a line feed", with(avif, b"\n"), "image/avif"),
        ("AVIF and zeroes", with(avif, &[0; 300]), "image/avif"),
        ("PNG and 31 MB", with(&png, &vec![0x55; 31_000_000]), "image/png"),
    ]
}

/// M11: what every viewer opens is taken from callers, by upload, by form and inside a request, and kept to the byte.
#[rstest]
#[tokio::test]
async fn a_complete_image_is_taken_whatever_follows_it(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    for (name, bytes, kind) in wrapped() {
        let head = b"--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
        let form = [&head[..], &bytes, b"\r\n--b--\r\n"].concat();
        for (content_type, body) in
            [("application/octet-stream", bytes.clone()), ("multipart/form-data; boundary=b", form)]
        {
            let answer = gateway.upload("/files", &[("content-type", content_type)], body).await;
            let file = answer.json();
            assert_eq!(answer.status, StatusCode::CREATED, "{name}, {content_type}: {file}");
            assert_eq!((&file["width"], &file["height"]), (&json!(24), &json!(16)), "{name}: {file}");
            assert_eq!((&file["media_type"], &file["bytes"]), (&json!(kind), &json!(bytes.len())), "{name}");
            let content = gateway.get(&format!("/files/{}/content", file["id"].as_str().unwrap())).await;
            assert!(content.bytes == bytes, "{name}");
        }
        if bytes.len() < 1_000_000 {
            let images = json!([{"b64_json": STANDARD.encode(&bytes)}]);
            let request = json!({"prompt": "x", "model": "gpt-image-1", "images": images});
            let answer = gateway.post("/generate", &request.to_string()).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{name}: {}", answer.json());
        }
    }
    shelved.stop().await;
}

/// M11: as a result they are worth the same.
#[rstest]
#[tokio::test]
async fn a_complete_result_is_kept_whatever_follows_it(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    for (name, bytes, kind) in wrapped() {
        let link = host(bytes.clone()).await;
        gateway.rule(&json!({"on": "files", "times": 1, "do": {"file_redirect": link}})).await;
        let task = gateway.run(&body("")).await;
        let image = &task["images"][0];
        assert_eq!((end(&task), &image["media_type"]), ("succeeded", &json!(kind)), "{name}: {task}");
        assert_eq!((&image["width"], &image["height"]), (&json!(24), &json!(16)), "{name}: {task}");
        assert_eq!(image["sha256"], sha256_hex(&bytes), "{name}");
        check(&shelved, &task).await;
    }
    shelved.stop().await;
}

/// M11: the same images, cut: they are told apart, in one piece and streamed.
#[rstest]
#[tokio::test]
async fn a_cut_image_is_refused_whatever_precedes_the_cut(
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(Db::Sqlite, shelf, "").await;
    let gateway = &shelved.gateway;
    let large = jpeg(2_000, 1_500);
    assert!(large.len() > 1_500_000);
    let (small, gif) = (png(24, 16), include_bytes!("fixtures/images/animated.gif"));
    let webp = include_bytes!("fixtures/images/lossless.webp");
    let avif = include_bytes!("fixtures/images/animated.avif");
    for (name, cut) in [
        ("PNG", &small[..small.len() - 8]),
        ("JPEG", &large[..large.len() - 1]),
        ("progressive JPEG", &include_bytes!("fixtures/images/progressive.jpg")[..1_000]),
        ("GIF", &gif[..gif.len() - 50]),
        ("WebP", &webp[..webp.len() - 1]),
        ("AVIF", &avif[..avif.len() - 1]),
    ] {
        let answer = gateway.upload("/files", &[("content-type", "image/png")], cut.to_vec()).await;
        let problem = answer.json();
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{name}: {problem}");
        assert_eq!(problem["detail"], "the picture was cut short", "{name}");
    }
    assert_eq!(shelved.objects(), vec![]);
    shelved.stop().await;
}
