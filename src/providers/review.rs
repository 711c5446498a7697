//! Adversarial review: adapters.
use super::conformance::{Canned, submit};
use base64::Engine;

fn png(side: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(side, side).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn b1_pages_on_paid_calls() {
    let page = format!(
        "<!DOCTYPE html><html><body><img src=\"data:image/png;base64,{}\"><p>Please log in.</p></body></html>",
        base64::engine::general_purpose::STANDARD.encode(png(24))
    );
    for (kind, form, body) in [
        ("gpt_4o_image", "chat", r#"{"prompt":"draw"}"#),
        (
            "gpt_image",
            "generations",
            r#"{"prompt":"x","model":"gpt-image-1","quality":"low","size":"1024x1024"}"#,
        ),
    ] {
        let canned = Canned::of("page.html", page.as_bytes(), 200);
        println!("{kind}: {}", submit(kind, None, form, body, &canned, usize::MAX).await);
    }
}

#[tokio::test]
async fn b2_more_links_than_asked_for() {
    let data: Vec<_> =
        (0..60).map(|n| serde_json::json!({"url": format!("https://cdn.example/{n}.png")})).collect();
    let body = serde_json::json!({"created": 1, "data": data}).to_string();
    let canned = Canned::of("many.json", body.as_bytes(), 200);
    println!(
        "{}",
        submit(
            "gpt_image",
            None,
            "generations",
            r#"{"prompt":"x","model":"gpt-image-1","quality":"high","size":"1024x1024","n":1}"#,
            &canned,
            usize::MAX
        )
        .await
    );
    let two = "data: {\"type\":\"image_generation.completed\",\"url\":\"https://cdn.example/a.png?sig=1\"}\n\ndata: {\"created\":1,\"data\":[{\"url\":\"https://cdn.example/a.png?sig=2\"}]}\n\n";
    let canned = Canned::of("two.sse", two.as_bytes(), 200);
    println!(
        "{}",
        submit(
            "gpt_image",
            None,
            "generations",
            r#"{"prompt":"x","model":"gpt-image-1","quality":"high","size":"1024x1024","n":1}"#,
            &canned,
            usize::MAX
        )
        .await
    );
}

#[tokio::test]
async fn b3_panic_in_a_chat() {
    let png = base64::engine::general_purpose::STANDARD.encode(png(8));
    let mut out = String::new();
    for content in [format!("{}data:image/png;base64,", "生".repeat(200)), png, "。".into(), "x".into()] {
        out += &format!(
            "data: {}\n\n",
            serde_json::json!({"choices":[{"index":0,"delta":{"content":content}}]})
        );
    }
    out += "data: [DONE]\n\n";
    let canned = Canned::of("x.sse", out.as_bytes(), 200);
    println!("{}", submit("gpt_4o_image", None, "chat", r#"{"prompt":"draw"}"#, &canned, usize::MAX).await);
}

#[tokio::test]
async fn b4_restored_in_the_prompt() {
    let body = serde_json::json!({"code":200,"data":{"task_id":"t1","status":"failed","logs":["prompt: a sign that says restored frozen points","worker crashed"],"meta":{"usage":{"consume":20000,"frozen":0}},"error":{"code":10000,"message":"Internal error"}},"message":"success"}).to_string();
    let canned = Canned::of("t.json", body.as_bytes(), 200);
    println!(
        "{}",
        submit(
            "piapi_flux",
            None,
            "txt2img",
            r#"{"prompt":"a sign that says restored frozen points"}"#,
            &canned,
            usize::MAX
        )
        .await
    );
}

#[tokio::test]
async fn b5_cut_in_the_task_id() {
    let body = br#"{"code":500,"message":"internal error","data":{"model":"Qubico/flux1-schnell","task_id":"0f647527-12bd-4f","status":"pending"}}"#;
    let at = body.windows(8).position(|w| w == b"0f647527").unwrap() + 4;
    let canned = Canned { cut: Some(at), ..Canned::of("t.json", body, 200) };
    println!(
        "cut: {}",
        submit("piapi_flux", None, "txt2img", r#"{"prompt":"x"}"#, &canned, usize::MAX).await
    );
    let canned = Canned::of("t.json", body, 200);
    println!(
        "whole: {}",
        submit("piapi_flux", None, "txt2img", r#"{"prompt":"x"}"#, &canned, usize::MAX).await
    );
}
