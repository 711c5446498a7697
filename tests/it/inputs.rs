//! How input images reach each provider: by their own address where everybody can reach it, by a signed address of ours where
//! only we can, inside the request where there is no such address, and with a refusal that says so where nothing is left.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, ITSELF, client};
use crate::hostile_pictures::host;
use crate::recorder::Recorder;

/// A painted PNG.
pub fn png(width: u32, height: u32, paint: impl Fn(u32, u32) -> [u8; 4]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbaImage::from_fn(width, height, |x, y| image::Rgba(paint(x, y)));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A gateway whose Flux and chat accounts write down what they are sent.
async fn recorded(db: Db, public: bool) -> (Gateway, Recorder) {
    let recorder = Recorder::start().await;
    let accounts = ["piapi_flux", "gpt_4o_image"].map(|kind| {
        format!(
            "[providers.{kind}]\nkind = \"{kind}\"\nbase_url = \"{}\"\napi_key = \"k-0123456789\"\nallow_http_results = true\n",
            recorder.url
        )
    });
    let server = if public { format!("[server]\npublic_url = \"{ITSELF}\"\n") } else { String::new() };
    (Gateway::only(db, &format!("{server}{}", accounts.concat())).await, recorder)
}

async fn upload(gateway: &Gateway, bytes: Vec<u8>) -> Value {
    let answer = gateway.upload("/files", &[("content-type", "image/png")], bytes).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
    json!({"file_id": answer.json()["id"]})
}

/// What the recorder was sent for a request: the place of its first image.
async fn sent(gateway: &Gateway, recorder: &Recorder, body: &Value, pointer: &str) -> String {
    gateway.generate(&body.to_string()).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let (_, sent) = recorder.last();
    sent.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {sent}")).to_owned()
}

const PLACES: [(&str, &str, &str); 3] = [
    ("flux-dev", "image_to_image", "/input/image"),
    ("flux-dev-advanced", "variation", "/input/image"),
    ("gpt-4o-image", "edit", "/messages/0/content/0/image_url/url"),
];

#[rstest]
#[tokio::test]
async fn what_only_we_can_reach_is_handed_over_by_an_address_of_ours(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let (gateway, recorder) = recorded(db, true).await;
    let picture = png(32, 16, |x, _| [u8::try_from(x).unwrap(), 1, 2, 255]);
    let inputs = [
        upload(&gateway, picture.clone()).await,
        json!({"url": host(picture.clone()).await}),
        json!({"b64_json": STANDARD.encode(&picture)}),
    ];
    for (model, operation, place) in PLACES {
        for input in &inputs {
            let body = json!({"prompt": "a bear", "model": model, "operation": operation, "images": [input]});
            let address = sent(&gateway, &recorder, &body, place).await;
            assert!(address.starts_with(&format!("{}/files/", gateway.url)), "{model}: {address}");
            // It opens without a key, as it does for the provider.
            let fetched = client().get(&address).send().await.unwrap();
            assert_eq!(fetched.status(), StatusCode::OK);
            assert_eq!(fetched.bytes().await.unwrap(), picture);
        }
        // What everybody can reach is passed on as it is.
        let public = json!({"prompt": "a bear", "model": model, "operation": operation, "images": [{"url": "https://93.184.215.14/a.png"}]});
        assert_eq!(sent(&gateway, &recorder, &public, place).await, "https://93.184.215.14/a.png");
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn without_an_address_of_ours_it_goes_inside_the_request_or_not_at_all(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let (gateway, recorder) = recorded(db, false).await;
    let picture = png(32, 16, |_, y| [u8::try_from(y).unwrap(), 1, 2, 255]);
    let uploaded = upload(&gateway, picture.clone()).await;
    let private = json!({"url": host(picture.clone()).await});
    let inline = format!("data:image/png;base64,{}", STANDARD.encode(&picture));
    for (model, operation, place) in PLACES {
        for input in [&uploaded, &private] {
            let body = json!({"prompt": "a bear", "model": model, "operation": operation, "images": [input]});
            if operation != "variation" {
                assert_eq!(sent(&gateway, &recorder, &body, place).await, inline, "{model}");
                continue;
            }
            // This one takes addresses alone.
            let answer = gateway.post("/generate", &body.to_string()).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.json());
            assert_eq!(answer.json()["code"], "unservable");
            let error = &answer.json()["errors"][0];
            assert_eq!(error["pointer"], "/images/0");
            assert!(error["detail"].as_str().unwrap().contains("server.public_url"), "{error}");
        }
    }
    gateway.stop().await;
}

/// An image that came with a task, or was fetched for it, has a row only together with the task it goes with: whatever ends
/// the process, erasing the task finds it.
#[rstest]
#[tokio::test]
async fn an_image_is_never_here_without_the_task_it_goes_with(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (gateway, _recorder) = recorded(db, true).await;
    let picture = png(32, 16, |x, _| [u8::try_from(x).unwrap(), 3, 2, 255]);
    let body = |image: Value| {
        json!({"prompt": "a bear", "model": "flux-dev", "operation": "image_to_image", "images": [image]})
            .to_string()
    };
    let inline = body(json!({"b64_json": STANDARD.encode(&picture)}));
    let address = body(json!({"url": host(picture).await}));
    for body in [&inline, &address] {
        let task = gateway.generate(body).await;
        gateway.app.engine.run_until_idle().await.unwrap();
        let bound = gateway.texts("SELECT COALESCE(task_id, 'none') FROM files").await;
        assert_eq!(bound, [task["id"].as_str().unwrap()]);
        gateway.sql("DELETE FROM files").await;
    }
    // Where the binding cannot be written, neither can what it binds.
    gateway.sql("UPDATE tasks SET wake_at = NULL").await;
    gateway
        .sql(match db {
            Db::Postgres => "ALTER TABLE files ADD CONSTRAINT unbound CHECK (task_id IS NULL)",
            _ => {
                "CREATE TRIGGER one BEFORE UPDATE OF task_id ON files BEGIN SELECT RAISE(ABORT, 'no'); END; \
                 CREATE TRIGGER two BEFORE INSERT ON files WHEN NEW.task_id IS NOT NULL BEGIN SELECT RAISE(ABORT, 'no'); END"
            }
        })
        .await;
    let tasks = gateway.texts("SELECT id FROM tasks").await.len();
    let refused = gateway.post("/generate", &inline).await;
    assert!(refused.status.is_server_error(), "{}", refused.json());
    assert_eq!(gateway.texts("SELECT id FROM tasks").await.len(), tasks);
    gateway.sql("DELETE FROM files").await;
    gateway.generate(&address).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.texts("SELECT id FROM files").await, Vec::<String>::new());
    gateway.stop().await;
}

/// A mask for Flux is painted white into the image; one of another size is refused, whatever the provider.
#[rstest]
#[tokio::test]
async fn a_mask_is_painted_in_and_must_fit(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (gateway, recorder) = recorded(db, true).await;
    let image = png(32, 16, |x, y| [u8::try_from(x).unwrap(), u8::try_from(y).unwrap(), 9, 255]);
    let left = |x: u32| if x < 8 { [255; 4] } else { [0, 0, 0, 255] };
    let (image, mask) = (upload(&gateway, image).await, upload(&gateway, png(32, 16, |x, _| left(x))).await);
    let body = json!({"prompt": "a hat", "model": "flux-dev-advanced", "images": [image], "mask": mask});
    let address = sent(&gateway, &recorder, &body, "/input/image").await;
    let painted = client().get(&address).send().await.unwrap().bytes().await.unwrap();
    let painted = image::load_from_memory(&painted).unwrap().to_rgba8();
    assert_eq!((painted.get_pixel(7, 15).0, painted.get_pixel(8, 15).0), ([255; 4], [8, 15, 9, 255]));
    let small = upload(&gateway, png(16, 16, |x, _| left(x))).await;
    let body = json!({"prompt": "a hat", "model": "flux-dev-advanced", "images": [image], "mask": small});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!(
        (&task["error"]["code"], &task["cost"]["billed"]),
        (&json!("validation_failed"), &json!("no"))
    );
    assert!(
        task["error"]["detail"].as_str().unwrap().contains("the mask is 16x16, the image 32x16"),
        "{task}"
    );
    gateway.stop().await;
}
