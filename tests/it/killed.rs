//! The real program, killed while a picture is on its way into the store: started again it has the picture, to the byte, and
//! has bought nothing twice.

use easel::domain::secret::sha256_hex;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::bucket::{Bucket, Shelf, files};
use crate::harness::{KEY, PATIENCE, client};
use crate::process::{Running, easel, free_port, write};
use crate::stage::configuration;

const MIB: usize = 1024 * 1024;

// The bucket must answer while the test waits for the program.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_saving_it_has_the_picture_and_pays_once(
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let bucket = if shelf == Shelf::Bucket { Some(Bucket::start().await) } else { None };
    let (sim, gateway) = (free_port().await, free_port().await);
    let ledger = at.join("ledger.jsonl").display().to_string();
    let simulate = ["simulate", "--listen", &sim, "--ledger", &ledger, "--time-scale", "0"];
    let _simulator = Running::simulator(easel(&simulate, at));
    let store = format!("sqlite://{}/easel.db", at.display());
    let section = bucket.as_ref().map(Bucket::section).unwrap_or_default();
    let more = format!("{section}[log]\nlevel = \"easel=info\"\n");
    let text = configuration(&store, &format!("http://{sim}"), &folder, &more);
    let config = write(&folder, &format!("[server]\nlisten = \"{gateway}\"\n{text}"));
    let start = || Running::start(easel(&["serve", "--config", &config], at), "easel is serving");
    let running = start();

    // The first download is given slowly: 12 MiB, of which a part is in the store when the process dies.
    let slow = json!({"on": "files", "times": 1, "do": {"file_slow": MIB}});
    let rules = client().post(format!("http://{sim}/_sim/rules")).header("content-type", "application/json");
    assert!(rules.body(slow.to_string()).send().await.unwrap().status().is_success());
    let prompt = format!("a little cat [[sim: file_bytes={}]]", 12 * MIB);
    let body = json!({"prompt": prompt, "model": "flux-schnell", "size": "64x64"});
    let request = client().post(format!("http://{gateway}/generate")).bearer_auth(KEY);
    let accepted =
        request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let id = accepted.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    let blobs = at.join("blobs");
    let incoming = || match &bucket {
        Some(bucket) => bucket.objects().iter().any(|(name, _)| name.starts_with("incoming/")),
        None => files(&blobs).iter().any(|(name, size)| name.starts_with("incoming/") && *size > 0),
    };
    let http = client();
    let url = format!("http://{gateway}/tasks/{id}");
    let half_way = async {
        while !incoming() {
            let task: Value = http.get(&url).bearer_auth(KEY).send().await.unwrap().json().await.unwrap();
            assert!(task["finished_at"].is_null(), "{task}");
        }
    };
    tokio::time::timeout(PATIENCE, half_way).await.expect("a part of it is in the store");
    running.kill();

    let _running = start();
    let waited = client().get(format!("{url}?wait=60")).bearer_auth(KEY).send().await.unwrap();
    let task: Value = waited.json().await.unwrap();
    assert_eq!(task["status"], "succeeded", "{task}");
    let picture = client().get(format!("{url}/images/0")).bearer_auth(KEY).send().await.unwrap();
    let picture = picture.bytes().await.unwrap();
    assert_eq!(
        (picture.len(), sha256_hex(&picture)),
        (12 * MIB, task["images"][0]["sha256"].as_str().unwrap().into())
    );
    let lines = std::fs::read_to_string(&ledger).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("\"received\"")).count(), 1, "{lines}");
    assert!(lines.contains(&sha256_hex(&picture)), "what the provider made is what is here: {lines}");
    // In a folder nothing half-written outlives the restart; a bucket's leftovers wait for an hour, others may be writing.
    assert_eq!(incoming(), shelf == Shelf::Bucket);
}
