//! The real program in an operator's hands: backups while it runs, figures at an address of their own; and that what is
//! shipped to deploy it can be read.

use std::path::Path;
use std::process::{Command, Output};

use easel::config::Config;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{KEY, client, listen};
use crate::process::{Running, easel, free_port, refuses, run, write};
use crate::stage::configuration;

/// Where a gateway is deployed: a folder with its configuration, and a simulator that writes its ledger there.
struct Site {
    folder: TempDir,
    gateway: String,
    text: String,
    _simulator: Running,
}

impl Site {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let (sim, gateway) = (free_port().await, free_port().await);
        let simulate = ["simulate", "--listen", &sim, "--time-scale", "0", "--ledger", "ledger.jsonl"];
        let simulator = Running::simulator(easel(&simulate, at));
        let store = format!("sqlite://{}/easel.db", at.display());
        let log = "[log]\nlevel = \"easel=info\"\n";
        let text = configuration(&store, &format!("http://{sim}"), &folder, log);
        let text = format!("[server]\nlisten = \"{gateway}\"\n{text}");
        Self { folder, gateway, text, _simulator: simulator }
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    /// The file with its configuration and this.
    fn config(&self, more: &str) -> String {
        write(&self.folder, &format!("{}{more}", self.text))
    }

    fn start(&self, config: &str) -> Running {
        Running::start(easel(&["serve", "--config", config], self.at()), "easel is serving")
    }

    fn order(&self, prompt: &str) -> RequestBuilder {
        let body = format!(r#"{{"prompt":"{prompt}","model":"flux-schnell","size":"64x64"}}"#);
        let request = client().post(format!("http://{}/generate", self.gateway)).bearer_auth(KEY);
        request.header("content-type", "application/json").body(body)
    }

    /// How many paid requests the provider received.
    fn bought(&self) -> usize {
        let lines = std::fs::read_to_string(self.at().join("ledger.jsonl")).unwrap();
        lines.lines().filter(|line| line.contains("\"received\"")).count()
    }
}

async fn get(address: &str, path: &str, key: &str) -> (StatusCode, String) {
    let answer = client().get(format!("http://{address}{path}")).bearer_auth(key).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

async fn task(address: &str, path: &str) -> Value {
    serde_json::from_str(&get(address, path, KEY).await.1).unwrap()
}

/// A copy made while the gateway works is whole, and a gateway that starts from it with submissions held buys nothing.
#[tokio::test]
async fn a_backup_is_made_while_it_runs_and_can_be_started_from() {
    let site = Site::open().await;
    let at = site.at();
    let config = site.config("");
    let running = site.start(&config);
    let submit = async |prompt: &str| {
        let answer = site.order(prompt).header("prefer", "wait=60").send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let before = submit("before").await;
    assert_eq!(before["status"], "succeeded", "{before}");
    let copy = at.join("copy.db").display().to_string();
    let backup = run(&["backup", "--config", &config, &copy], at);
    assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
    assert!(String::from_utf8_lossy(&backup.stdout).contains(&copy));
    refuses(&run(&["backup", "--config", &config, &copy], at), "exists already");
    let after = submit("after").await;
    running.kill();
    assert_eq!(site.bought(), 2);

    let config =
        write(&site.folder, &std::fs::read_to_string(&config).unwrap().replace("/easel.db", "/copy.db"));
    let mut restored = easel(&["serve", "--config", &config], at);
    restored.env("EASEL__ENGINE__HOLD_SUBMISSIONS", "true");
    let _running = Running::start(restored, "easel is serving");
    let path = |task: &Value| format!("/tasks/{}", task["id"].as_str().unwrap());
    let known = task(&site.gateway, &path(&before)).await;
    assert_eq!(
        (&known["status"], &known["images"][0]["sha256"]),
        (&before["status"], &before["images"][0]["sha256"])
    );
    assert_eq!(
        get(&site.gateway, &path(&after), KEY).await.0,
        StatusCode::NOT_FOUND,
        "it is as of its moment"
    );
    let (status, _) = get(&site.gateway, &format!("{}/images/0", path(&before)), KEY).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(site.bought(), 2);
}

/// The program, whose second address is bound two seconds late where strace may hold it up: whatever goes on beside has time
/// to. Elsewhere it is as fast as ever.
fn held_up(arguments: &[&str], folder: &Path) -> Output {
    let strace = |inject: &str| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", "trace=bind", "-e", inject]);
        strace
    };
    let tried = strace("inject=bind:delay_enter=1").arg("true").output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        eprintln!("no strace here: a start that fails is not held up");
        return run(arguments, folder);
    }
    let mut late = strace("inject=bind:delay_enter=2000000:when=2+");
    late.arg(env!("CARGO_BIN_EXE_easel")).args(arguments).current_dir(folder).env_clear().output().unwrap()
}

/// A start that fails after all has sent nothing, however often whoever looks after the process tries it again.
#[tokio::test]
async fn a_start_that_fails_buys_nothing() {
    let site = Site::open().await;
    let holding = || site.start(&site.config("[engine]\nhold_submissions = true\n"));
    let running = holding();
    let accepted = site.order("a cat").send().await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let queued: Value = accepted.json().await.unwrap();
    running.kill();

    let taken = listen().await;
    let config = site.config(&format!("[metrics]\nlisten = \"{}\"\n", taken.local_addr().unwrap()));
    for _ in 0..2 {
        refuses(&held_up(&["serve", "--config", &config], site.at()), "cannot listen on");
    }
    assert_eq!(site.bought(), 0);
    let _running = holding();
    let path = format!("/tasks/{}", queued["id"].as_str().unwrap());
    assert_eq!(task(&site.gateway, &path).await["status"], "queued");
    assert_eq!(task(&site.gateway, &format!("{path}/attempts")).await["data"], serde_json::json!([]));
}

#[tokio::test]
async fn a_backup_of_postgres_names_the_command_to_use() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        configuration("postgres://somebody:secret@127.0.0.1:1/easel", "http://127.0.0.1:9", &folder, "");
    let config = write(&folder, &text);
    let output = run(&["backup", "--config", &config, "copy.db"], folder.path());
    refuses(&output, "pg_dump");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"));
}

#[tokio::test]
async fn figures_are_shown_at_their_own_address_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, figures) = (free_port().await, free_port().await);
    let store = format!("sqlite://{}/easel.db", folder.path().display());
    let more = format!("[log]\nlevel = \"easel=info\"\n[metrics]\nlisten = \"{figures}\"\n");
    let text = configuration(&store, "http://127.0.0.1:9", &folder, &more);
    let config = write(&folder, &format!("[server]\nlisten = \"{gateway}\"\n{text}"));
    let _running = Running::start(easel(&["serve", "--config", &config], folder.path()), "easel is serving");
    assert_eq!(get(&gateway, "/metrics", KEY).await.0, StatusCode::NOT_FOUND);
    let (status, text) = get(&figures, "/metrics", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("easel_store_up 1") && text.contains("easel_lane_state{"), "{text}");
    assert!(!text.contains(KEY) && !text.contains("upstream-key"), "no secret is a figure");
    assert_eq!(get(&figures, "/tasks", KEY).await.0, StatusCode::NOT_FOUND);
}

/// What is shipped to deploy the gateway is well-formed, and its configuration is one.
#[test]
fn what_is_shipped_can_be_read() {
    let docker = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker");
    let read =
        |name: &str| std::fs::read_to_string(docker.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let yaml = |name: &str| -> Value {
        let text = read(name);
        serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    for name in ["compose.yaml", "compose.demo.yaml", "compose.replicas.yaml"] {
        let compose = yaml(name);
        let services = compose["services"].as_object().unwrap();
        for (service, it) in services {
            let built = it["build"]["dockerfile"] == "docker/Dockerfile";
            assert!(
                built || it["image"].as_str().is_some_and(|image| image.contains(':')),
                "{name}: {service}"
            );
            for variable in it["environment"].as_object().into_iter().flat_map(|all| all.keys()) {
                let Some(key) = variable.strip_prefix("EASEL__") else { continue };
                let (section, key) = key.split_once("__").unwrap();
                let known = easel::config::DEFAULTS.contains(&format!("[{}]", section.to_lowercase()));
                assert!(known && !key.is_empty(), "{name}: {service}: {variable}");
            }
        }
        let gateway = compose["configs"]["gateway"]["content"].as_str().unwrap();
        accepted(name, gateway);
    }
    let compose = yaml("compose.replicas.yaml");
    assert!(compose["services"]["easel-1"].is_object() && compose["services"]["easel-2"].is_object());
    let chart = yaml("helm/easel/Chart.yaml");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let values = yaml("helm/easel/values.yaml");
    accepted("values.yaml", values["config"].as_str().unwrap());
    for (name, kind) in [
        ("config.yaml", "ConfigMap"),
        ("service.yaml", "Service"),
        ("monitor.yaml", "ServiceMonitor"),
        ("workload.yaml", "x"),
    ] {
        let text = read(&format!("helm/easel/templates/{name}"));
        for value in text.split(".Values.").skip(1) {
            let path = value.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next().unwrap();
            let found = path.split('.').try_fold(&values, |value, key| value.get(key));
            assert!(found.is_some(), "{name}: values.yaml has no {path}");
        }
        let rendered: Value =
            serde_yaml_ng::from_str(&rendered(&text)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(rendered["kind"], kind, "{name}");
        assert!(rendered["metadata"]["name"].is_string(), "{name}");
    }
    let dockerfile = read("Dockerfile");
    for line in ["USER easel", "HEALTHCHECK", "ENTRYPOINT [\"easel\"]", "STOPSIGNAL SIGTERM"] {
        assert!(dockerfile.contains(line), "{line}");
    }
}

/// A template without its logic: lines of it alone go, values become `x`.
fn rendered(template: &str) -> String {
    let mut lines = Vec::new();
    for line in template.lines().filter(|line| !line.trim_start().starts_with("{{")) {
        let mut plain = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let (_, after) = after.split_once("}}").unwrap();
            // `kind: {{ if … }}A{{ else }}B{{ end }}` is one value.
            if !plain.ends_with('x') {
                plain.push_str(before);
                plain.push('x');
            }
            rest = after;
        }
        plain.push_str(rest);
        lines.push(plain);
    }
    lines.join("\n")
}

/// A configuration that would start.
fn accepted(name: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("easel.toml");
    std::fs::write(&file, text).unwrap();
    let environment = [("PIAPI_API_KEY", "provider-key-0123"), ("EASEL_CI_KEY", "caller-key-0123456789")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    if let Err(problems) = Config::load(Some(&file), &environment) {
        panic!("{name}: {problems}");
    }
}
