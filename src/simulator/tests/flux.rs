//! PiAPI's task API: the life of a task, and everything that is refused.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::{Bench, GOOD, TASK, fixture, fixture_text, same_shape, txt2img};
use crate::simulator::{KeyCheck, Outcome};

#[tokio::test]
async fn a_task_lives_by_the_clock_and_looks_as_documented() {
    let bench = Bench::by_clock().await;
    let (status, created) = bench.post(TASK, &fixture("piapi_flux_request_img2img.json")).await;
    assert_eq!(status, 200);
    let mut documented = fixture("piapi_flux_create_img2img_pending.json");
    documented["data"]["config"]["service_mode"] = json!("");
    same_shape(&documented, &created, "");
    let data = &created["data"];
    assert_eq!(data["status"], "pending");
    assert_eq!(data["input"], documented["data"]["input"]);
    assert_eq!(data["meta"]["usage"]["consume"], 15_000);
    assert_eq!(data["meta"]["started_at"], "0001-01-01T00:00:00Z");
    let stamp = data["meta"]["created_at"].as_str().unwrap();
    assert_eq!(stamp.len(), "2024-09-25T07:40:08.333962391Z".len(), "{stamp}");

    let id = data["task_id"].as_str().unwrap();
    assert_eq!(bench.poll(id).await["data"]["status"], "pending");
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.poll(id).await["data"]["status"], "processing");
    assert_eq!(bench.last().billed_nanos, None);
    bench.clock.advance(Duration::from_secs(4));
    let done = bench.poll(id).await;
    assert_eq!(done["data"]["status"], "completed");
    assert_eq!(done["data"]["meta"]["usage"]["frozen"], 0);
    let link = done["data"]["output"]["image_url"].as_str().unwrap();
    assert_eq!(bench.size(link).await, (1024, 1024));
    let last = bench.last();
    assert_eq!((last.outcome, last.billed_nanos), (Outcome::Completed, Some(1_500_000)));
    assert_eq!((last.upstream_id.as_deref(), last.files.len()), (Some(id), 1));
    assert_eq!(bench.simulator.billed().total_nanos, 1_500_000);
}

#[tokio::test]
async fn kontext_echoes_its_own_defaults_and_the_webhook_secret() {
    let bench = Bench::at_once().await;
    let mut request = fixture("piapi_flux_request_kontext.json");
    request["config"]["webhook_config"] = json!({"endpoint": "", "secret": "s3cret"});
    let (_, created) = bench.post(TASK, &request).await;
    let done = bench.poll(created["data"]["task_id"].as_str().unwrap()).await;
    same_shape(&fixture("piapi_flux_get_completed_unified_kontext.json"), &done, "");
    assert_eq!(done["data"]["config"]["webhook_config"]["secret"], "s3cret");
    assert_eq!(done["data"]["meta"]["usage"]["consume"], 200_000);
    assert_eq!(done["data"]["meta"]["usage"]["type"], "llm");
}

#[tokio::test]
async fn every_documented_request_is_accepted_and_priced() {
    let bench = Bench::at_once().await;
    let cases = [
        ("txt2img", 15_000_000),
        ("img2img", 1_500_000),
        ("kontext", 20_000_000),
        ("txt2img_lora", 20_000_000),
        ("controlnet_lora_canny", 20_000_000),
        ("controlnet_lora_depth_minimal", 20_000_000),
        ("controlnet_lora_openpose", 20_000_000),
        ("controlnet_lora_softedge_unlisted_lora", 20_000_000),
        ("fill_inpaint", 20_000_000),
        ("fill_outpaint", 20_000_000),
        ("redux_variation", 20_000_000),
    ];
    for (name, price) in cases {
        let mut request = fixture(&format!("piapi_flux_request_{name}.json"));
        request["config"] = json!({});
        let (status, body) = bench.post(TASK, &request).await;
        assert_eq!((status, body["code"].as_i64()), (200, Some(200)), "{name}: {body}");
        assert_eq!(bench.last().billed_nanos, Some(price), "{name}");
    }
}

#[tokio::test]
async fn a_batch_gives_several_links_and_costs_as_many() {
    let bench = Bench::at_once().await;
    let mut request = txt2img("a bear");
    request["input"]["batch_size"] = json!(3);
    let (_, created) = bench.post(TASK, &request).await;
    let mut done = bench.poll(created["data"]["task_id"].as_str().unwrap()).await;
    let links = done["data"]["output"]["image_urls"].as_array().unwrap().clone();
    assert_eq!(links.len(), 3);
    for link in &links {
        assert_eq!(bench.size(link.as_str().unwrap()).await, (64, 48));
    }
    assert_eq!(done["data"]["meta"]["usage"]["consume"], 45_000);
    let last = bench.last();
    assert_eq!((last.n, last.billed_nanos), (3, Some(4_500_000)));
    assert!(last.files.iter().all(|file| file.sha256.is_some()));
    let mut documented = fixture("piapi_flux_get_completed_image_urls.json");
    // A masked example: only what surrounds the input is compared.
    documented["data"]["input"] = Value::Null;
    done["data"]["input"] = Value::Null;
    same_shape(&documented, &done, "");
}

#[tokio::test]
async fn a_preprocessed_control_image_is_the_second_link() {
    let bench = Bench::at_once().await;
    let mut request = fixture("piapi_flux_request_controlnet_lora_canny.json");
    request["input"]["prompt"] = json!("a girl [[sim: picture=40x30]]");
    let (_, created) = bench.post(TASK, &request).await;
    let done = bench.poll(created["data"]["task_id"].as_str().unwrap()).await;
    assert_eq!(done["data"]["output"]["image_urls"].as_array().unwrap().len(), 2);
    assert_eq!(bench.last().billed_nanos, Some(20_000_000));
}

#[tokio::test]
async fn sizes_follow_the_request_and_its_image() {
    let bench = Bench::at_once().await;
    let png = {
        let mut file = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(80, 40).write_to(&mut file, image::ImageFormat::Png).unwrap();
        format!("data:image/png;base64,{}", STANDARD.encode(file.into_inner()))
    };
    let outpaint = json!([{"setting_type": "outpaint", "outpaint_left": 10, "outpaint_top": 5}]);
    let advanced = "Qubico/flux1-dev-advanced";
    let cases = [
        (json!({"prompt": "x", "width": 120, "height": 72}), "txt2img", (120, 72)),
        (json!({"prompt": "x", "image": png}), "img2img", (80, 40)),
        (json!({"prompt": "x", "image": png, "custom_settings": outpaint}), "fill-outpaint", (90, 45)),
        (json!({"prompt": "x", "image": png, "width": 50, "height": 60}), "kontext", (50, 60)),
        (
            json!({"prompt": "x", "image": png.split(',').next_back(), "width": 50, "height": 60}),
            "kontext",
            (50, 60),
        ),
    ];
    for (input, task, size) in cases {
        let request = json!({"model": advanced, "task_type": task, "input": input});
        let (status, created) = bench.post(TASK, &request).await;
        assert_eq!(status, 200, "{task}: {created}");
        let done = bench.poll(created["data"]["task_id"].as_str().unwrap()).await;
        assert_eq!(bench.size(done["data"]["output"]["image_url"].as_str().unwrap()).await, size, "{task}");
    }
}

#[tokio::test]
async fn what_is_illegal_is_refused_with_an_envelope() {
    let bench = Bench::at_once().await;
    let lora = json!([{"lora_type": "mjv6"}]);
    let control = json!([{"control_type": "depth", "control_image": "https://x.test/a.png"}]);
    let paint = |left: i64| json!([{"setting_type": "outpaint", "outpaint_left": left}]);
    let link = "https://x.test/a.png";
    let (schnell, dev, advanced) = ("Qubico/flux1-schnell", "Qubico/flux1-dev", "Qubico/flux1-dev-advanced");
    let cases = [
        ("sora", "txt2img", json!({"prompt": "x"})),
        (schnell, "video", json!({"prompt": "x"})),
        (schnell, "kontext", json!({"prompt": "x", "image": link})),
        (dev, "txt2img-lora", json!({"prompt": "x", "lora_settings": lora})),
        (dev, "txt2img", json!({})),
        (dev, "txt2img", json!({"prompt": "  "})),
        (dev, "txt2img", json!({"prompt": 5})),
        (dev, "txt2img", json!({"prompt": "x", "image": link})),
        (dev, "img2img", json!({"prompt": "x"})),
        (dev, "img2img", json!({"prompt": "x", "image": "not a link"})),
        (dev, "img2img", json!({"prompt": "x", "image": "data:image/png;base64,AAAA"})),
        (dev, "txt2img", json!({"prompt": "x", "width": 1025, "height": 1024})),
        (dev, "txt2img", json!({"prompt": "x", "width": 0})),
        (dev, "txt2img", json!({"prompt": "x", "width": 512.5})),
        (dev, "txt2img", json!({"prompt": "x", "width": "512"})),
        (dev, "img2img", json!({"prompt": "x", "image": link, "width": 512, "height": 512})),
        (advanced, "txt2img-lora", json!({"prompt": "x", "lora_settings": lora, "width": 512})),
        (dev, "txt2img", json!({"prompt": "x", "guidance_scale": 1.4})),
        (dev, "txt2img", json!({"prompt": "x", "guidance_scale": 5.1})),
        (dev, "txt2img", json!({"prompt": "x", "denoise": 0.0})),
        (dev, "txt2img", json!({"prompt": "x", "denoise": 1.1})),
        (schnell, "txt2img", json!({"prompt": "x", "batch_size": 0})),
        (schnell, "txt2img", json!({"prompt": "x", "batch_size": 5})),
        (dev, "txt2img", json!({"prompt": "x", "batch_size": 2})),
        (advanced, "kontext", json!({"prompt": "x", "image": link, "steps": 41})),
        (advanced, "kontext", json!({"prompt": "x", "image": link, "guidance_scale": 2.0})),
        (dev, "txt2img", json!({"prompt": "x", "seed": 5})),
        (dev, "txt2img", json!({"prompt": "x", "aspect_ratio": "1:1"})),
        (advanced, "txt2img-lora", json!({"prompt": "x"})),
        (advanced, "txt2img-lora", json!({"prompt": "x", "lora_settings": [lora[0], lora[0]]})),
        (advanced, "controlnet-lora", json!({"prompt": "x", "lora_settings": lora})),
        (
            advanced,
            "controlnet-lora",
            json!({"prompt": "x", "control_net_settings": [control[0], control[0]]}),
        ),
        (
            advanced,
            "controlnet-lora",
            json!({"prompt": "x", "control_net_settings": [{"control_type": "depth"}]}),
        ),
        (advanced, "fill-outpaint", json!({"prompt": "x", "image": link})),
        (advanced, "fill-outpaint", json!({"prompt": "x", "image": link, "custom_settings": paint(1024)})),
        (advanced, "fill-outpaint", json!({"prompt": "x", "image": link, "custom_settings": paint(-1)})),
        (advanced, "fill-inpaint", json!({"prompt": "x", "image": link, "mask": link})),
    ];
    let count = cases.len();
    for (model, task, input) in cases {
        let request = json!({"model": model, "task_type": task, "input": input});
        let (status, body) = bench.post(TASK, &request).await;
        assert_eq!((status, &body["code"], &body["data"]), (400, &json!(400), &Value::Null), "{request}");
        assert!(body["message"].is_string(), "{request}");
    }
    for extra in ["webhook", "callback"] {
        let mut request = txt2img("x");
        request[extra] = json!("https://x.test");
        assert_eq!(bench.post(TASK, &request).await.0, 400);
    }
    let mut request = txt2img("x");
    request["config"] = json!({"webhook_config": {"url": "https://x.test"}});
    assert_eq!(bench.post(TASK, &request).await.0, 400);
    let answer = bench.request(Method::POST, TASK).body("{").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(bench.simulator.billed().total_nanos, 0);
    let ledger = bench.simulator.ledger();
    assert_eq!(ledger.len(), count + 4);
    assert!(ledger.iter().all(|one| one.outcome == Outcome::Rejected && one.billed_nanos == Some(0)));
}

#[tokio::test]
async fn keys_and_user_agents_are_checked() {
    let bench = Bench::at_once().await;
    let cases = [
        ("", 401, KeyCheck::Missing),
        ("bad-key", 401, KeyCheck::Bad),
        ("poor-key", 400, KeyCheck::Poor),
        ("full-key", 429, KeyCheck::Full),
    ];
    for (key, status, check) in cases {
        let request = bench.http.post(bench.url(TASK)).header("x-api-key", key).json(&txt2img("x"));
        let (got, body) = super::read(request.send().await.unwrap()).await;
        assert_eq!((got, bench.last().key_check), (status, check), "{key}");
        match check {
            KeyCheck::Poor => assert_eq!(body, fixture("piapi_error_insufficient_credits.json")),
            KeyCheck::Full => assert_eq!(body, fixture("piapi_error_plan_limit.json")),
            _ => assert_eq!(body["code"], 401),
        }
    }
    let body = txt2img("x").to_string();
    let (answer, _) = bench
        .raw(&format!(
            "POST {TASK} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {GOOD}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.ends_with(fixture_text("piapi_error_403_cloudflare_ua.txt").trim()), "{answer}");
    assert_eq!(bench.last().outcome, Outcome::Rejected);
    let unknown = bench.get("/api/v1/nothing").await;
    assert_eq!(unknown, (404, json!("404 page not found")));
}

#[tokio::test]
async fn only_a_pending_task_can_be_cancelled() {
    let bench = Bench::by_clock().await;
    let (first, second) = (bench.task("a cat").await, bench.task("a dog").await);
    let (status, body) = bench.delete(&format!("{TASK}/{first}")).await;
    assert_eq!(status, 200);
    same_shape(&fixture("piapi_cancel_success_midjourney.json"), &body, "");
    let state = bench.poll(&first).await;
    assert_eq!(state["data"]["status"], "canceled");
    assert_eq!(state["data"]["meta"]["usage"]["consume"], 0);
    bench.clock.advance(Duration::from_mins(1));
    assert_eq!(bench.delete(&format!("{TASK}/{second}")).await.0, 400);
    assert_eq!(bench.delete(&format!("{TASK}/nothing")).await.0, 404);
    assert_eq!(bench.simulator.billed().total_nanos, 1_500_000);
    assert_eq!(bench.simulator.ledger()[0].outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn polls_are_counted() {
    let bench = Bench::at_once().await;
    let id = bench.task("a cat").await;
    for _ in 0..3 {
        bench.poll(&id).await;
    }
    assert_eq!(bench.get("/_sim/polls").await.1[&id], 3);
}
