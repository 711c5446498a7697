//! Changes of mind, figures that cannot be, ids that belong to others, results of which some are missing for a
//! while, large answers, and callers' own files with bytes after the image.

use std::time::Duration;

use easel::domain::clock::Clock;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use super::rows::{FLUX, Row, Wanted, check_rows};
use crate::harness::{Db, Gateway, OTHER_KEY};
use crate::hostile_pictures::png;

fn flux(fault: &str, n: u64) -> String {
    let prompt = format!("a cat [[sim: picture=32x32 {fault}]]");
    let body = json!({"prompt": prompt, "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64", "n": n});
    body.to_string()
}

fn count(images: &Value) -> usize {
    images.as_array().map_or(0, Vec::len)
}

/// Kind 8: a failure that is not proven is waited on, and nothing is sent again.
#[rstest]
#[tokio::test]
async fn a_failure_that_is_not_proven_may_still_complete(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let rows = [
        "status=failed consume=0,0,0 frozen=0,0,0",
        "status=failed consume=0,0,0 frozen=absent,absent",
        "status=failed,failed,failed consume=0,0,0 frozen=15000,15000,15000",
        "status=failed,processing,failed consume=0,0,0 frozen=15000,15000,15000",
        "status=failed,failed consume=absent,absent frozen=15000,15000 restored=false",
    ];
    let row = |directive: &&str| Row {
        name: format!("flux: {directive}"),
        adapter: FLUX,
        directive: (*directive).to_owned(),
        more: json!({}),
        wanted: Wanted::Kept,
    };
    check_rows(db, rows.iter().map(row).collect()).await;
}

/// Kind 8: what is proven unbilled is bought again; what is not, is not.
#[rstest]
#[tokio::test]
async fn only_a_failure_that_is_proven_unbilled_is_bought_again(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    for fault in [
        "fail times=1 consume=0,... frozen=0,... restored=false",
        "fail times=1 consume=0,... frozen=absent,... restored=false",
        "fail times=1 consume=0,... frozen=15000,... restored=true",
    ] {
        let gateway = Gateway::start(db).await;
        let task = gateway.run(&flux(fault, 1)).await;
        assert_eq!((&task["status"], gateway.receptions()), (&json!("succeeded"), 2), "{fault}: {task}");
        gateway.stop().await;
    }
    let gateway = Gateway::start(db).await;
    let begun = gateway.clock.now();
    let fault = "fail times=1 consume=0,... frozen=15000,... restored=false";
    gateway.generate(&flux(fault, 1)).await;
    while gateway.clock.now().since(begun) < Duration::from_mins(30) {
        gateway.app.engine.run_until_idle().await.unwrap();
        gateway.advance_to_next().await;
    }
    assert_eq!(gateway.receptions(), 1, "its points are still frozen: it has not failed yet");
    gateway.stop().await;
}

/// Kind 8: failed and billed, then completed: what was paid for comes as the late result, if not at once.
#[rstest]
#[tokio::test]
async fn a_failed_job_that_completes_is_not_lost(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let fault = "status=failed,failed,failed consume=15000,... frozen=0,...";
    let id = gateway.run(&flux(fault, 1)).await["id"].as_str().unwrap().to_owned();
    let found = |task: &Value| count(&task["images"]) + count(&task["late_result"]["images"]);
    for _ in 0..500 {
        if found(&gateway.task(&id).await) > 0 {
            break;
        }
        gateway.advance_to_next().await;
        gateway.app.engine.run_until_idle().await.unwrap();
    }
    let task = gateway.task(&id).await;
    assert_eq!((found(&task), gateway.receptions()), (1, 1), "{task}");
    gateway.stop().await;
}

/// A charge that cannot be is held as unknown; the image is there, and everything written can be read.
#[rstest]
#[tokio::test]
async fn absurd_figures_spoil_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let mut wrong = Vec::new();
    for (figure, billed) in [
        ("1e16", Some("unknown")),
        ("9223372036854775807", Some("unknown")),
        ("1e400", Some("unknown")),
        // More than a hundred times the price.
        ("2000000", Some("unknown")),
        // No charge at all: a verdict either way can be defended.
        ("-1", None),
        ("abc", None),
        ("null", None),
    ] {
        let task = gateway.run(&flux(&format!("consume={figure},..."), 1)).await;
        let id = task["id"].as_str().unwrap();
        let is = task["cost"]["billed"].as_str();
        if task["status"] != "succeeded" || billed.is_some_and(|billed| is != Some(billed)) {
            wrong.push(format!("consume {figure}: {} {is:?} {}", task["status"], task["error"]["code"]));
        }
        for path in [format!("/tasks/{id}"), "/tasks".to_owned(), "/usage".to_owned()] {
            let status = gateway.get(&path).await.status;
            if status != StatusCode::OK {
                wrong.push(format!("consume {figure}: {path} answers {status}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    gateway.stop().await;
}

/// Kind 3: a figure is a figure however it is written.
#[rstest]
#[tokio::test]
async fn a_charge_is_booked_as_it_was_said(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    for figure in ["20000", "20000.0", "\"\\\"20000\\\",...\"", "2e4"] {
        let said = if figure.starts_with('"') { figure.to_owned() } else { format!("{figure},...") };
        let task = gateway.run(&flux(&format!("consume={said}"), 1)).await;
        assert_eq!(
            (&task["status"], &task["cost"]["actual_usd"]),
            (&json!("succeeded"), &json!("0.002")),
            "{figure}"
        );
    }
    gateway.stop().await;
}

/// Kind 7: an id that another attempt has is nobody else's, whatever the answer says besides.
#[rstest]
#[tokio::test]
async fn an_id_that_is_taken_delivers_nothing(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values("pending", "completed", "failed")] status: &str,
) {
    let gateway = Gateway::start(db).await;
    let other = format!("Bearer {OTHER_KEY}");
    let headers = [("authorization", other.as_str())];
    let theirs = flux("task_id=shared-0001", 1).replace("a cat", "their cat");
    let task = gateway.send(reqwest::Method::POST, "/generate", &headers, Some(&theirs)).await.json();
    let task = gateway.settle_for(&headers, task["id"].as_str().unwrap()).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let ours = gateway.run(&flux(&format!("task_id=shared-0001 submit_status={status}"), 1)).await;
    let delivered = count(&ours["images"]) + count(&ours["late_result"]["images"]);
    assert_eq!((delivered, &ours["cost"]["billed"]), (0, &json!("unknown")), "{ours}");
    assert_eq!((&ours["status"], gateway.receptions()), (&json!("failed"), 2), "{ours}");
    gateway.stop().await;
}

/// Kind 9: three links, one dead: the others are there within ten minutes, the last one when it heals.
#[rstest]
#[tokio::test]
async fn one_dead_link_of_three_holds_nothing_back(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    for outage in ["missing", "maintenance", "html"] {
        let begun = gateway.clock.now();
        let fault = format!("outage={outage} outage_of=1 outage_s=7200");
        let task = gateway.run(&flux(&fault, 3)).await;
        let waited = gateway.clock.now().since(begun);
        assert_eq!(
            (&task["status"], &task["partial"], count(&task["images"])),
            (&json!("succeeded"), &json!(true), 2),
            "{outage}: {task}"
        );
        assert!(waited <= Duration::from_mins(10), "{outage}: {waited:?}");
        let id = task["id"].as_str().unwrap();
        for _ in 0..1_000 {
            if count(&gateway.task(id).await["late_result"]["images"]) > 0 {
                break;
            }
            gateway.advance_to_next().await;
            gateway.app.engine.run_until_idle().await.unwrap();
        }
        let task = gateway.task(id).await;
        assert_eq!(count(&task["late_result"]["images"]), 1, "{outage}: {task}");
    }
    assert_eq!(gateway.receptions(), 3);
    gateway.stop().await;
}

/// Kind 5: four images of 14 MB in one answer.
#[rstest]
#[tokio::test]
async fn four_large_images_in_one_answer_are_kept(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let prompt = "a cat [[sim: picture=64x64 file_bytes=14000000 form=b64]]";
    let body = json!({"prompt": prompt, "model": "gpt-image-1", "quality": "low", "n": 4});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!((&task["status"], gateway.receptions()), (&json!("succeeded"), 1), "{task}");
    let kept: Vec<_> =
        task["images"].as_array().unwrap().iter().map(|image| image["sha256"].as_str()).collect();
    let ledger = gateway.simulator.ledger();
    let made: Vec<_> = ledger[0].files.iter().map(|file| file.sha256.as_deref()).collect();
    assert_eq!((kept.len(), kept), (4, made));
    gateway.stop().await;
}

/// Kind 1, from the other side: what every viewer opens is taken from callers too.
#[rstest]
#[tokio::test]
async fn uploads_with_bytes_after_the_image_are_taken(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let mut jpeg = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(64, 64).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    let gif = b"GIF89a\x40\0\x40\0\0\0\0,\0\0\0\0\x40\0\x40\0\0\x02\x02\x44\x01\0;".to_vec();
    let mut wrong = Vec::new();
    for (name, kind, bytes) in [
        ("a PNG and a line feed", "image/png", [png(64, 64), b"\n".to_vec()].concat()),
        ("a PNG and two zeroes", "image/png", [png(64, 64), vec![0; 2]].concat()),
        ("a JPEG and a camera's trailer", "image/jpeg", [jpeg.clone(), vec![0x5a; 320]].concat()),
        ("a JPEG and an MP4", "image/jpeg", [jpeg, b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".to_vec()].concat()),
        ("a GIF without its last byte", "image/gif", gif[..gif.len() - 1].to_vec()),
        ("a GIF and 300 zeroes", "image/gif", [gif, vec![0; 300]].concat()),
    ] {
        let answer = gateway.upload("/files", &[("content-type", kind)], bytes).await;
        if answer.status != StatusCode::CREATED {
            wrong.push(format!("{name}: {}", answer.json()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    gateway.stop().await;
}
