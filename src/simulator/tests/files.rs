//! The result host.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Bench, TASK, txt2img};
use crate::simulator::{Endpoint, Faults, FileType};

/// The link of a small picture submitted with this directive.
async fn link(bench: &Bench, directive: &str) -> String {
    let id = bench.task(&format!("a cat [[sim: {directive}]]")).await;
    bench.poll(&id).await["data"]["output"]["image_url"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_link_serves_the_same_bytes_each_time_and_the_ledger_knows_them() {
    let bench = Bench::at_once().await;
    let link = link(&bench, "picture=300x200").await;
    assert_eq!(bench.last().files[0].sha256, None);
    let (status, kind, bytes) = bench.file(&link).await;
    assert_eq!((status, kind.as_str()), (200, "image/png"));
    assert_eq!(bench.file(&link).await.2, bytes);
    let last = bench.last();
    assert_eq!(last.files.len(), 1);
    assert_eq!(last.files[0].url, link);
    assert_eq!(last.files[0].sha256, Some(hex::encode(Sha256::digest(&bytes))));
    assert_eq!(bench.file("/files/nothing.png").await.0, 404);
}

#[tokio::test]
async fn the_same_seed_draws_the_same_picture() {
    let (first, second) = (Bench::at_once().await, Bench::at_once().await);
    let bytes = first.file(&link(&first, "picture=64x64").await).await.2;
    assert_eq!(bytes, second.file(&link(&second, "picture=64x64").await).await.2);
    assert_ne!(bytes, second.file(&link(&second, "picture=64x64").await).await.2);
}

#[tokio::test]
async fn files_have_the_size_told() {
    let bench = Bench::at_once().await;
    for bytes in [10_000, 100_000, 3_000_000] {
        let link = link(&bench, &format!("picture=64x64 file_bytes={bytes}")).await;
        let (_, _, file) = bench.file(&link).await;
        assert_eq!(file.len(), bytes);
        assert_eq!(image::load_from_memory(&file).unwrap().width(), 64);
    }
}

#[tokio::test]
async fn files_go_wrong_as_told() {
    let bench = Bench::at_once().await;
    let get = async |directive: &str| bench.file(&link(&bench, directive).await).await;
    assert_eq!(get("file_http=403").await.0, 403);
    assert_eq!(get("file_expire").await.0, 403);
    assert!(get("file_empty").await.2.is_empty());
    for (kind, start) in
        [("html", "<!DOCTYPE"), ("svg", "<svg"), ("pdf", "%PDF"), ("text", "Not"), ("zip", "PK")]
    {
        let (status, mime, bytes) = get(&format!("file_type={kind}")).await;
        assert_eq!((status, mime.as_str()), (200, "image/png"), "{kind}");
        assert!(bytes.starts_with(start.as_bytes()), "{kind}");
    }
    let bomb = get("file_bomb").await.2;
    assert_eq!(imagesize::blob_size(&bomb).unwrap().width, 19_000);
    let trailing = get("file_trailing=5000").await.2;
    let whole = trailing.len() - 5_000;
    assert_eq!(image::load_from_memory(&trailing[..whole]).unwrap().width(), 64);
    let half = get("file_truncated").await.2;
    assert!(image::load_from_memory(&half).is_err());
    assert_eq!(get("file_length_lie=short").await.2.len(), 10);

    let varied = link(&bench, "file_varies").await;
    assert_ne!(bench.file(&varied).await.2, bench.file(&varied).await.2);
    let moved = link(&bench, "file_redirect=http://127.0.0.1:9/x").await;
    let answer = bench.http.get(moved).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["location"]),
        (302, &"http://127.0.0.1:9/x".parse().unwrap())
    );
}

#[tokio::test]
async fn files_end_too_early() {
    let bench = Bench::at_once().await;
    for directive in ["file_cut", "file_length_lie"] {
        let link = link(&bench, directive).await;
        let answer = bench.http.get(&link).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.content_length().unwrap() > 100);
        assert!(answer.bytes().await.is_err(), "{directive}");
    }
    let slow = link(&bench, "file_slow").await;
    let mut answer = bench.http.get(&slow).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_rule_about_files_sees_the_prompt() {
    let bench = Bench::at_once().await;
    let (cat, dog) = (link(&bench, "picture=32x32").await, {
        let (_, body) = bench.post(TASK, &txt2img("a dog")).await;
        let done = bench.poll(body["data"]["task_id"].as_str().unwrap()).await;
        done["data"]["output"]["image_url"].as_str().unwrap().to_owned()
    });
    let rule =
        json!({"on": "files", "match": {"prompt_contains": "dog"}, "times": 1, "do": {"file_type": "html"}});
    assert_eq!(bench.post("/_sim/rules", &rule).await.0, 201);
    assert!(bench.file(&cat).await.2.starts_with(b"\x89PNG"));
    assert!(bench.file(&dog).await.2.starts_with(b"<!DOCTYPE"));
    assert!(bench.file(&dog).await.2.starts_with(b"\x89PNG"));
    bench.rule(
        Endpoint::Files,
        Faults { file_type: Some(FileType::Zip), http: Some(500), ..Faults::default() },
    );
    assert_eq!(bench.file(&dog).await.0, 500);
}
