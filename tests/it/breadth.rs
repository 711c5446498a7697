//! Every operation on every route that offers it, end to end against the simulator, which refuses what the providers
//! would refuse.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY};
use crate::inputs::png;

const PUBLIC: &str = "[server]\npublic_url = \"https://gateway.example\"\n";

async fn upload(gateway: &Gateway, bytes: Vec<u8>) -> String {
    let answer = gateway.upload("/files", &[("content-type", "image/png")], bytes).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[rstest]
#[tokio::test]
async fn every_operation_on_every_route(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, PUBLIC).await;
    let (image, mask) = (
        upload(&gateway, png(64, 64, |_, _| [9, 9, 9, 255])).await,
        upload(&gateway, png(64, 64, |_, _| [255; 4])).await,
    );
    let url = json!({"url": "https://example.com/in.png"});
    let (file, mask) = (json!({"file_id": image}), json!({"file_id": mask}));
    let adv = "flux-dev-advanced";
    let small = "[[sim: picture=64x64]]";
    let cases = [
        (json!({"model": adv, "loras": [{"name": "mjv6", "strength": 0.8}]}), "text_to_image"),
        (json!({"model": adv, "images": [url], "strength": 0.5}), "image_to_image"),
        (json!({"model": adv, "images": [file], "loras": [{"name": "anime"}]}), "image_to_image"),
        (json!({"model": adv, "operation": "edit", "images": [url], "seed": 7, "steps": 10}), "edit"),
        (json!({"model": adv, "images": [file], "mask": mask}), "inpaint"),
        (json!({"model": adv, "images": [url], "outpaint": {"left": 100}}), "outpaint"),
        (json!({"model": adv, "operation": "variation", "images": [url]}), "variation"),
        (
            json!({"model": adv, "controls": [{"type": "depth", "image": url, "return_preprocessed": true}]}),
            "control",
        ),
        (
            json!({"model": adv, "controls": [{"type": "canny", "image": file}], "loras": [{"name": "mjv6"}]}),
            "control",
        ),
        (json!({"model": "flux-schnell", "images": [url], "n": 3}), "image_to_image"),
        (json!({"model": "gpt-4o-image", "images": [url, file]}), "edit"),
        (json!({"model": "gpt-4o-image", "operation": "variation", "images": [file]}), "variation"),
        (json!({"model": "gpt-image-1", "quality": "low", "size": "1024x1024"}), "text_to_image"),
        (json!({"model": "gpt-image-1", "images": [file, file], "quality": "low"}), "edit"),
        (json!({"model": "gpt-image-1", "images": [file], "mask": mask, "quality": "low"}), "inpaint"),
        (
            json!({"model": "gpt-image-1", "n": 2, "quality": "low", "provider_options": {"gpt_image": {"stream": true}}}),
            "text_to_image",
        ),
        (json!({"model": "gpt-image-2", "size": "640x480"}), "text_to_image"),
        (
            json!({"model": "imagepipeline/flux-schnell", "n": 2, "size": "64x64", "seed": 1, "steps": 4, "negative_prompt": "no"}),
            "text_to_image",
        ),
    ];
    for (mut body, operation) in cases {
        body["prompt"] = format!("a bear {small}").into();
        let task = gateway.run(&body.to_string()).await;
        assert_eq!(
            (task["status"].as_str(), task["operation"].as_str()),
            (Some("succeeded"), Some(operation)),
            "{body} became {task}"
        );
        let wanted = body["n"].as_u64().unwrap_or(1);
        let extra = u64::from(body["controls"][0]["return_preprocessed"] == true);
        let images = task["images"].as_array().unwrap();
        assert_eq!(images.len() as u64, wanted + extra, "{body} became {task}");
        assert_eq!(images.iter().filter(|image| image["kind"] == "preprocessed").count() as u64, extra);
        assert_eq!(task["partial"], false);
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn more_pictures_than_one_call_makes_are_several_calls(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway
        .run(r#"{"prompt":"cats [[sim: picture=64x64]]","model":"piapi_flux/Qubico/flux1-schnell","n":6}"#)
        .await;
    assert_eq!(
        (task["status"].as_str(), task["images"].as_array().unwrap().len()),
        (Some("succeeded"), 6),
        "{task}"
    );
    assert_eq!(gateway.receptions(), 2);
    assert_eq!(task["cost"]["actual_usd"], "0.009");
    let id = task["id"].as_str().unwrap();
    assert_eq!(gateway.attempts(id).await.len(), 2);
    assert_eq!(
        gateway.get("/tasks").await.json()["data"].as_array().unwrap().len(),
        1,
        "parts are not callers' to see"
    );
    let indexes: Vec<u64> =
        task["images"].as_array().unwrap().iter().map(|image| image["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4, 5]);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn some_pictures_are_better_than_none_and_said_to_be_some(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    // The first paid call fails for good, the others succeed.
    let rule =
        json!({"on": "flux.submit", "times": 1, "do": {"http": 400, "body": "envelope", "message": "no"}});
    gateway.rule(&rule).await;
    let task = gateway.run(r#"{"prompt":"cats [[sim: picture=64x64]]","model":"flux-dev","n":3}"#).await;
    assert_eq!(
        (task["status"].as_str(), task["partial"].as_bool()),
        (Some("succeeded"), Some(true)),
        "{task}"
    );
    assert_eq!(task["images"].as_array().unwrap().len(), 2);
    assert_eq!(task["cost"]["actual_usd"], "0.03");
    // All of them failing is a failure.
    gateway
        .rule(&json!({"on": "flux.submit", "do": {"http": 400, "body": "envelope", "message": "no"}}))
        .await;
    let task = gateway.run(r#"{"prompt":"cats","model":"flux-dev","n":2}"#).await;
    assert_eq!(
        (task["status"].as_str(), task["error"]["code"].as_str()),
        (Some("failed"), Some("provider_rejected")),
        "{task}"
    );
    assert_eq!(task["cost"]["billed"], "no");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_task_in_parts_can_be_called_off(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.generate(r#"{"prompt":"cats","model":"flux-dev","n":3}"#).await;
    let canceled = gateway
        .send(Method::POST, &format!("/tasks/{}/cancel", task["id"].as_str().unwrap()), &[], None)
        .await;
    assert_eq!(
        (canceled.status, canceled.json()["status"].as_str()),
        (StatusCode::OK, Some("canceled")),
        "{}",
        canceled.json()
    );
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.receptions(), 0);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn files_come_in_three_ways_and_stay_their_tenants(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let bytes = png(32, 16, |_, _| [1, 2, 3, 255]);
    let raw = upload(&gateway, bytes.clone()).await;
    let described = gateway.get(&format!("/files/{raw}")).await.json();
    assert_eq!(
        (described["width"].as_u64(), described["height"].as_u64(), described["media_type"].as_str()),
        (Some(32), Some(16), Some("image/png"))
    );
    assert_eq!(gateway.get(&format!("/files/{raw}/content")).await.bytes, bytes);
    let boundary = "xyz";
    let mut form = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhi\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\n").into_bytes();
    form.extend(&bytes);
    form.extend(format!("\r\n--{boundary}--\r\n").bytes());
    let kind = format!("multipart/form-data; boundary={boundary}");
    let uploaded = gateway.upload("/files", &[("content-type", &kind)], form).await;
    assert_eq!(
        (uploaded.status, uploaded.json()["sha256"].as_str()),
        (StatusCode::CREATED, described["sha256"].as_str()),
        "{}",
        uploaded.json()
    );
    // Inside the request: kept, and not in the task.
    let b64 = STANDARD.encode(&bytes);
    let body = json!({"prompt": "x [[sim: picture=64x64]]", "model": "gpt-4o-image", "images": [{"b64_json": b64}, {"b64_json": format!("data:image/png;base64,{b64}")}]});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let theirs = [("authorization", &format!("Bearer {OTHER_KEY}") as &str)];
    for path in [format!("/files/{raw}"), format!("/files/{raw}/content")] {
        assert_eq!(gateway.send(Method::GET, &path, &theirs, None).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(
        gateway.send(Method::DELETE, &format!("/files/{raw}"), &theirs, None).await.status,
        StatusCode::NOT_FOUND
    );
    let stolen = gateway
        .send(
            Method::POST,
            "/generate",
            &theirs,
            Some(&json!({"prompt": "x", "model": "gpt-4o-image", "images": [{"file_id": raw}]}).to_string()),
        )
        .await;
    let stolen = gateway.settle_for(&theirs, stolen.json()["id"].as_str().unwrap()).await;
    assert_eq!(
        (stolen["status"].as_str(), stolen["error"]["code"].as_str()),
        (Some("failed"), Some("validation_failed")),
        "{stolen}"
    );
    assert_eq!(
        gateway.send(Method::DELETE, &format!("/files/{raw}"), &[], None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(gateway.get(&format!("/files/{raw}")).await.status, StatusCode::NOT_FOUND);
    // What is no picture is refused, whatever it calls itself.
    for wrong in [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(),
        b"%PDF-1.7".to_vec(),
        bytes[..40].to_vec(),
        Vec::new(),
    ] {
        let answer = gateway.upload("/files", &[("content-type", "image/png")], wrong).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{}", answer.json());
    }
    let huge = gateway.upload("/files", &[("content-type", "image/png")], vec![0; 33 * 1024 * 1024]).await;
    assert_eq!(huge.status, StatusCode::PAYLOAD_TOO_LARGE);
    for wrong in ["!!!", "PHN2Zy8+"] {
        let body = json!({"prompt": "x", "model": "gpt-4o-image", "images": [{"b64_json": wrong}]});
        let answer = gateway.post("/generate", &body.to_string()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["errors"][0]["pointer"].as_str()),
            (422, Some("/images/0/b64_json")),
            "{}",
            answer.json()
        );
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn what_providers_cannot_fetch_is_refused_before_it_is_bought(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    let file = upload(&gateway, png(64, 64, |_, _| [0, 0, 0, 255])).await;
    let body = json!({"prompt": "x", "model": "flux-dev-advanced", "operation": "variation", "images": [{"file_id": file}]});
    let answer = gateway.post("/generate", &body.to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (422, Some("unservable")));
    assert!(answer.json()["errors"][0]["detail"].as_str().unwrap().contains("public_url"));
    // A mask of another size ends the task before anything is sent.
    let mask = upload(&gateway, png(32, 32, |_, _| [255; 4])).await;
    let body = json!({"prompt": "x", "model": "gpt-image-1", "images": [{"file_id": file}], "mask": {"file_id": mask}});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!(
        (task["error"]["code"].as_str(), task["cost"]["billed"].as_str()),
        (Some("validation_failed"), Some("no")),
        "{task}"
    );
    assert!(task["error"]["detail"].as_str().unwrap().contains("the mask is 32x32, the image 64x64"));
    for closed in
        ["http://169.254.169.254/a.png", "https://10.0.0.1/a.png", "https://user:pw@example.com/a.png"]
    {
        let body = json!({"prompt": "x", "images": [{"url": closed}]});
        let answer = gateway.post("/generate", &body.to_string()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["code"].as_str()),
            (422, Some("url_not_allowed")),
            "{closed}"
        );
    }
    assert_eq!(gateway.receptions(), 0);
    gateway.stop().await;
}

/// The other dialect of imagepipeline, as a second account.
#[tokio::test]
async fn imagepipeline_is_spoken_in_both_dialects() {
    let more = "[providers.v1]\nkind = \"imagepipeline\"\ndialect = \"v1\"\nbase_url = \"{upstream}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\n";
    let gateway = Gateway::configured(Db::Sqlite, more).await;
    let body = r#"{"prompt":"a cat","model":"v1/flux-schnell","size":"64x64","steps":8,"seed":3,"n":2}"#;
    let task = gateway.run(body).await;
    assert_eq!(
        (task["status"].as_str(), task["images"].as_array().unwrap().len()),
        (Some("succeeded"), 2),
        "{task}"
    );
    assert_eq!(task["route"]["provider"], "v1");
    gateway.stop().await;
}

/// What a dry run shows is what is sent, to the byte, but for the mark of the attempt.
#[tokio::test]
async fn a_dry_run_shows_what_is_sent() {
    let recorder = crate::recorder::Recorder::start().await;
    let more = "[providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"{recorder}\"\napi_key = \"k-0123456789\"\nallow_http_results = true\n[providers.gpt_4o_image]\nkind = \"gpt_4o_image\"\nbase_url = \"{recorder}\"\napi_key = \"k-0123456789\"\nallow_http_results = true\n[providers.gpt_image]\nkind = \"gpt_image\"\nbase_url = \"{recorder}\"\napi_key = \"k-0123456789\"\nallow_http_results = true\n[providers.imagepipeline]\nkind = \"imagepipeline\"\nbase_url = \"{recorder}\"\napi_key = \"k-0123456789\"\nallow_http_results = true\n";
    let gateway = Gateway::only(Db::Sqlite, &more.replace("{recorder}", &recorder.url)).await;
    let url = json!({"url": "https://example.com/in.png"});
    for mut body in [
        json!({"model": "flux-dev", "size": "640x480", "negative_prompt": "blurry", "guidance_scale": 3.5}),
        json!({"model": "flux-schnell", "n": 4, "routing": {"only": ["piapi_flux"]}, "provider_options": {"piapi_flux": {"service_mode": "public"}}}),
        json!({"model": "flux-dev-advanced", "controls": [{"type": "depth", "image": url, "strength": 0.5}]}),
        json!({"model": "gpt-4o-image", "images": [url], "size": "1024x1536"}),
        json!({"model": "gpt-image-1", "quality": "low", "background": "transparent", "output": {"format": "webp"}}),
        json!({"model": "imagepipeline/flux-schnell", "n": 2, "provider_options": {"imagepipeline": {"server_id": "s-1"}}}),
    ] {
        body["prompt"] = "a bear".into();
        let dry = gateway.post("/generate/dry-run", &body.to_string()).await;
        assert_eq!(dry.status, StatusCode::OK, "{}", dry.json());
        let shown = dry.json()["upstream"][0].clone();
        assert_eq!(
            shown["headers"].as_object().unwrap().values().filter(|value| *value == "[redacted]").count(),
            1
        );
        gateway.generate(&body.to_string()).await;
        gateway.app.engine.run_until_idle().await.unwrap();
        let (path, sent) = recorder.last();
        assert_eq!(shown["url"], format!("{}{path}", recorder.url));
        assert_eq!(unmarked(&shown["body"]), unmarked(&sent), "{body}");
    }
    gateway.stop().await;
}

/// Without the marks that differ from attempt to attempt.
fn unmarked(body: &Value) -> Value {
    let mut body = body.clone();
    for mark in ["batch_id", "file_prefix"] {
        if let Some(value) = body.get_mut(mark) {
            *value = "mark".into();
        }
    }
    body
}

/// `GET /models` alone is enough to build a legal request for every offer of every route.
#[tokio::test]
async fn the_catalogue_is_enough_to_build_a_form_from() {
    let gateway = Gateway::configured(Db::Sqlite, PUBLIC).await;
    let models = gateway.get("/models").await.json();
    let mut offers = 0;
    for model in models["data"].as_array().unwrap() {
        for route in model["routes"].as_array().unwrap() {
            let pinned = format!(
                "{}/{}",
                route["provider"].as_str().unwrap(),
                route["provider_model"].as_str().unwrap()
            );
            for offer in route["offers"].as_array().unwrap() {
                offers += 1;
                for extreme in ["min", "max"] {
                    let body = filled(&pinned, offer, extreme);
                    let answer = gateway.post("/generate/dry-run", &body.to_string()).await;
                    assert_eq!(answer.status, StatusCode::OK, "{body}: {}", answer.json());
                    assert_eq!(answer.json()["route"]["provider_model"], route["provider_model"]);
                }
            }
        }
    }
    assert!(offers > 30, "{offers}");
    gateway.stop().await;
}

/// A request from an offer's descriptors, with every parameter at one end of its range.
fn filled(model: &str, offer: &Value, extreme: &str) -> Value {
    let mut body = json!({"prompt": "x", "model": model, "operation": offer["operation"]});
    let image = json!({"url": "https://example.com/a.png"});
    for (name, param) in offer["params"].as_object().unwrap() {
        let count = || usize::try_from(param[extreme].as_u64().unwrap_or(1)).unwrap();
        let value = match param["type"].as_str().unwrap() {
            "number" if extreme == "min" && param["exclusive_min"] == true => json!(0.01),
            "integer" | "number" => param[extreme].clone(),
            "text" => json!("words"),
            "choice" => param["values"][0].clone(),
            "size" => match param["one_of"][0].as_str() {
                Some(size) => json!(size),
                None => json!("512x512"),
            },
            "images" if name == "mask" => image.clone(),
            "images" => vec![image.clone(); count()].into(),
            "names" if name == "loras" => vec![json!({"name": param["known"][0]}); count()].into(),
            "names" => vec![json!({"type": param["known"][0], "image": image}); count()].into(),
            "outpaint" => json!({"left": 10, "top": 10}),
            other => panic!("a form does not know {other}"),
        };
        body[name] = value;
    }
    body
}
