//! How pictures are handed over: inside the answer as base64, and in the type that was asked for.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use easel::domain::secret::sha256_hex;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::bucket::{Shelf, Shelved};
use crate::harness::Db;
use crate::hostile_pictures::{host, png};
use crate::sink::{Act, Sink};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";

fn decoded(image: &Value) -> Vec<u8> {
    STANDARD.decode(image["b64_json"].as_str().expect("bytes in the answer")).unwrap()
}

#[rstest]
#[tokio::test]
async fn pictures_come_inside_the_answer_and_nowhere_else(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let sink = Sink::start(|_, _| Act::Status(200)).await;
    let body = json!({"prompt": "cats \"b64_json\" [[sim: picture=64x64]]", "model": FLUX, "n": 3,
        "output": {"delivery": "b64"}, "webhook": {"url": sink.url, "events": ["task.succeeded"]}});
    let task = gateway.run(&body.to_string()).await;
    let images = task["images"].as_array().unwrap();
    assert_eq!(images.len(), 3, "{task}");
    for image in images {
        let bytes = decoded(image);
        assert_eq!((&image["sha256"], &image["bytes"]), (&json!(sha256_hex(&bytes)), &json!(bytes.len())));
        assert!(image["url"].as_str().unwrap().starts_with(&gateway.url));
    }
    let id = task["id"].as_str().unwrap();
    let waited = gateway.get(&format!("/tasks/{id}?wait=1")).await;
    assert_eq!(waited.header("content-length"), Some(waited.bytes.len().to_string().as_str()));
    assert_eq!(waited.json()["images"][2]["b64_json"], images[2]["b64_json"]);
    for quiet in ["/tasks".to_owned(), format!("/tasks/{id}/events"), format!("/tasks/{id}/attempts")] {
        let answer = gateway.get(&quiet).await;
        assert_eq!(answer.status, StatusCode::OK);
        let text = String::from_utf8_lossy(&answer.bytes).replace("\\\"b64_json\\\"", "");
        assert!(!text.contains("b64_json"), "{quiet}: {text}");
    }
    gateway.app.engine.run_until_idle().await.unwrap();
    let letter = sink.wait_for(1).await.remove(0);
    assert!(!letter.body.replace("\\\"b64_json\\\"", "").contains("b64_json"));
    // Without being asked for they are links alone.
    let plain = gateway.run(&json!({"prompt": "a cat", "model": FLUX, "size": "64x64"}).to_string()).await;
    assert!(plain["images"][0].get("b64_json").is_none());
    shelved.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_waiting_caller_gets_the_bytes_in_one_answer(#[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf) {
    // 5 MiB: many pieces of the stream, and a length that no group of three divides.
    let size = 5 * 1024 * 1024 + 1;
    let shelved = Shelved::start(Db::Sqlite, shelf, "").await;
    let gateway = &shelved.gateway;
    let body = json!({"prompt": format!("a cat [[sim: file_bytes={size}]]"), "model": FLUX, "output": {"delivery": "b64"}});
    let key = [("idempotency-key", "one"), ("prefer", "wait=60")];
    let body = body.to_string();
    let mut asked = Box::pin(gateway.send(Method::POST, "/generate", &key, Some(&body)));
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut asked => break answer,
            () = async {
                gateway.app.engine.run_until_idle().await.unwrap();
                // Not to the next moment: a task that was taken in just now would see its deadline as that.
                gateway.clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            } => {}
        }
    };
    drop(asked);
    assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.bytes[..200]));
    let task = answer.json();
    assert_eq!(task["status"], "succeeded", "{}", task["error"]);
    assert_eq!(decoded(&task["images"][0]).len(), size);
    let again = gateway.send(Method::POST, "/generate", &key, Some(&body)).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json()["images"][0]["b64_json"], answer.json()["images"][0]["b64_json"]);
    shelved.stop().await;
}

/// Flux draws PNG alone, the Images API draws what it is asked for: either way it is what was asked for, with nothing to
/// report, and what is served is what is described.
#[rstest]
#[tokio::test]
async fn pictures_have_the_type_that_was_asked_for(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    for (format, guessed) in [
        ("jpeg", image::ImageFormat::Jpeg),
        ("webp", image::ImageFormat::WebP),
        ("png", image::ImageFormat::Png),
    ] {
        for (model, n) in [(FLUX, 1), ("flux-dev", 2), ("gpt-4o-image", 1), ("gpt-image-1", 1)] {
            let mut body = json!({"prompt": "a cat [[sim: picture=64x48]]", "model": model, "n": n, "output": {"format": format}});
            if model == "gpt-image-1" {
                body["quality"] = "low".into();
            }
            let task = gateway.run(&body.to_string()).await;
            assert_eq!(task["status"], "succeeded", "{task}");
            assert!(
                !task["adjustments"].as_array().unwrap().iter().any(|made| made["param"] == "/output/format"),
                "{task}"
            );
            let images = task["images"].as_array().unwrap();
            assert_eq!(images.len(), n, "{task}");
            for image in images {
                assert_eq!(image["media_type"], format!("image/{format}"), "{model}: {task}");
                let at = format!("/tasks/{}/images/{}", task["id"].as_str().unwrap(), image["index"]);
                let picture = gateway.get(&at).await;
                assert_eq!(image::guess_format(&picture.bytes).unwrap(), guessed);
                assert_eq!(image["sha256"], sha256_hex(&picture.bytes));
                let shown = image::load_from_memory(&picture.bytes).unwrap();
                assert_eq!((shown.width(), shown.height()), (64, 48));
            }
        }
    }
    shelved.stop().await;
}

/// Nothing would find the original when its task is erased: once another picture stands for it, it goes.
#[rstest]
#[tokio::test]
async fn the_original_of_a_converted_picture_goes(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(1, 3)] n: usize,
) {
    let shelved = Shelved::start(db, Shelf::Folder, "").await;
    let gateway = &shelved.gateway;
    let body = json!({"prompt": "a cat", "model": "flux-dev", "size": "64x64", "n": n, "output": {"format": "jpeg"}});
    let task = gateway.run(&body.to_string()).await;
    let named = |sha256: &str| format!("sha256/{}/{sha256}", &sha256[..2]);
    let images = task["images"].as_array().unwrap();
    let mut kept: Vec<_> = images.iter().map(|image| named(image["sha256"].as_str().unwrap())).collect();
    kept.sort();
    assert_eq!(kept.len(), n, "{task}");
    assert_eq!(shelved.objects().len(), 2 * n, "the originals are durable before");
    // Replicas leave alone what is young.
    for (name, _) in shelved.objects() {
        gateway.age(name.rsplit('/').next().unwrap());
    }
    gateway.app.engine.tidy().await.unwrap();
    let here: Vec<_> = shelved.objects().into_iter().map(|(name, _)| name).collect();
    assert_eq!(here, kept, "the pictures, and nothing that they were made of");
    shelved.stop().await;
}

/// What was paid for and cannot be converted is kept as it came, and said to be.
#[rstest]
#[tokio::test]
async fn a_picture_that_cannot_be_converted_is_kept(#[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf) {
    let shelved = Shelved::start(Db::Sqlite, shelf, "").await;
    let gateway = &shelved.gateway;
    // A PNG whose picture is broken between a good beginning and a good end, and a type that is not decoded here.
    let mut broken = png(64, 64);
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    let gif = b"GIF89a\x40\0\x40\0\0\0\0,\0\0\0\0\x40\0\x40\0\0\x02\x02\x44\x01\0;".to_vec();
    for (bytes, came) in [(broken, "png"), (gif, "gif")] {
        let host = host(bytes.clone()).await;
        gateway.rule(&json!({"on": "files", "times": 1, "do": {"file_redirect": host}})).await;
        let body = json!({"prompt": "a cat", "model": FLUX, "strict": true, "output": {"format": "webp", "delivery": "b64"}});
        let task = gateway.run(&body.to_string()).await;
        assert_eq!((&task["status"], &task["error"]), (&json!("succeeded"), &Value::Null), "{task}");
        assert!(decoded(&task["images"][0]) == bytes, "{came}: {task}");
        assert_eq!(task["images"][0]["media_type"], format!("image/{came}"));
        let made = &task["adjustments"][0];
        assert_eq!(
            (&made["param"], &made["requested"], &made["applied"]),
            (&json!("/output/format"), &json!("webp"), &json!(came))
        );
        assert!(made["reason"].as_str().unwrap().starts_with("kept as the provider made it"), "{made}");
    }
    assert_eq!(gateway.receptions(), 2);
    shelved.stop().await;
}
