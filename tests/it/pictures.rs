//! Pictures at rest, in a folder and in a bucket: streamed in, kept once, served whole, in part and made smaller, and there
//! after everything else is gone.

use std::io::Cursor;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use easel::blobs::{Blobs, Place, derived_keys};
use easel::domain::clock::Millis;
use easel::domain::secret::sha256_hex;
use easel::net::guarded::FetchError;
use easel::net::{Net, Policy, SystemLookup};
use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::json;
use tokio::time::timeout;

use crate::bucket::{ACCESS_KEY, Bucket, SECRET_KEY, Shelf, Shelved};
use crate::harness::{Db, OTHER_KEY, PATIENCE, client};

const MIB: usize = 1024 * 1024;

fn body(fault: &str) -> String {
    json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64"})
        .to_string()
}

/// Noise of so many bytes that is a PNG.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let noise = image::RgbImage::from_fn(width, height, |_, _| image::Rgb([0; 3].map(|_: u8| random.u8(..))));
    let mut bytes = Cursor::new(Vec::new());
    noise.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[rstest]
#[tokio::test]
async fn a_picture_is_served_like_a_file_whatever_its_size(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
    #[values(0, 6 * MIB)] size: usize,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let fault = if size > 0 { format!("file_bytes={size}") } else { "picture=64x64".into() };
    let task = gateway.run(&body(&fault)).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let (id, image) = (task["id"].as_str().unwrap(), &task["images"][0]);
    let path = format!("/tasks/{id}/images/0");
    let whole = gateway.get(&path).await;
    assert_eq!(whole.status, StatusCode::OK);
    assert_eq!(image["sha256"], sha256_hex(&whole.bytes));
    assert_eq!(image["bytes"], whole.bytes.len());
    assert!(size == 0 || whole.bytes.len() == size, "{}", whole.bytes.len());
    assert_eq!(whole.header("content-type"), Some("image/png"));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    assert!(whole.header("content-disposition").unwrap().starts_with("inline"));
    let etag = whole.header("etag").unwrap().to_owned();
    let length = whole.bytes.len();
    for (range, part) in [
        ("bytes=1-4".to_owned(), 1..5),
        (format!("bytes={}-", length - 9), length - 9..length),
        ("bytes=-8".to_owned(), length - 8..length),
        (format!("bytes=10-{}", length * 2), 10..length),
    ] {
        let answer = gateway.send(Method::GET, &path, &[("range", &range)], None).await;
        assert_eq!(
            (answer.status, &answer.bytes[..]),
            (StatusCode::PARTIAL_CONTENT, &whole.bytes[part]),
            "{range}"
        );
    }
    let beyond = gateway.send(Method::GET, &path, &[("range", "bytes=99999999-")], None).await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let known = gateway.send(Method::GET, &path, &[("if-none-match", &etag)], None).await;
    assert_eq!((known.status, known.bytes.len()), (StatusCode::NOT_MODIFIED, 0));
    let saved = gateway.get(&format!("{path}?download=1")).await;
    assert!(saved.header("content-disposition").unwrap().starts_with("attachment"));
    let head = gateway.send(Method::HEAD, &path, &[], None).await;
    assert_eq!(head.header("content-length"), Some(length.to_string().as_str()));
    let other = format!("Bearer {OTHER_KEY}");
    let theirs = gateway.send(Method::GET, &path, &[("authorization", &other)], None).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    // One object under its digest, and nothing half-written.
    let names: Vec<_> = shelved.objects().into_iter().map(|(name, _)| name).collect();
    let sha256 = image["sha256"].as_str().unwrap();
    assert_eq!(names, [format!("sha256/{}/{sha256}", &sha256[..2])]);
    if let Some(bucket) = &shelved.bucket {
        assert_eq!(bucket.parts(), 0);
    }
    shelved.stop().await;
}

#[rstest]
#[tokio::test]
async fn equal_bytes_are_kept_once(#[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf) {
    let shelved = Shelved::start(Db::Sqlite, shelf, "").await;
    for bytes in [png(40, 30), png(800, 600)] {
        let kind = [("content-type", "image/png")];
        let (one, two) = (
            shelved.gateway.upload("/files", &kind, bytes.clone()).await.json(),
            shelved.gateway.upload("/files", &kind, bytes.clone()).await.json(),
        );
        assert_eq!((&one["sha256"], one["bytes"].as_u64()), (&two["sha256"], Some(bytes.len() as u64)));
        assert_ne!(one["id"], two["id"]);
        let content = shelved.gateway.get(&format!("/files/{}/content", two["id"].as_str().unwrap())).await;
        assert_eq!(content.bytes, bytes);
    }
    assert_eq!(shelved.objects().len(), 2, "{:?}", shelved.objects());
    shelved.stop().await;
}

/// The provider's link dies; what is here does not, over restarts too.
#[rstest]
#[tokio::test]
async fn a_picture_outlives_the_provider(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let task = shelved.gateway.run(&body("picture=64x64")).await;
    let path = format!("/tasks/{}/images/0", task["id"].as_str().unwrap());
    let ledger = shelved.gateway.simulator.ledger();
    let made = ledger[0].files[0].sha256.clone();
    shelved.gateway.rule(&json!({"on": "files", "do": {"file_http": 410}})).await;
    let Shelved { gateway, bucket } = shelved;
    let gateway = gateway.restart().await;
    let picture = gateway.get(&path).await;
    assert_eq!(Some(sha256_hex(&picture.bytes)), made, "byte-equal to what the provider made");
    assert_eq!(gateway.receptions(), 1);
    gateway.stop().await;
    drop(bucket);
}

/// A store that takes nothing for a while loses nothing, and is said to be away.
#[tokio::test]
async fn a_bucket_that_is_away_delays_a_picture_and_no_more() {
    let shelved = Shelved::start(Db::Sqlite, Shelf::Bucket, "").await;
    let (gateway, bucket) = (&shelved.gateway, shelved.bucket.as_ref().unwrap());
    let id = gateway.generate(&body("picture=64x64")).await["id"].as_str().unwrap().to_owned();
    bucket.open.store(false, Ordering::Relaxed);
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.advance_to_next().await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let ready = gateway.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_ne!(ready.json()["checks"]["blobs"], "ok");
    assert_eq!(gateway.task(&id).await["phase"], "saving");
    bucket.open.store(true, Ordering::Relaxed);
    let task = gateway.settle(&id).await;
    assert_eq!((task["status"].as_str(), gateway.receptions()), (Some("succeeded"), 1), "{task}");
    assert_eq!(gateway.get("/readyz").await.status, StatusCode::OK);
    shelved.stop().await;
}

/// A bucket's own door, opened as the gateway does.
async fn open(bucket: &Bucket, secret: &str) -> Result<Blobs, easel::blobs::BlobError> {
    let net = Net::open(Policy::default(), std::sync::Arc::new(SystemLookup), vec![]).unwrap();
    let place = Place {
        url: "s3://pictures/of/easel".into(),
        downloads: 2,
        endpoint: bucket.url.clone(),
        region: "us-east-1".into(),
        keys: Some((ACCESS_KEY.into(), secret.into())),
        path_style: true,
        redirect: false,
        client: net.storage,
    };
    Blobs::open(place).await
}

/// Writes until the first part has come, after which nothing more does.
async fn stalls(bucket: &Bucket, writing: impl Future<Output: std::fmt::Debug>) {
    let part = async {
        while bucket.parts() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = writing => panic!("it cannot end: {ended:?}"),
        part = timeout(PATIENCE, part) => part.expect("a part comes"),
    }
}

/// What a killed process leaves in a bucket is found by its note and cleared away; what is being written is left alone.
#[tokio::test]
async fn what_was_half_written_to_a_bucket_is_cleared_away() {
    let bucket = Bucket::start().await;
    let blobs = open(&bucket, SECRET_KEY).await.unwrap();
    let (picture, more) = (Bytes::from(png(1500, 1500)), Bytes::from(vec![0; MIB]));
    let kept = blobs.put(picture.clone()).await.unwrap();
    // A stream that stands still after its first part, as it does when the process is killed.
    let cut: Vec<Result<Bytes, FetchError>> = vec![Ok(picture), Ok(more)];
    let stalled = futures_util::stream::iter(cut).chain(futures_util::stream::pending());
    let mut writing = Box::pin(blobs.put_stream(stalled));
    stalls(&bucket, &mut writing).await;
    // Nothing of it runs any more, not even what gives up an upload.
    std::mem::forget(writing);
    let incoming = |objects: Vec<(String, u64)>| {
        objects.iter().filter(|(name, _)| name.starts_with("incoming/")).count()
    };
    assert_eq!(incoming(bucket.objects()), 1, "{:?}", bucket.objects());
    let again = open(&bucket, SECRET_KEY).await.unwrap();
    let ever = Millis(7_000_000_000_000);
    assert_eq!(again.sweep(Millis(0), false).await.unwrap(), 0, "younger than an hour");
    assert_eq!(again.sweep(ever, false).await.unwrap(), 1);
    assert_eq!((incoming(bucket.objects()), bucket.parts()), (0, 0));
    assert_eq!(again.length(kept.sha256.as_str()).await.unwrap(), Some(kept.bytes), "pictures stay");
    assert!(open(&bucket, "not-the-secret").await.is_err(), "a start with wrong keys says so");
}

/// Replicas that start at the same moment list the same notes; each is cleared away by one of them, and both start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_may_be_swept_by_two_at_once() {
    let bucket = Bucket::start().await;
    let (one, two) = (open(&bucket, SECRET_KEY).await.unwrap(), open(&bucket, SECRET_KEY).await.unwrap());
    for n in 0..40 {
        bucket.leave(&format!("incoming/token{n}.open"));
        bucket.leave(&format!("incoming/other{n}"));
    }
    let ever = Millis(7_000_000_000_000);
    let (first, second) = tokio::join!(one.sweep(ever, true), two.sweep(ever, true));
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    assert_eq!(bucket.objects(), vec![]);
}

/// A caller that goes away in the middle of an upload leaves nothing.
#[tokio::test]
async fn an_upload_that_breaks_off_is_given_up() {
    let bucket = Bucket::start().await;
    let blobs = open(&bucket, SECRET_KEY).await.unwrap();
    let picture = Bytes::from(png(1500, 1500));
    let broken = Err(FetchError::Broken("gone".into()));
    let pieces = futures_util::stream::iter([Ok(picture.clone()), broken]);
    assert!(blobs.put_stream(pieces).await.is_err());
    assert_eq!((bucket.objects(), bucket.parts()), (vec![], 0));
    let stalled = futures_util::stream::iter([Ok(picture)]).chain(futures_util::stream::pending());
    let mut writing = Box::pin(blobs.put_stream(stalled));
    stalls(&bucket, &mut writing).await;
    drop(writing);
    let cleared = async {
        while !bucket.objects().is_empty() || bucket.parts() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, cleared).await.expect("nothing is left");
}

#[rstest]
#[tokio::test]
async fn pictures_are_made_smaller_once(#[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf) {
    let shelved = Shelved::start(Db::Sqlite, shelf, "").await;
    let gateway = &shelved.gateway;
    let task = gateway.run(&body("picture=300x200")).await;
    let (image, path) = (&task["images"][0], format!("/tasks/{}/images/0", task["id"].as_str().unwrap()));
    let whole = gateway.get(&path).await;
    let small = gateway.get(&format!("{path}?width=128")).await;
    assert_eq!((small.status, small.header("content-type")), (StatusCode::OK, Some("image/png")));
    let decoded = image::load_from_memory(&small.bytes).unwrap();
    assert_eq!((decoded.width(), decoded.height()), (128, 85));
    assert!(small.bytes.len() < whole.bytes.len());
    assert_ne!(small.header("etag"), whole.header("etag"));
    let derived: Vec<_> =
        derived_keys(image["sha256"].as_str().unwrap()).map(|key| key.to_string()).collect();
    let kept = shelved.objects();
    assert_eq!(kept.iter().filter(|(name, _)| derived.contains(name)).count(), 1, "{kept:?}");
    // Asked for again it is not made again; a range and an ETag are its own.
    let etag = small.header("etag").unwrap().to_owned();
    let again =
        gateway.send(Method::GET, &format!("{path}?width=128"), &[("range", "bytes=0-7")], None).await;
    assert_eq!((again.status, &again.bytes[..]), (StatusCode::PARTIAL_CONTENT, &small.bytes[..8]));
    let known =
        gateway.send(Method::GET, &format!("{path}?width=128"), &[("if-none-match", &etag)], None).await;
    assert_eq!(known.status, StatusCode::NOT_MODIFIED);
    assert_eq!(shelved.objects(), kept);
    // A signed link can be asked for a smaller one, too.
    let signed = image["url"].as_str().unwrap().strip_prefix(&gateway.url).unwrap();
    let opened =
        gateway.send(Method::GET, &format!("{signed}&width=64"), &[("authorization", "")], None).await;
    assert_eq!(image::load_from_memory(&opened.bytes).unwrap().width(), 64);
    // Nothing is made larger, and only some widths there are.
    assert_eq!(gateway.get(&format!("{path}?width=512")).await.bytes, whole.bytes);
    for wrong in ["0", "127", "4096", "x"] {
        let refused = gateway.get(&format!("{path}?width={wrong}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.json());
    }
    shelved.stop().await;
}

/// With `redirect`, callers get the bytes from the bucket, by a link that needs no key of theirs and cannot be changed.
#[tokio::test]
async fn callers_can_be_sent_to_the_bucket() {
    let shelved = Shelved::start(Db::Sqlite, Shelf::Bucket, "redirect = true\n").await;
    let gateway = &shelved.gateway;
    let task = gateway.run(&body("picture=300x200")).await;
    let (id, sha256) = (task["id"].as_str().unwrap(), task["images"][0]["sha256"].as_str().unwrap());
    let path = format!("/tasks/{id}/images/0");
    let http = reqwest_without_redirects();
    let ask = async |path: &str| {
        let request = http.get(format!("{}{path}", gateway.url)).bearer_auth(crate::harness::KEY);
        request.send().await.unwrap()
    };
    let sent = ask(&path).await;
    assert_eq!(sent.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(sent.headers()["cache-control"], "private, max-age=240");
    let link = sent.headers()["location"].to_str().unwrap().to_owned();
    assert!(link.contains("X-Amz-Expires=300") && link.contains(sha256), "{link}");
    let picture = client().get(&link).send().await.unwrap();
    assert_eq!(
        (picture.status(), picture.headers()["content-type"].as_bytes()),
        (StatusCode::OK, b"image/png" as &[u8])
    );
    assert_eq!(sha256_hex(&picture.bytes().await.unwrap()), sha256);
    let other = link.replace(&sha256[..10], "0000000000");
    let forged = client().get(&other).send().await.unwrap();
    assert_eq!(forged.status(), StatusCode::FORBIDDEN, "{other}");
    // What follows redirects by itself sees the picture; its ETag is answered here.
    let followed = gateway.get(&format!("{path}?width=128")).await;
    assert_eq!(image::load_from_memory(&followed.bytes).unwrap().width(), 128);
    let download = ask(&format!("{path}?download=1")).await;
    assert!(download.headers()["location"].to_str().unwrap().contains("attachment"));
    let etag = format!("\"{sha256}\"");
    let known = gateway.send(Method::GET, &path, &[("if-none-match", &etag)], None).await;
    assert_eq!(known.status, StatusCode::NOT_MODIFIED);
    let head = gateway.send(Method::HEAD, &path, &[], None).await;
    assert_eq!(head.header("content-length"), Some(task["images"][0]["bytes"].to_string().as_str()));
    shelved.stop().await;
}

#[expect(clippy::disallowed_methods, reason = "a caller of the gateway, not a part of it")]
fn reqwest_without_redirects() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}
