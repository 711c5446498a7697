//! The proof of the books: many tasks with every fault of the retry table, in random order; afterwards the ledger says what
//! the upstreams' own ledger says, to the nano-dollar, and what it calls unknown is all that differs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, ITSELF};
use crate::ledger::{Line, lines, sum};
use crate::retries::{ACCEPTED, REFUSED, UNKNOWN};
use crate::rows::rows;

const RICH: &str = "easel_rich_0123456789abcdef";
/// Tasks that are open at once.
const BATCH: usize = 400;

/// Servers paid by the hour have no price of their own; under a budget they need one.
const PRICE: &str = "[providers.hours]\nkind = \"imagepipeline\"\nbase_url = \"{upstream}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\n\
    poll_after_s = 0.05\nprices = { \"flux-schnell\" = \"0.001\" }\n";

/// What the run came to.
#[derive(Debug, Default)]
struct Tally {
    tasks: usize,
    receptions: usize,
    billed: i64,
    settled: i64,
    unresolved: i64,
    unknown: usize,
    ends: BTreeMap<String, usize>,
}

/// Small tasks without a care, faults of every row, parts, and callers who want unknown outcomes sent again.
fn task(random: &mut fastrand::Rng, token: &str) -> Value {
    let all: Vec<_> = REFUSED.iter().chain(UNKNOWN).chain(ACCEPTED).collect();
    let (_, model, fault, ..) = all[random.usize(..all.len())];
    // Bodies of megabytes are looked at elsewhere; the same id for several tasks is an error of its own.
    let tame = !["huge", "head_bytes", "task_id=\""].iter().any(|word| fault.contains(word));
    let fault = if tame && random.f32() < 0.6 { format!(" [[sim: {fault}]]") } else { String::new() };
    let parts = random.f32() < 0.1;
    let model = if parts { "piapi_flux/Qubico/flux1-dev" } else { model };
    let model = model.replace("imagepipeline/", "hours/");
    let mut body =
        json!({"prompt": format!("{token}{fault}"), "model": model, "size": "64x64", "deadline_s": 86_400});
    if parts {
        body["n"] = json!(random.u32(2..=3));
    }
    if random.f32() < 0.2 {
        body["routing"] = json!({"on_unknown": "resubmit", "max_cost_usd": "0.1"});
    }
    body
}

/// Lets everything come to its end.
pub async fn settle(gateway: &Gateway) {
    loop {
        gateway.app.engine.run_until_idle().await.unwrap();
        gateway.simulator.ring().await;
        if gateway.app.store.open_tasks().await.unwrap().is_empty() {
            return;
        }
        gateway.advance_to_next().await;
        // Nothing hangs on looking at the very moment.
        gateway.clock.advance(Duration::from_secs(30));
    }
}

/// Sends so many tasks through a gateway and lets all of them end.
async fn play(gateway: &Gateway, tasks: usize, seed: u64) -> (BTreeMap<String, String>, Tally) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut tokens, mut tally) = (BTreeMap::new(), Tally::default());
    let bearer = [("x-api-key", RICH)];
    while tokens.len() < tasks {
        let token = format!("t{:06}", tokens.len());
        let body = task(&mut random, &token).to_string();
        let answer = gateway.send(reqwest::Method::POST, "/generate", &bearer, Some(&body)).await;
        match answer.status.as_u16() {
            202 => {
                tokens.insert(answer.json()["id"].as_str().unwrap().to_owned(), token);
            }
            // Every route rests for a while: nothing was taken in.
            503 => {
                gateway.clock.advance(Duration::from_secs(30));
                settle(gateway).await;
            }
            _ => panic!("{body}: {}", answer.json()),
        }
        if tokens.len() % BATCH == 0 {
            settle(gateway).await;
        }
    }
    settle(gateway).await;
    tally.tasks = tokens.len();
    (tokens, tally)
}

/// What the upstreams billed, by the token in the prompt.
fn billed(gateway: &Gateway) -> BTreeMap<String, i64> {
    let mut billed = BTreeMap::new();
    for reception in gateway.simulator.ledger() {
        let head = &reception.prompt_head;
        let at = head.find("t0").unwrap_or_else(|| panic!("no token in {head:?}"));
        *billed.entry(head[at..at + 7].to_owned()).or_default() += reception.billed_nanos.unwrap_or(0);
    }
    billed
}

/// The ledger by the token of the task that its caller knows.
async fn booked(gateway: &Gateway, tokens: &BTreeMap<String, String>) -> BTreeMap<String, Vec<Line>> {
    let whole: Vec<(String, String)> = rows(gateway, "SELECT id, COALESCE(parent_id, id) FROM tasks").await;
    let whole: BTreeMap<String, String> = whole.into_iter().collect();
    let mut booked: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for line in lines(gateway).await {
        booked.entry(tokens[&whole[&line.task_id]].clone()).or_default().push(line);
    }
    booked
}

/// The attempts of which the ledger cannot say whether they were charged.
fn unknown(lines: &[Line]) -> BTreeSet<&str> {
    let about = |unknown: bool| {
        let lines = lines.iter().filter(move |line| (line.billed.as_deref() == Some("unknown")) == unknown);
        lines.filter_map(|line| line.attempt_id.as_deref()).collect::<BTreeSet<_>>()
    };
    about(true).difference(&about(false)).copied().collect()
}

async fn prove(db: Db, tasks: usize, seed: u64) -> Tally {
    // A budget that is never used up: its balances are kept all the same.
    let more = format!(
        "[server]\npublic_url = \"{ITSELF}\"\n[[auth.keys]]\nname = \"rich\"\nkey = \"{RICH}\"\ndaily_budget_usd = \"100000\"\n"
    );
    let gateway = Gateway::configured(db, &(more + PRICE)).await;
    let (tokens, mut tally) = play(&gateway, tasks, seed).await;
    let (billed, booked) = (billed(&gateway), booked(&gateway, &tokens).await);
    let mut listed = BTreeSet::new();
    for (token, lines) in &booked {
        let [reserved, unresolved, settled] = sum(lines);
        let billed = billed.get(token).copied().unwrap_or(0);
        let unknown = unknown(lines);
        assert_eq!(reserved, 0, "{token}: set aside for a task that has ended: {lines:?}");
        let agree = if unknown.is_empty() {
            settled == billed && unresolved == 0
        } else {
            (settled..=settled + unresolved).contains(&billed)
        };
        assert!(agree, "{token}: settled {settled}, unresolved {unresolved}, billed {billed}: {lines:?}");
        listed.extend(unknown.into_iter().map(str::to_owned));
    }
    let all = lines(&gateway).await;
    let [_, unresolved, settled] = sum(&all);
    check_views(&gateway, &tokens, &booked).await;
    check_balances(&gateway, &all).await;
    let unknowns = list(&gateway).await;
    assert_eq!(
        unknowns.keys().cloned().collect::<BTreeSet<_>>(),
        listed,
        "what is unknown is listed, and nothing else"
    );
    tally.receptions = gateway.receptions();
    tally.billed = gateway.simulator.billed().total_nanos;
    (tally.settled, tally.unresolved, tally.unknown) = (settled, unresolved, listed.len());
    resolve(&gateway, &unknowns, &tokens, &billed, &booked).await;
    let ends: Vec<(String, i64)> =
        rows(&gateway, "SELECT phase, COUNT(*) FROM tasks WHERE parent_id IS NULL GROUP BY phase").await;
    tally.ends = ends.into_iter().map(|(phase, count)| (phase, usize::try_from(count).unwrap())).collect();
    gateway.stop().await;
    tally
}

/// Every task says what the ledger says.
async fn check_views(
    gateway: &Gateway,
    tokens: &BTreeMap<String, String>,
    booked: &BTreeMap<String, Vec<Line>>,
) {
    let ids: Vec<_> = tokens.iter().collect();
    for (id, token) in ids.iter().step_by(ids.len().div_ceil(200)) {
        let cost = gateway.task(id).await["cost"].clone();
        let [_, _, settled] = sum(&booked[*token]);
        assert_eq!(cost["reserved_usd"], "0", "{id}: {cost}");
        if let Some(actual) = cost["actual_usd"].as_str() {
            let actual: easel::domain::money::Usd = actual.parse().unwrap();
            assert_eq!(actual.nanos(), settled, "{id}: {cost}");
        } else {
            assert!(!unknown(&booked[*token]).is_empty(), "{id}: {cost}");
        }
    }
}

/// A key's balances are the sums of its lines, in all and day by day.
async fn check_balances(gateway: &Gateway, lines: &[Line]) {
    let balances: Vec<(String, i64, i64, i64, i64)> =
        rows(gateway, "SELECT key_name, day, reserved, unresolved, settled FROM balances").await;
    assert!(balances.len() >= 2);
    for (key, day, reserved, unresolved, settled) in balances {
        let own = lines.iter().filter(|line| line.key_name == key);
        let own = own.filter(|line| day == -1 || line.task_at.div_euclid(86_400_000) == day);
        assert_eq!([reserved, unresolved, settled], sum(own), "{key}, day {day}");
    }
}

/// Attempts of unknown billing as the gateway lists them, with their task.
async fn list(gateway: &Gateway) -> BTreeMap<String, Value> {
    let (mut all, mut path) = (BTreeMap::new(), "/admin/attempts?billing=unknown&limit=200".to_owned());
    loop {
        let page = gateway.get(&path).await.json();
        for attempt in page["data"].as_array().unwrap() {
            all.insert(attempt["id"].as_str().unwrap().to_owned(), attempt.clone());
        }
        let Some(next) = page["next_cursor"].as_str() else { return all };
        path = format!("/admin/attempts?billing=unknown&limit=200&cursor={next}");
    }
}

/// An operator who reads the upstreams' invoice resolves what is unknown: then nothing differs any more.
async fn resolve(
    gateway: &Gateway,
    unknowns: &BTreeMap<String, Value>,
    tokens: &BTreeMap<String, String>,
    billed: &BTreeMap<String, i64>,
    booked: &BTreeMap<String, Vec<Line>>,
) {
    let mut owed: BTreeMap<&String, i64> = BTreeMap::new();
    for (token, lines) in booked {
        let [_, _, settled] = sum(lines);
        owed.insert(token, billed.get(token).copied().unwrap_or(0) - settled);
    }
    for (id, attempt) in unknowns {
        let token = &tokens[attempt["task_id"].as_str().unwrap()];
        let owed = owed.get_mut(token).unwrap();
        let charged = easel::domain::money::Usd::from_nanos(std::mem::take(owed));
        let finding = if charged.nanos() > 0 {
            json!({"billed": "yes", "charged_usd": charged.to_string()})
        } else {
            json!({"billed": "no"})
        };
        let answer = gateway.post(&format!("/admin/attempts/{id}/billing"), &finding.to_string()).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.json());
    }
    let all = lines(gateway).await;
    assert_eq!(sum(&all), [0, 0, gateway.simulator.billed().total_nanos]);
    check_balances(gateway, &all).await;
    assert!(list(gateway).await.is_empty());
}

fn report(tally: &Tally, db: Db, seed: u64, took: Duration) {
    let usd = |nanos| easel::domain::money::Usd::from_nanos(nanos);
    println!(
        "{db:?}, seed {seed}: {} tasks {:?}, {} paid requests received; billed ${}, settled ${}, unresolved at most ${} over {} attempts; {:.0} s",
        tally.tasks,
        tally.ends,
        tally.receptions,
        usd(tally.billed),
        usd(tally.settled),
        usd(tally.unresolved),
        tally.unknown,
        took.as_secs_f64()
    );
}

#[rstest]
#[tokio::test]
async fn the_ledger_is_what_the_upstreams_billed(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let began = Instant::now();
    let tally = prove(db, 200, 1).await;
    assert!(tally.unknown > 0 && tally.settled > 0 && tally.ends.len() > 1, "{tally:?}");
    report(&tally, db, 1, began.elapsed());
}

/// The long form: `script/chaos ledger [TASKS]`.
#[rstest]
#[tokio::test]
#[ignore = "ten thousand tasks: script/chaos ledger"]
async fn the_ledger_is_what_the_upstreams_billed_many_times(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let began = Instant::now();
    let tally = prove(db, asked_for().unwrap_or(10_000), 2).await;
    report(&tally, db, 2, began.elapsed());
}

#[expect(clippy::disallowed_methods, reason = "whoever starts the long form says how long it is to be")]
fn asked_for() -> Option<usize> {
    std::env::var("EASEL_PROOF_TASKS").ok()?.parse().ok()
}
