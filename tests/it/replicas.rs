//! Three gateways on one Postgres: what one takes in another works on and a third tells of, caps and circuits hold over all
//! of them, and a callback may come to any. On SQLite there is one process, so nothing here runs there.

use std::time::Duration;

use easel::engine::Engine;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, stream};
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, KEY, PATIENCE, Served, client};
use crate::sink::{Act, Sink};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";

/// Three gateways; the first has the simulator and the clock.
struct Three {
    first: Gateway,
    others: [Served; 2],
}

impl Three {
    async fn start(more: &str) -> Self {
        let first = Gateway::configured(Db::Postgres, more).await;
        let others = [first.replica().await, first.replica().await];
        Self { first, others }
    }

    fn urls(&self) -> [&str; 3] {
        [&self.first.url, &self.others[0].url, &self.others[1].url]
    }

    /// Lets all of them work at the same time until nothing is due.
    async fn work(&self) {
        let engines = [&self.first.app.engine, &self.others[0].app.engine, &self.others[1].app.engine];
        try_join_all(engines.map(Engine::run_until_idle)).await.unwrap();
    }

    /// Works, and moves the clock, until every task has ended; `look` sees each moment.
    async fn settle(&self, ids: &[String], mut look: impl AsyncFnMut(&Self)) {
        for _ in 0..2_000 {
            self.work().await;
            look(self).await;
            let mut open = ids.iter();
            let ended = async |id: &String| !self.first.task(id).await["finished_at"].is_null();
            while let Some(id) = open.as_slice().first()
                && ended(id).await
            {
                open.next();
            }
            if open.len() == 0 {
                return;
            }
            self.first.advance_to_next().await;
        }
        panic!("the tasks never end");
    }

    async fn stop(self) {
        for other in self.others {
            other.stop().await;
        }
        self.first.stop().await;
    }
}

fn body(prompt: &str, model: &str) -> String {
    json!({"prompt": prompt, "model": model, "size": "64x64"}).to_string()
}

async fn post(url: &str, body: String) -> reqwest::Response {
    let request = client().post(format!("{url}/generate")).bearer_auth(KEY);
    request.header("content-type", "application/json").body(body).send().await.unwrap()
}

async fn get(url: &str, path: &str) -> Value {
    let answer = client().get(format!("{url}{path}")).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

async fn lane(url: &str, id: &str) -> Value {
    let lanes = get(url, "/providers").await;
    lanes["data"].as_array().unwrap().iter().find(|lane| lane["id"] == id).unwrap().clone()
}

/// The names of a task's events, as one of the gateways tells them from its first to its last.
async fn told(url: &str, id: &str) -> Vec<String> {
    let stream = client().get(format!("{url}/tasks/{id}/events")).bearer_auth(KEY).send().await.unwrap();
    let text = stream.text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn one_takes_it_in_another_works_on_it_and_a_third_tells_of_it() {
    let three = Three::start("").await;
    let [a, _, c] = three.urls();
    let task: Value = post(a, body("a cat [[sim: time=5]]", FLUX)).await.json().await.unwrap();
    let id = task["id"].as_str().unwrap().to_owned();
    let following = told(c, &id);
    let path = format!("/tasks/{id}?wait=60");
    let waiting = get(c, &path);
    let working = async {
        for _ in 0..100 {
            three.others[0].app.engine.run_until_idle().await.unwrap();
            if !three.first.task(&id).await["finished_at"].is_null() {
                return;
            }
            three.first.advance_to_next().await;
        }
        panic!("the task never ends");
    };
    let (told, waited, ()) = tokio::join!(following, waiting, working);
    assert_eq!((told[0].as_str(), told.last().unwrap().as_str()), ("task.queued", "task.succeeded"));
    assert_eq!(waited["status"], "succeeded");
    // The picture is any gateway's to serve.
    let sha256 = waited["images"][0]["sha256"].as_str().unwrap();
    let path = waited["images"][0]["url"].as_str().unwrap().strip_prefix(c).unwrap();
    let picture = client().get(format!("{a}{path}")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(easel::domain::secret::sha256_hex(&picture), sha256);
    assert_eq!(three.first.receptions(), 1);
    three.stop().await;
}

/// A thousand times the same callback, at all gateways at once, while all of them work: one transition.
#[tokio::test]
async fn a_thousand_callbacks_at_three_gateways_are_one_transition() {
    // The address that all of them share: what comes there is caught, to be sent on.
    let balancer = Sink::saying(Act::Status(200)).await;
    let public = format!("[server]\npublic_url = \"http://{}\"\n", balancer.address);
    let three = Three::start(&public).await;
    let task: Value = post(three.urls()[0], body("a cat [[sim: time=30]]", FLUX)).await.json().await.unwrap();
    let id = task["id"].as_str().unwrap().to_owned();
    three.work().await;
    assert_eq!(three.first.task(&id).await["phase"], "generating");
    three.first.clock.advance(Duration::from_secs(31));
    three.first.simulator.ring().await;
    let bell = balancer.wait_for(1).await.remove(0);
    let secret = bell.headers["x-webhook-secret"].clone();
    let http = client();
    let rings = (0..1_000).map(async |n: usize| {
        let request = http.post(format!("{}{}", three.urls()[n % 3], bell.path));
        let request = request.header("x-webhook-secret", secret.clone());
        let request = request.header("content-type", "application/json").body(bell.body.clone());
        request.send().await.unwrap().status()
    });
    let working = async {
        for _ in 0..20 {
            three.work().await;
            tokio::task::yield_now().await;
        }
    };
    let (rung, ()) = tokio::join!(stream::iter(rings).buffer_unordered(30).collect::<Vec<_>>(), working);
    assert!(rung.iter().all(StatusCode::is_success), "{rung:?}");
    three.work().await;
    let told = told(three.urls()[2], &id).await;
    let times = |name: &str| told.iter().filter(|one| *one == name).count();
    let ends = (times("task.saving"), times("task.succeeded"), times("task.late_result"));
    assert_eq!(ends, (1, 1, 0), "{told:?}");
    let task = three.first.task(&id).await;
    assert_eq!((task["images"].as_array().unwrap().len(), three.first.receptions()), (1, 1));
    assert_eq!(task["cost"]["actual_usd"], "0.0015");
    three.stop().await;
}

/// One account with room for so many, alone.
fn narrow(in_flight: u32) -> String {
    format!(
        "# only\n[providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"{{upstream}}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\nin_flight = {in_flight}\npoll_after_s = 2\n"
    )
}

#[tokio::test]
async fn three_gateways_together_keep_to_the_cap_of_one_account() {
    let three = Three::start(&narrow(2)).await;
    let mut ids = Vec::new();
    for number in 0..6 {
        let url = three.urls()[number % 3];
        let task: Value =
            post(url, body(&format!("{number} [[sim: time=2]]"), FLUX)).await.json().await.unwrap();
        ids.push(task["id"].as_str().unwrap().to_owned());
    }
    three.work().await;
    for url in three.urls() {
        let seen = lane(url, "piapi_flux").await;
        assert_eq!((seen["in_flight"].as_i64(), seen["queued"].as_i64()), (Some(2), Some(4)), "{seen}");
    }
    assert_eq!(three.first.receptions(), 2);
    let mut most = 0;
    three
        .settle(&ids, async |three| {
            most = most.max(lane(three.urls()[1], "piapi_flux").await["in_flight"].as_i64().unwrap());
        })
        .await;
    assert_eq!((most, three.first.receptions()), (2, 6));
    for id in &ids {
        assert_eq!(three.first.task(id).await["status"], "succeeded");
    }
    three.stop().await;
}

#[tokio::test]
async fn a_circuit_that_one_gateway_opened_is_open_for_all_and_one_probe_closes_it() {
    let three = Three::start(&narrow(4)).await;
    let [a, b, c] = three.urls();
    three.first.rule(&json!({"on": "flux.submit", "times": 5, "do": {"http": 521}})).await;
    for prompt in ["one", "two"] {
        post(a, body(prompt, FLUX)).await;
    }
    // Only the first works: five failures in a row are its own.
    for _ in 0..20 {
        three.first.app.engine.run_until_idle().await.unwrap();
        if three.first.receptions() == 5 {
            break;
        }
        three.first.advance_to_next().await;
    }
    three.first.app.engine.run_until_idle().await.unwrap();
    assert_eq!(three.first.receptions(), 5);
    for url in [b, c] {
        assert_eq!(lane(url, "piapi_flux").await["health"], "open");
        let refused = post(url, body("three", FLUX)).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key("retry-after"));
    }
    three.work().await;
    assert_eq!(three.first.receptions(), 5, "nobody sends on a circuit that another opened");
    three.first.clock.advance(Duration::from_secs(31));
    // Taken in at all three, worked on by all three at once: one is the probe, then the others go.
    let mut ids = Vec::new();
    for (url, prompt) in [(a, "four"), (b, "five"), (c, "six")] {
        let task: Value = post(url, body(prompt, FLUX)).await.json().await.unwrap();
        ids.push(task["id"].as_str().unwrap_or_else(|| panic!("{task}")).to_owned());
    }
    three.settle(&ids, async |_| {}).await;
    for id in &ids {
        assert_eq!(three.first.task(id).await["status"], "succeeded");
    }
    for url in three.urls() {
        assert_eq!(lane(url, "piapi_flux").await["health"], "healthy");
    }
    three.stop().await;
}

/// A gateway that was frozen while it heard a paid answer finds that another one has given the call up. What it was told is
/// not lost, enters the books once, and buys nothing.
#[rstest]
#[tokio::test]
async fn what_a_frozen_gateway_alone_was_told_is_kept(#[values("gpt-4o-image", "gpt-image-1")] model: &str) {
    let three = Three::start("").await;
    let [a, b, _] = three.urls();
    let mut order = json!({"prompt": "a cat [[sim: delay=15 picture=64x64]]", "model": model});
    if model == "gpt-image-1" {
        order["size"] = json!("1024x1024");
        order["quality"] = json!("low");
    }
    let task: Value = post(a, order.to_string()).await.json().await.unwrap();
    let id = task["id"].as_str().unwrap().to_owned();
    let elsewhere = async {
        let received = async {
            while three.first.receptions() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, received).await.expect("it is sent");
        // Nobody extends the first one's lease, which is what being frozen comes to.
        three.first.clock.advance(Duration::from_secs(61));
        three.others[0].app.engine.run_until_idle().await.unwrap();
        get(b, &format!("/tasks/{id}")).await
    };
    let (worked, given_up) = tokio::join!(three.first.app.engine.run_until_idle(), elsewhere);
    worked.unwrap();
    assert_eq!(given_up["error"]["code"], "outcome_unknown", "{given_up}");
    assert_eq!(
        (given_up["cost"]["billed"].as_str(), given_up["late_result"].is_null()),
        (Some("unknown"), true)
    );
    three.work().await;
    let task = three.first.task(&id).await;
    assert_eq!(task["finished_at"], given_up["finished_at"], "the end stays what it was");
    assert_eq!(task["late_result"]["images"].as_array().map(Vec::len), Some(1), "{task}");
    let possible = &given_up["cost"]["max_possible_usd"];
    assert_eq!(
        (&task["cost"]["billed"], &task["cost"]["actual_usd"], &task["cost"]["max_possible_usd"]),
        (&json!("yes"), possible, possible),
        "{task}"
    );
    assert_eq!(three.first.receptions(), 1);
    three.stop().await;
}

/// A worker that has a task in hand when it ends under another's hand does not make it owe work again.
#[rstest]
#[tokio::test]
async fn the_lease_on_a_task_that_has_ended_is_not_extended(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.generate(&body("a cat", FLUX)).await;
    let id = task["id"].as_str().unwrap();
    let canceled = gateway.post(&format!("/tasks/{id}/cancel"), "").await;
    assert_eq!(canceled.json()["status"], "canceled");
    let store = &gateway.app.store;
    let row = store.task(id.parse().unwrap()).await.unwrap().unwrap();
    let until = easel::domain::clock::Clock::now(&*gateway.clock) + Duration::from_mins(1);
    store.renew(vec![(row.id, row.version)], until).await.unwrap();
    assert_eq!(store.task(row.id).await.unwrap().unwrap().wake_at, None);
    assert_eq!(store.owing().await.unwrap().next(), None, "nothing is due, now or later");
    gateway.stop().await;
}
