//! Bodies that are wrong in every way a body can be, and odd ones that are right: what is refused is refused with a pointer and
//! leaves nothing, what is taken is stored and sent as it came.

use easel::domain::secret::sha256_hex;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";

fn with(field: &str, value: Value) -> String {
    let mut body = json!({"prompt": "x"});
    body[field] = value;
    body.to_string()
}

#[rstest]
#[tokio::test]
async fn what_is_wrong_is_refused_with_a_pointer(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let image = |bytes: &[u8]| {
        use base64::Engine as _;
        json!([{ "b64_json": base64::engine::general_purpose::STANDARD.encode(bytes) }])
    };
    let size = |size: &str| json!({"prompt": "x", "model": "flux-dev", "size": size}).to_string();
    let webhook = |url: &str| with("webhook", json!({"url": url}));
    let long = "a".repeat(5_000);
    let prefixed = |limit: usize| format!("{{\"prompt\":\"x\"{}}}", " ".repeat(limit - 14));
    let cases: Vec<(&str, String, u16, &str)> = vec![
        // B1: one byte too many, and not one.
        ("B1", prefixed(1024 * 1024 + 1), 413, ""),
        // B2
        ("B2 depth", format!("{{\"prompt\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000)), 400, ""),
        ("B2 depth of metadata", with("metadata", nested(70)), 400, ""),
        ("B2 keys", format!("{{\"prompt\":\"x\",\"metadata\":{{{}}}}}", keys(50_000)), 422, "/metadata"),
        ("B2 twice", r#"{"prompt":"x","n":1,"n":1}"#.into(), 400, ""),
        ("B2 twice inside", r#"{"prompt":"x","routing":{"only":[],"only":[]}}"#.into(), 400, ""),
        ("B2 1e400", r#"{"prompt":"x","guidance_scale":1e400}"#.into(), 400, ""),
        ("B2 NaN", r#"{"prompt":"x","guidance_scale":NaN}"#.into(), 400, ""),
        ("B2 -0", r#"{"prompt":"x","n":-0}"#.into(), 422, "/n"),
        ("B2 two documents", r#"{"prompt":"x"}{"prompt":"y"}"#.into(), 400, ""),
        ("B2 not an object", r#"["x"]"#.into(), 422, ""),
        ("B2 not an object inside", with("webhook", json!(["https://example.com/"])), 422, "/webhook"),
        // B3
        ("B3", with("price", json!("0")), 422, "/price"),
        ("B3 inside", with("routing", json!({"tenant": "other"})), 422, "/routing/tenant"),
        // B4
        ("B4 1 MB", with("prompt", json!("a".repeat(1_000_000))), 422, "/prompt"),
        ("B4 blank", with("prompt", json!("\u{200b}\u{feff} \n")), 422, "/prompt"),
        (
            "B4 NUL in a key",
            "{\"prompt\":\"x\",\"metadata\":{\"a\\u0000\":\"b\"}}".into(),
            422,
            "/metadata/a",
        ),
        // B5
        ("B5 too many pixels", size("1024x1025"), 422, "/size"),
        ("B5 none", size("0x0"), 422, "/size"),
        ("B5 less", size("-1x64"), 422, "/size"),
        ("B5 2^31", size("2147483648x1"), 422, "/size"),
        ("B5 half a pixel", size("1024.5x64"), 422, "/size"),
        ("B5 a number", with("size", json!(1024)), 422, "/size"),
        // B6
        ("B6 eleven", with("n", json!(11)), 422, "/n"),
        ("B6 text", with("n", json!("1")), 422, "/n"),
        ("B6 half", with("n", json!(1.5)), 422, "/n"),
        // B8
        ("B8 not base64", with("images", json!([{"b64_json": "@@@"}])), 422, "/images/0/b64_json"),
        (
            "B8 SVG",
            with("images", image(b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
            422,
            "/images/0/b64_json",
        ),
        ("B8 PDF", with("images", image(b"%PDF-1.7 and more of it")), 422, "/images/0/b64_json"),
        ("B8 ELF", with("images", image(b"\x7fELF\x02\x01\x01 and more of it")), 422, "/images/0/b64_json"),
        ("B8 zip", with("images", image(b"PK\x03\x04 and more of it")), 422, "/images/0/b64_json"),
        ("B8 too large", with("images", json!([{"b64_json": "A".repeat(2_000_000)}])), 413, ""),
        (
            "B8 two ways",
            with("images", json!([{"b64_json": "AA==", "url": "https://example.com/a.png"}])),
            422,
            "/images/0",
        ),
        // B9
        (
            "B9",
            with("images", json!(vec![json!({"url": "https://example.com/a.png"}); 1_000])),
            422,
            "/images",
        ),
        // B10
        ("B10 nothing", with("routing", json!({"max_cost_usd": "0"})), 422, "/routing/max_cost_usd"),
        ("B10 less", with("routing", json!({"max_cost_usd": "-0.01"})), 422, "/routing/max_cost_usd"),
        ("B10 not money", with("routing", json!({"max_cost_usd": "lots"})), 422, "/routing/max_cost_usd"),
        (
            "B10 beyond all money",
            with("routing", json!({"max_cost_usd": "1e30"})),
            422,
            "/routing/max_cost_usd",
        ),
        // B11
        ("B11 somebody", webhook("https://user:pass@example.com/hook"), 422, "/webhook/url"),
        ("B11 fragment", webhook("https://example.com/hook#part"), 422, "/webhook/url"),
        ("B11 port", webhook("https://example.com:22/hook"), 422, "/webhook/url"),
        ("B11 long", webhook(&format!("https://example.com/{long}")), 422, "/webhook/url"),
        ("B11 scheme", webhook("ftp://example.com/hook"), 422, "/webhook/url"),
        (
            "B11 event",
            with("webhook", json!({"url": "https://example.com/", "events": ["task.nope"]})),
            422,
            "/webhook/events/0",
        ),
        // B12
        ("B12 provider", with("routing", json!({"only": ["nope"]})), 422, "/routing/only/0"),
        ("B12 model of another", with("model", json!("piapi_flux/gpt-4o-image")), 422, "/model"),
        ("B12 options", with("provider_options", json!({"nope": {}})), 422, "/provider_options/nope"),
        (
            "B12 options of a provider that does not offer the model",
            with("provider_options", json!({"gpt_image": {"webhook": "https://example.com"}})),
            422,
            "/provider_options/gpt_image/webhook",
        ),
        (
            "B12 many options",
            with("provider_options", json!({"piapi_flux": {"service_mode": "x".repeat(4096)}})),
            422,
            "/provider_options",
        ),
        // B14
        ("B14 late", with("deadline_s", json!(1_000_000_000_000_u64)), 422, "/deadline_s"),
        ("B14 start", with("start_within_s", json!(0)), 422, "/start_within_s"),
        // B15
        ("B15 large", with("metadata", json!({"a": "b".repeat(64 * 1024)})), 422, "/metadata"),
        ("B15 deep", with("metadata", json!({"a": {"b": "c"}})), 422, "/metadata/a"),
    ];
    let mut wrong = Vec::new();
    for (case, body, status, pointer) in cases {
        let answer = gateway.post("/generate", &body).await;
        let problem = answer.json();
        let told = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
        if answer.status.as_u16() != status || (!pointer.is_empty() && told != pointer) {
            wrong.push(format!("{case}: {} {told} {}", answer.status, problem["detail"]));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let exact = gateway.post("/generate/dry-run", &prefixed(1024 * 1024)).await;
    assert_eq!(exact.status, 200, "what just fits is read");
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.get("/tasks").await.json()["data"], json!([]));
    assert_eq!(gateway.receptions(), 0);
    gateway.stop().await;
}

fn keys(count: usize) -> String {
    let keys: Vec<String> = (0..count).map(|n| format!("\"k{n}\":\"\"")).collect();
    keys.join(",")
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!("x"), |inner, _| json!({ "a": inner }))
}

/// B4, B7, B15: what looks dangerous is text, stored and sent to the byte.
#[rstest]
#[tokio::test]
async fn what_is_odd_but_right_is_taken_as_it_came(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let prompts = [
        "a cat\u{202e}tac a".to_owned(),
        "\u{1f469}\u{200d}\u{1f680}".repeat(10_000),
        "{{constructor.constructor('x')()}} ${jndi:ldap://x} %s %n".to_owned(),
        "'; DROP TABLE tasks; -- \" OR 1=1".to_owned(),
        "$(rm -rf /) `id` | ; &&".to_owned(),
        "a\r\nX-Injected: yes\r\n\r\nGET / HTTP/1.1".to_owned(),
        "</script><script>alert(1)</script>".to_owned(),
        "e\u{301} \u{e9} \u{fffd} \u{10ffff} \u{1}\u{7f}".to_owned(),
        "\n{\"level\":\"error\",\"message\":\"forged\"}".to_owned(),
    ];
    for prompt in prompts {
        let metadata =
            json!({"__proto__": "polluted", "constructor": prompt.chars().take(100).collect::<String>()});
        let body = json!({"prompt": prompt, "model": FLUX, "size": "64x64", "metadata": metadata});
        let task = gateway.run(&body.to_string()).await;
        assert_eq!(task["status"], "succeeded", "{task}");
        assert_eq!((&task["prompt"], &task["metadata"]), (&json!(prompt), &metadata));
        let ledger = gateway.simulator.ledger();
        assert_eq!(ledger.last().unwrap().prompt_sha256, sha256_hex(prompt.as_bytes()), "{prompt:?}");
    }
    let dear = json!({"prompt": "x", "model": FLUX, "size": "64x64", "routing": {"max_cost_usd": "1000000"}});
    assert_eq!(gateway.run(&dear.to_string()).await["status"], "succeeded", "a bound is not a price");
    gateway.stop().await;
}
