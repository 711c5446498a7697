//! From the request to the picture, by every route.

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::json;

use crate::harness::{Db, Gateway, OTHER_KEY};

#[rstest]
#[tokio::test]
async fn every_route_gives_a_picture_of_the_asked_size(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values("flux-schnell", "flux-dev", "flux-dev-advanced", "gpt-4o-image", "imagepipeline/flux-schnell")]
    model: &str,
) {
    let gateway = Gateway::start(db).await;
    let task =
        gateway.run(&json!({"prompt": "a little cat", "model": model, "size": "96x64"}).to_string()).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let image = &task["images"][0];
    assert_eq!((image["width"].as_u64(), image["height"].as_u64()), (Some(96), Some(64)), "{task}");
    let url = image["url"].as_str().unwrap();
    let path = url.strip_prefix(&gateway.url).expect("an absolute link to this gateway");
    // The signed link opens without a key.
    let picture = gateway.send(Method::GET, path, &[("authorization", "")], None).await;
    assert_eq!(picture.status, StatusCode::OK);
    assert_eq!(picture.header("content-type"), Some("image/png"));
    let decoded = image::load_from_memory(&picture.bytes).unwrap();
    assert_eq!((decoded.width(), decoded.height()), (96, 64));
    assert_eq!(easel::domain::secret::sha256_hex(&picture.bytes), image["sha256"]);
    assert_eq!(gateway.receptions(), 1);
    let attempts = gateway.attempts(task["id"].as_str().unwrap()).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0]["state"].as_str(), attempts[0]["number"].as_u64()), (Some("succeeded"), Some(1)));
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn images_go_in_by_flux_and_by_chat(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let input = json!({"url": "https://example.com/in.png"});
    for (model, images, operation) in [
        ("flux-dev", json!([input]), "image_to_image"),
        ("gpt-4o-image", json!([input, {"url": "https://example.com/other.png"}]), "edit"),
    ] {
        let task =
            gateway.run(&json!({"prompt": "a bear", "model": model, "images": images}).to_string()).await;
        assert_eq!(
            (task["status"].as_str(), task["operation"].as_str()),
            (Some("succeeded"), Some(operation)),
            "{task}"
        );
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn options_that_reach_nobody_are_reported_from_the_first_answer_to_the_last(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    let mut body = json!({"prompt": "a cat [[sim: picture=64x64]]", "model": "flux-schnell",
        "provider_options": {"gpt_image": {"stream": true}, "piapi_flux": {"service_mode": "public"}}});
    let accepted = gateway.generate(&body.to_string()).await;
    let ended = gateway.settle(accepted["id"].as_str().unwrap()).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    for task in [&accepted, &ended] {
        let made = task["adjustments"].as_array().unwrap();
        assert_eq!(made.len(), 1, "{task}");
        assert_eq!(
            (&made[0]["param"], &made[0]["requested"], &made[0]["applied"]),
            (&json!("/provider_options/gpt_image"), &json!({"stream": true}), &json!(null))
        );
    }
    body["strict"] = true.into();
    let refused = gateway.post("/generate", &body.to_string()).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["code"]),
        (422, &json!("unservable")),
        "{}",
        refused.json()
    );
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_waiting_caller_gets_the_picture_in_one_answer(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::live(db).await;
    let body = r#"{"prompt":"a little cat","model":"flux-schnell","size":"64x64"}"#;
    let answer = gateway.send(Method::POST, "/generate", &[("prefer", "wait=60")], Some(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
    assert_eq!(answer.header("preference-applied"), Some("wait=60"));
    assert_eq!(answer.json()["status"], "succeeded");
    assert_eq!(answer.json()["cost"]["actual_usd"], "0.0015");
    assert_eq!(answer.json()["cost"]["billed"], "yes");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_picture_is_served_like_a_file(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.run(r#"{"prompt":"a cat","size":"64x64"}"#).await;
    let path = format!("/tasks/{}/images/0", task["id"].as_str().unwrap());
    let get =
        async |path: &str, headers: &[(&str, &str)]| gateway.send(Method::GET, path, headers, None).await;
    let whole = get(&path, &[]).await;
    let etag = whole.header("etag").unwrap().to_owned();
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    assert!(whole.header("content-disposition").unwrap().starts_with("inline"));
    assert_eq!(get(&path, &[("if-none-match", &etag)]).await.status, StatusCode::NOT_MODIFIED);
    let part = get(&path, &[("range", "bytes=1-4")]).await;
    assert_eq!((part.status, part.bytes.as_slice()), (StatusCode::PARTIAL_CONTENT, &whole.bytes[1..5]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 1-4/{}", whole.bytes.len()).as_str()));
    let tail = get(&path, &[("range", "bytes=-8")]).await;
    assert_eq!(tail.bytes, whole.bytes[whole.bytes.len() - 8..]);
    let beyond = get(&path, &[("range", "bytes=99999999-")]).await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let saved = get(&format!("{path}?download=1"), &[]).await;
    assert!(saved.header("content-disposition").unwrap().starts_with("attachment"));
    // Another tenant, a missing picture and a wrong signature.
    assert_eq!(
        get(&path, &[("authorization", &format!("Bearer {OTHER_KEY}"))]).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(get(&path.replace("images/0", "images/1"), &[]).await.status, StatusCode::NOT_FOUND);
    let signed = task["images"][0]["url"].as_str().unwrap().strip_prefix(&gateway.url).unwrap();
    for wrong in [
        signed.replace("sig=", "sig=0"),
        signed.replace("expires=1", "expires=2"),
        signed.replace("images/0", "images/1"),
    ] {
        assert_eq!(get(&wrong, &[("authorization", "")]).await.status, StatusCode::FORBIDDEN, "{wrong}");
    }
    gateway.stop().await;
}
