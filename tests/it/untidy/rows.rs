//! The rows of the matrix: how each is asked for, run beside the others of its group, and judged.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use easel::domain::secret::sha256_hex;
use easel::simulator::Reception;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Answer, Db, Gateway};
use crate::hostile_pictures::png;

pub const FLUX: &str = "flux";
pub const CHAT: &str = "chat";
pub const GENERATIONS: &str = "generations";
pub const EDITS: &str = "edits";
pub const IMAGE_STREAM: &str = "image stream";
pub const V3: &str = "v3";
pub const V1: &str = "v1";

/// Handed out by link.
pub const LINK: &str = "link";
/// Inside the answer.
pub const INLINE: &str = "inline";

/// imagepipeline's other dialect, as a second account.
pub const V1_ACCOUNT: &str = "[providers.v1]\nkind = \"imagepipeline\"\ndialect = \"v1\"\n\
    base_url = \"{upstream}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\nin_flight = 50\npoll_after_s = 0.05\n";

/// What must come of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Every image that was made is there, byte by byte, and was bought once.
    Kept,
    /// Nothing is delivered, and nothing is bought twice.
    NotTaken,
    /// Refused for its content: said to be so, with a verdict on the bill, and not bought twice.
    Refused,
    /// Whatever ends it: nothing is bought twice, and what is delivered is what was made.
    Either,
}

pub const SUCCEEDS: Wanted = Wanted::Kept;
pub const EITHER: Wanted = Wanted::Either;

/// These adapters, in these forms, under this directive with each of these words.
pub struct Case(
    pub &'static [&'static str],
    pub &'static [&'static str],
    pub &'static str,
    pub &'static str,
    pub Wanted,
);

pub type Group = &'static [Case];

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub adapter: &'static str,
    /// The whole directive.
    pub directive: String,
    /// More of the request: inputs, mostly.
    pub more: Value,
    pub wanted: Wanted,
}

/// Every row of a group.
pub fn rows(group: Group) -> Vec<Row> {
    let mut rows = Vec::new();
    for Case(adapters, forms, directive, words, wanted) in group {
        for adapter in *adapters {
            for form in *forms {
                for word in words.split(' ') {
                    let asked = directive.replace("{}", word);
                    rows.push(Row {
                        name: format!("{adapter}, {form}: {asked}"),
                        adapter,
                        directive: format!("{asked} {}", form_of(adapter, form)),
                        more: json!({}),
                        wanted: *wanted,
                    });
                }
            }
        }
    }
    rows
}

/// What makes an upstream hand its images out in this form.
fn form_of(adapter: &str, form: &str) -> &'static str {
    match (adapter, form) {
        (GENERATIONS | EDITS | IMAGE_STREAM, LINK) => "form=url",
        (GENERATIONS | EDITS | IMAGE_STREAM, _) => "form=b64",
        (_, LINK) => "",
        _ => "inline",
    }
}

/// The request of a row.
fn request(row: &Row, number: usize) -> Value {
    // Decomposed, and with what HTML escapes.
    let prompt = format!("row {number:04} cafe\u{301} & <cat> [[sim: picture=32x32 {}]]", row.directive);
    let input = json!([{"b64_json": base64(&png(32, 32))}]);
    let mut body = match row.adapter {
        FLUX => json!({"model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64"}),
        CHAT => json!({"model": "gpt-4o-image"}),
        GENERATIONS => json!({"model": "gpt-image-1"}),
        EDITS => json!({"model": "gpt-image-1", "images": input}),
        IMAGE_STREAM => json!({"model": "gpt-image-1", "provider_options": {"gpt_image": {"stream": true}}}),
        // Two images, but where there is room for one.
        V3 => {
            let one =
                row.directive.contains("seat=output_link") || row.directive.contains("seat=result_image ");
            json!({"model": "imagepipeline/flux-schnell", "size": "64x64", "n": if one { 1 } else { 2 }})
        }
        V1 => json!({"model": "v1/flux-schnell", "size": "64x64"}),
        other => panic!("no such adapter: {other}"),
    };
    body["prompt"] = json!(prompt);
    body["deadline_s"] = json!(86_400);
    for (key, value) in row.more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    // Said to be nothing: not said.
    body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    body
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// So many rows are under way at the same time.
const BATCH: usize = 40;
/// So many moments a batch may take: a task that ends later than that ends never.
const MOMENTS: usize = 500;

/// Runs all rows of a group on a gateway of their own and lists those that fail.
pub async fn check(db: Db, group: Group) {
    check_rows(db, rows(group)).await;
}

pub async fn check_rows(db: Db, rows: Vec<Row>) {
    let gateway = Gateway::configured(db, V1_ACCOUNT).await;
    let (mut wrong, count) = (String::new(), rows.len());
    for (at, batch) in rows.chunks(BATCH).enumerate() {
        let mut open = BTreeMap::new();
        for (number, row) in (at * BATCH..).zip(batch) {
            let answer = submit(&gateway, &request(row, number).to_string()).await;
            if answer.status == StatusCode::ACCEPTED {
                open.insert(number, (row, answer.json()["id"].as_str().unwrap().to_owned()));
            } else {
                writeln!(wrong, "{}: not taken in: {}", row.name, answer.json()).unwrap();
            }
        }
        for _ in 0..MOMENTS {
            if open.is_empty() {
                break;
            }
            gateway.app.engine.run_until_idle().await.unwrap();
            for number in open.keys().copied().collect::<Vec<_>>() {
                let (row, id) = &open[&number];
                let task = gateway.task(id).await;
                if !task["finished_at"].is_null() {
                    if let Err(why) = judge(&gateway, row, number, &task).await {
                        writeln!(wrong, "{}: {why}", row.name).unwrap();
                    }
                    open.remove(&number);
                }
            }
            gateway.advance_to_next().await;
        }
        for (row, id) in open.values() {
            let task = gateway.task(id).await;
            writeln!(wrong, "{}: never ends: {} {}", row.name, task["status"], task["phase"]).unwrap();
        }
    }
    gateway.stop().await;
    let failed = wrong.lines().count();
    assert!(wrong.is_empty(), "{failed} of {count} rows fail:\n{wrong}");
}

/// Asks until the account is open: what one row did to its circuit is not the next one's.
async fn submit(gateway: &Gateway, body: &str) -> Answer {
    for _ in 0..5 {
        let answer = gateway.post("/generate", body).await;
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            return answer;
        }
        gateway.clock.advance(Duration::from_mins(5));
        gateway.app.engine.run_until_idle().await.unwrap();
    }
    gateway.post("/generate", body).await
}

/// The upstream's receptions for a row.
pub fn receptions(gateway: &Gateway, number: usize) -> Vec<Reception> {
    let mark = format!("row {number:04}");
    gateway.simulator.ledger().into_iter().filter(|one| one.prompt_head.contains(&mark)).collect()
}

async fn judge(gateway: &Gateway, row: &Row, number: usize, task: &Value) -> Result<(), String> {
    let (status, code) = (task["status"].as_str().unwrap_or("?"), task["error"]["code"].as_str());
    let ended = format!("{} ({})", code.unwrap_or(status), task["cost"]["billed"].as_str().unwrap_or("?"));
    let received = receptions(gateway, number);
    // A job of imagepipeline costs time alone: one of unknown outcome may be asked for once more.
    if row.wanted == Wanted::Either && matches!(row.adapter, V1 | V3) && received.len() == 2 {
        return Ok(());
    }
    let [reception] = received.as_slice() else {
        return Err(format!("{ended}, bought {} times", received.len()));
    };
    match (row.wanted, status) {
        (Wanted::Kept | Wanted::Either, "succeeded") => {}
        (Wanted::Kept, _) => return Err(format!("{ended}: {}", task["error"]["detail"])),
        (Wanted::Either, _) => return Ok(()),
        (Wanted::NotTaken | Wanted::Refused, "succeeded") => return Err("taken for a result".to_owned()),
        (Wanted::NotTaken, _) => {
            let images = task["images"].as_array().map_or(0, Vec::len);
            return if images == 0 { Ok(()) } else { Err(format!("{ended}, with {images} images")) };
        }
        (Wanted::Refused, _) => {
            // Either says that the provider would not; which of them is a matter of taste.
            let said = matches!(code, Some("content_rejected" | "no_image_returned" | "provider_rejected"));
            let known = task["cost"]["billed"] != "unknown";
            return if said && known { Ok(()) } else { Err(ended) };
        }
    }
    let images = task["images"].as_array().unwrap();
    let made: Vec<_> = reception.files.iter().filter(|file| file.sha256.is_some()).collect();
    if images.len() != reception.files.len() || made.len() != images.len() {
        return Err(format!("{} of {} images are there", images.len(), reception.files.len()));
    }
    let mut kept = Vec::new();
    for image in images {
        let path = format!("/tasks/{}/images/{}", task["id"].as_str().unwrap(), image["index"]);
        kept.push(sha256_hex(&gateway.get(&path).await.bytes));
    }
    let sent: Vec<_> =
        made.iter().map(|file| file.sent_sha256.clone().or(file.sha256.clone()).unwrap()).collect();
    if kept == sent { Ok(()) } else { Err("other bytes are served than were sent".to_owned()) }
}
