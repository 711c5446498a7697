//! The real program on a disk that is really full, and where the system lets it write nothing: no 202 that is not durable,
//! nothing lost, nothing bought twice, and it recovers by itself. And in an environment that would lead it elsewhere.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use reqwest::StatusCode;
use rstest::rstest;
use rustix::process::{Pid, Resource, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::harness::{KEY, PATIENCE, client};
use crate::process::{Running, easel, free_port, write};
use crate::sink::{Act, Sink};
use crate::stage::configuration;
use crate::trap::Trap;

/// How a private mount can be had here: as root, or as root of a user namespace.
fn namespace() -> Option<&'static str> {
    let can = |how: &str| {
        let tried = Command::new("unshare").args([how, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    ["-m", "-rm"].into_iter().find(|how| can(how))
}

/// What keeps the program from writing.
#[derive(Debug, Clone, Copy)]
enum Full {
    /// Its disk has no room.
    Disk,
    /// The system lets its files grow no further than nothing: this needs no privilege and works on every machine.
    Limit,
}

/// Says how long the files may be that a running program writes.
fn limit(program: u32, longest: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(program).unwrap());
    let mut limit = getrlimit(Resource::Fsize);
    limit.current = longest.or(limit.maximum);
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// Fills a disk to its last byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let piece = vec![0; size];
        while file.write_all(&piece).is_ok() {}
    }
}

async fn generate(gateway: &str, key: &str, prompt: &str) -> (StatusCode, Value) {
    let body = json!({"prompt": prompt, "model": "flux-schnell", "size": "64x64"});
    let request = client().post(format!("http://{gateway}/generate")).bearer_auth(KEY);
    let request = request.header("content-type", "application/json").header("idempotency-key", key);
    let answer = request.body(body.to_string()).send().await.unwrap();
    assert_eq!(
        answer.status() == 503,
        answer.headers().contains_key("retry-after") && answer.status() != 202
    );
    (answer.status(), answer.json().await.unwrap())
}

async fn task(gateway: &str, id: &str, wait: &str) -> Value {
    let request = client().get(format!("http://{gateway}/tasks/{id}{wait}")).bearer_auth(KEY);
    request.send().await.unwrap().json().await.unwrap()
}

#[rstest]
#[tokio::test]
async fn a_full_disk_never_answers_202_and_loses_nothing(#[values(Full::Disk, Full::Limit)] full: Full) {
    let how = match full {
        Full::Disk => namespace(),
        Full::Limit => None,
    };
    if matches!(full, Full::Disk) && how.is_none() {
        eprintln!(
            "nobody may mount a tmpfs on this machine: that nothing can be written is tested by a limit alone"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (sim, gateway) = (free_port().await, free_port().await);
    let ledger = at.join("ledger.jsonl").display().to_string();
    let simulate = ["simulate", "--listen", &sim, "--ledger", &ledger, "--time-scale", "0.2"];
    let _simulator = Running::simulator(easel(&simulate, at));
    let disk = at.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let store = format!("sqlite://{}/easel.db", disk.display());
    let text = configuration(&store, &format!("http://{sim}"), &folder, "[log]\nlevel = \"easel=info\"\n")
        .replace("/blobs\"\n", "/disk/blobs\"\nmin_free_mib = 0\n");
    let config = write(&folder, &format!("[server]\nlisten = \"{gateway}\"\n{text}"));
    let (program, script) = match how {
        Some(how) => (
            vec!["unshare", how, "sh"],
            format!("mount -t tmpfs -o size=16m tmpfs '{}' && exec \"$@\"", disk.display()),
        ),
        // The signal that comes with the refusal would end the program; a full disk sends none.
        None => (vec!["sh"], "trap '' XFSZ && exec \"$@\"".to_owned()),
    };
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).args(["-c", &script, "sh"]);
    command.args([env!("CARGO_BIN_EXE_easel"), "serve", "--config", &config]).current_dir(at);
    let running = Running::start(command, "easel is serving");
    // The disk as the program sees it.
    let inside = PathBuf::from(format!("/proc/{}/root{}", running.0.id(), disk.display()));
    let filler = inside.join("filler");

    // Paid for before the disk is full, and done while it is.
    let (status, first) = generate(&gateway, "first", "a cat [[sim: time=15]]").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let mut accepted = vec![first["id"].as_str().unwrap().to_owned()];
    let begun = Instant::now();
    while task(&gateway, &accepted[0], "").await["phase"] != "generating" {
        assert!(begun.elapsed() < PATIENCE);
    }
    match full {
        Full::Disk => fill(&filler),
        Full::Limit => limit(running.0.id(), Some(0)),
    }
    // What the log has room for is still durable; then it is honest about what is not.
    let mut refused = Vec::new();
    let long = "a long tale of a cat ".repeat(1_000);
    for n in 0..500 {
        let key = format!("order-{n}");
        let (status, body) = generate(&gateway, &key, &long).await;
        match status {
            StatusCode::ACCEPTED => accepted.push(body["id"].as_str().unwrap().to_owned()),
            status => {
                assert_eq!(
                    (status, &body["code"]),
                    (StatusCode::SERVICE_UNAVAILABLE, &json!("store_unavailable"))
                );
                refused.push(key);
            }
        }
        if refused.len() == 5 {
            break;
        }
    }
    assert_eq!(refused.len(), 5, "the disk was never full");
    let ready = client().get(format!("http://{gateway}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE, "it cannot write a picture");
    assert_eq!(task(&gateway, &accepted[0], "").await["id"], *accepted[0], "reading goes on");

    match full {
        Full::Disk => std::fs::remove_file(&filler).unwrap(),
        Full::Limit => limit(running.0.id(), None),
    }
    let freed = Instant::now();
    for key in &refused {
        loop {
            let (status, body) = generate(&gateway, key, &long).await;
            if status == StatusCode::ACCEPTED {
                accepted.push(body["id"].as_str().unwrap().to_owned());
                break;
            }
            assert!(freed.elapsed() < PATIENCE, "{status} {body}");
        }
    }
    for id in &accepted {
        let task = task(&gateway, id, "?wait=60").await;
        assert_eq!(task["status"], "succeeded", "{}", task["error"]);
        let picture = client().get(task["images"][0]["url"].as_str().unwrap()).send().await.unwrap();
        let bytes = picture.bytes().await.unwrap();
        assert_eq!(easel::domain::secret::sha256_hex(&bytes), task["images"][0]["sha256"]);
    }
    let lines = std::fs::read_to_string(&ledger).unwrap();
    let bought = lines.lines().filter(|line| line.contains("\"received\"")).count();
    assert_eq!(bought, accepted.len(), "each once");
}

/// S27: proxies of the environment are not asked, for nothing that leaves.
#[tokio::test]
async fn the_environment_s_proxies_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let trap = Trap::set().await;
    let (sim, gateway) = (free_port().await, free_port().await);
    let _simulator = Running::simulator(easel(&["simulate", "--listen", &sim, "--time-scale", "0"], at));
    let store = format!("sqlite://{}/easel.db", at.display());
    let text = configuration(&store, &format!("http://{sim}"), &folder, "[log]\nlevel = \"easel=info\"\n");
    let config = write(&folder, &format!("[server]\nlisten = \"{gateway}\"\n{text}"));
    let mut command = easel(&["serve", "--config", &config], at);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env(name, format!("http://127.0.0.1:{}", trap.port));
    }
    let _running = Running::start(command, "easel is serving");
    let sink = Sink::saying(Act::Status(200)).await;
    let body =
        json!({"prompt": "a cat", "model": "flux-schnell", "size": "64x64", "webhook": {"url": sink.url}});
    let request = client().post(format!("http://{gateway}/generate")).bearer_auth(KEY);
    let request = request.header("content-type", "application/json").header("prefer", "wait=60");
    let task: Value = request.body(body.to_string()).send().await.unwrap().json().await.unwrap();
    assert_eq!(task["status"], "succeeded", "{task}");
    sink.wait_for(1).await;
    assert!(trap.is_untouched());
}
