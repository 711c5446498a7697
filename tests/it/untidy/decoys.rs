//! What must not be taken: echoes of the request, inputs handed back, links of the prompt, previews. Instead of
//! a result they leave a task without one; beside a result they change nothing. And how an answer says no.

use rstest::rstest;
use serde_json::{Value, json};

use super::rows::{
    CHAT, Case, EDITS, FLUX, GENERATIONS, Group, IMAGE_STREAM, LINK, Row, SUCCEEDS, V1, V3, Wanted, base64,
    check, check_rows,
};
use crate::harness::Db;
use crate::hostile_pictures::{host, png};

const ALL: &[&str] = &[FLUX, CHAT, GENERATIONS, EDITS, IMAGE_STREAM, V3, V1];
const LINK_ONLY: &[&str] = &[LINK];
const NOT_TAKEN: Wanted = Wanted::NotTaken;
const REFUSED: Wanted = Wanted::Refused;

const ALONE: Group = &[
    Case(ALL, LINK_ONLY, "decoy={}", "echo_input echo_meta_input echo_config echo_request", NOT_TAKEN),
    Case(ALL, LINK_ONLY, "decoy={}", "partial thumbnail preview progress", NOT_TAKEN),
    // Nobody answers by that name in a test; a gateway that knows it does not ask.
    Case(&[CHAT, FLUX, GENERATIONS], LINK_ONLY, "decoy={}", "decoy_host", NOT_TAKEN),
    // It may be a result and cannot be told from a decoy: quarantine, not the caller.
    Case(ALL, LINK_ONLY, "decoy={}", "unknown_key", NOT_TAKEN),
    Case(&[EDITS], LINK_ONLY, "decoy={}", "input_bytes", NOT_TAKEN),
];

const BESIDE: Group = &[
    Case(
        ALL,
        &["link", "inline"],
        "beside decoy={}",
        "thumbnail,preview progress echo_input,echo_request",
        SUCCEEDS,
    ),
    Case(ALL, LINK_ONLY, "beside decoy={}", "echo_config,echo_meta_input unknown_key", SUCCEEDS),
    Case(&[CHAT, IMAGE_STREAM], LINK_ONLY, "beside decoy={}", "partial", SUCCEEDS),
];

const SHAPES: &str = "event_json event_text object text typed typed_flat response_failed generation_failed \
    object_error code detail errors block_reason";

/// Kind 4: a refusal is a refusal in every shape.
const REFUSALS: Group = &[
    Case(&[CHAT, IMAGE_STREAM], LINK_ONLY, "error_event={}", SHAPES, REFUSED),
    Case(
        &[CHAT],
        LINK_ONLY,
        "error_after=text error_event={}",
        "object typed response_failed refusal",
        REFUSED,
    ),
    Case(
        &[IMAGE_STREAM],
        LINK_ONLY,
        "error_after=partial error_event={}",
        "typed generation_failed",
        REFUSED,
    ),
    Case(
        &[GENERATIONS, EDITS],
        LINK_ONLY,
        "error_event={}",
        "object text object_error code detail errors",
        REFUSED,
    ),
    Case(&[CHAT], LINK_ONLY, "error_event=object label={}", "application/json text/plain none", REFUSED),
];

#[rstest]
#[case::alone(ALONE)]
#[case::beside(BESIDE)]
#[case::refusals(REFUSALS)]
#[tokio::test]
async fn what_is_no_result_is_not_taken_for_one(
    #[case] group: Group,
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    check(db, group).await;
}

/// An input, a mask or a control that comes back, by link or by its bytes; a link that stands in the prompt.
#[rstest]
#[tokio::test]
async fn what_was_sent_is_not_taken_for_what_was_made(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (input, control) = (png(40, 40), png(48, 48));
    let link = host(input.clone()).await;
    let (by_link, by_bytes) = (json!({"url": link}), json!({"b64_json": base64(&input)}));
    let advanced = "flux-dev-advanced";
    let mask =
        json!({"images": [{"b64_json": base64(&png(32, 32))}], "mask": {"b64_json": base64(&white())}});
    let controls = |image: Value| json!({"model": advanced, "controls": [{"type": "depth", "image": image}]});
    let mut rows = Vec::new();
    let mut add = |adapter: &'static str, decoy: &str, what: &str, more: Value| {
        let (name, directive) = (format!("{adapter}: {decoy}, {what}"), format!("decoy={decoy}"));
        rows.push(Row { name, adapter, directive, more, wanted: NOT_TAKEN });
    };
    for (what, image) in [("sent as a link", &by_link), ("sent as bytes", &by_bytes)] {
        for decoy in ["input_link", "input_bytes"] {
            for adapter in [CHAT, EDITS] {
                add(adapter, decoy, what, json!({"images": [image]}));
            }
            add(FLUX, decoy, what, json!({"images": [image], "size": null}));
        }
    }
    add(EDITS, "mask", "sent as bytes", mask);
    add(FLUX, "control", "sent as a link", controls(json!({"url": host(control.clone()).await})));
    add(FLUX, "control", "sent as bytes", controls(json!({"b64_json": base64(&control)})));
    for row in [FLUX, CHAT, GENERATIONS, IMAGE_STREAM, V3, V1] {
        add(row, "prompt_link", "in the prompt", json!({}));
    }
    for row in rows.iter_mut().filter(|row| row.directive.contains("prompt_link")) {
        // Between two directives: the link is a part of the prompt proper.
        row.directive = format!("{}]] in the style of {link} , if you please [[sim: form=url", row.directive);
    }
    check_rows(db, rows).await;
}

/// A mask that paints everything.
fn white() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let all = image::RgbaImage::from_pixel(32, 32, image::Rgba([255, 255, 255, 0]));
    all.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}
