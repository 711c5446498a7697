//! A task's events as a stream: from the first moment to the last, again after a break, and by every replica.

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, KEY, OTHER_KEY, PATIENCE, client};

const BODY: &str = r#"{"prompt":"a little cat","model":"flux-schnell","size":"64x64"}"#;

/// One event, or what a stream holds beside events.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Event { id: i64, name: String, data: Value },
    Comment,
    Retry(u64),
}

/// A stream being followed, read piece by piece.
struct Stream {
    response: reqwest::Response,
    buffer: String,
}

impl Stream {
    async fn open(url: &str, task: &str, last: Option<i64>) -> Self {
        let mut request = client().get(format!("{url}/tasks/{task}/events")).bearer_auth(KEY);
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        Self::of(request.send().await.unwrap())
    }

    fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, buffer: String::new() }
    }

    /// The next block; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let heard = read(block);
                self.buffer = rest.to_owned();
                return Some(heard);
            }
            let piece = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let Some(piece) = piece.expect("something is said").unwrap() else {
                assert_eq!(self.buffer, "");
                return None;
            };
            self.buffer.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// All that is still to come.
    async fn rest(mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        while let Some(heard) = self.next().await {
            all.push(heard);
        }
        all
    }
}

fn read(block: &str) -> Heard {
    if block.starts_with(':') {
        return Heard::Comment;
    }
    if let Some(retry) = block.strip_prefix("retry: ") {
        return Heard::Retry(retry.parse().unwrap());
    }
    let lines: Vec<_> = block.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let [("id", id), ("event", name), ("data", data)] = lines[..] else { panic!("{block}") };
    Heard::Event { id: id.parse().unwrap(), name: name.into(), data: serde_json::from_str(data).unwrap() }
}

fn names(heard: &[Heard]) -> Vec<&str> {
    heard
        .iter()
        .filter_map(|one| if let Heard::Event { name, .. } = one { Some(name.as_str()) } else { None })
        .collect()
}

fn ids(heard: &[Heard]) -> Vec<i64> {
    heard.iter().filter_map(|one| if let Heard::Event { id, .. } = one { Some(*id) } else { None }).collect()
}

#[rstest]
#[tokio::test]
async fn a_request_can_be_followed_to_its_picture(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::live(db).await;
    let request = client().post(format!("{}/generate", gateway.url)).bearer_auth(KEY);
    let request = request.header("content-type", "application/json").header("accept", "text/event-stream");
    let response = request.body(BODY).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let heard = Stream::of(response).rest().await;
    let told = names(&heard);
    assert_eq!((told[0], *told.last().unwrap()), ("task.queued", "task.succeeded"), "{told:?}");
    assert!(told.contains(&"task.attempt") && told.contains(&"task.saving"), "{told:?}");
    assert_eq!(ids(&heard), (1..=i64::try_from(told.len()).unwrap()).collect::<Vec<_>>());
    let Some(Heard::Event { data: task, .. }) = heard.last() else { panic!("{heard:?}") };
    let mut read = gateway.get(&location).await.json();
    let mut seen = task.clone();
    for task in [&mut seen, &mut read] {
        task["images"][0]["url"].take();
        task["images"][0]["url_expires_at"].take();
    }
    assert_eq!(seen, read, "the last word carries the whole task");
    let Heard::Event { data: queued, .. } = &heard[0] else { panic!("{heard:?}") };
    assert_eq!((&queued["id"], queued["urls"]["self"].clone()), (&read["id"], read["urls"]["self"].clone()));
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn what_was_missed_is_replayed(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.run(BODY).await;
    let id = task["id"].as_str().unwrap();
    let all = Stream::open(&gateway.url, id, None).await.rest().await;
    let count = i64::try_from(all.len()).unwrap();
    assert!(count >= 4 && names(&all)[0] == "task.queued", "{all:?}");
    let sorts = |heard: &[Heard]| {
        heard.iter().map(|one| names(std::slice::from_ref(one)).concat()).collect::<Vec<_>>()
    };
    for seen in 0..count {
        let rest = Stream::open(&gateway.url, id, Some(seen)).await.rest().await;
        assert_eq!(ids(&rest), (seen + 1..=count).collect::<Vec<_>>());
        assert_eq!(sorts(&rest), sorts(&all)[usize::try_from(seen).unwrap()..]);
    }
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        gateway.send(Method::GET, path, headers, None).await.status.as_u16()
    };
    let path = format!("/tasks/{id}/events");
    assert_eq!(ask(&path, &[("last-event-id", &count.to_string())]).await, 204);
    assert_eq!(ask(&path, &[("last-event-id", "x")]).await, 400);
    assert_eq!(ask(&path, &[("last-event-id", "-1")]).await, 400);
    assert_eq!(ask(&path, &[("last-event-id", "99999999999999999999999")]).await, 400);
    assert_eq!(ask(&path, &[("x-api-key", OTHER_KEY)]).await, 404);
    assert_eq!(ask("/tasks/task_0123/events", &[]).await, 404);
    gateway.stop().await;
}

/// What is called off ends its streams; followers that come at different times hear the same.
#[rstest]
#[tokio::test]
async fn many_follow_one_task(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.generate(BODY).await;
    let id = task["id"].as_str().unwrap();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = Stream::open(&gateway.url, id, None).await;
        assert!(matches!(stream.next().await, Some(Heard::Event { id: 1, .. })));
        streams.push(stream);
    }
    let late = Stream::open(&gateway.url, id, Some(1)).await;
    assert_eq!(gateway.post(&format!("/tasks/{id}/cancel"), "").await.status, StatusCode::OK);
    streams.push(late);
    for heard in join_all(streams.into_iter().map(Stream::rest)).await {
        assert_eq!((names(&heard), ids(&heard)), (vec!["task.canceled"], vec![2]));
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn silence_is_broken_by_comments(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, "[server]\nheartbeat_s = 1\n").await;
    let task = gateway.generate(BODY).await;
    let mut stream = Stream::open(&gateway.url, task["id"].as_str().unwrap(), None).await;
    assert_eq!(names(&[stream.next().await.unwrap()]), ["task.queued"]);
    assert_eq!(stream.next().await, Some(Heard::Comment));
    assert_eq!(stream.next().await, Some(Heard::Comment));
    drop(stream);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_tenant_follows_as_many_as_it_may(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, "[server]\nstreams_per_tenant = 2\n").await;
    let task = gateway.generate(BODY).await;
    let id = task["id"].as_str().unwrap();
    let path = format!("/tasks/{id}/events");
    let (one, _two) =
        (Stream::open(&gateway.url, id, None).await, Stream::open(&gateway.url, id, None).await);
    let third = gateway.get(&path).await;
    assert_eq!((third.status.as_u16(), third.json()["code"].as_str()), (429, Some("rate_limited")));
    assert!(third.header("retry-after").is_some());
    // Whoever leaves makes room, as soon as it is noticed; the end of the task is noticed at once.
    gateway.post(&format!("/tasks/{id}/cancel"), "").await;
    assert_eq!(*names(&one.rest().await).last().unwrap(), "task.canceled");
    gateway.stop().await;
}

/// A restart tells everybody to come back, and nobody misses or hears twice.
#[rstest]
#[tokio::test]
async fn a_restart_loses_no_event(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let mut tasks = Vec::new();
    for n in 0..20 {
        let body = json!({"prompt": format!("cat {n}"), "model": "flux-schnell", "size": "64x64"});
        tasks.push(gateway.generate(&body.to_string()).await["id"].as_str().unwrap().to_owned());
    }
    let mut streams = join_all(tasks.iter().map(|id| Stream::open(&gateway.url, id, None))).await;
    for stream in &mut streams {
        assert_eq!(names(&[stream.next().await.unwrap()]), ["task.queued"]);
    }
    gateway.app.engine.run_until_idle().await.unwrap();
    let (gateway, broken) = tokio::join!(gateway.restart(), join_all(streams.into_iter().map(Stream::rest)));
    assert!(broken.iter().all(|heard| heard.last() == Some(&Heard::Retry(1_000))), "{broken:?}");
    let seen: Vec<i64> = broken.iter().map(|heard| ids(heard).last().copied().unwrap_or(1)).collect();
    let again = tasks.iter().zip(&seen).map(|(id, seen)| Stream::open(&gateway.url, id, Some(*seen)));
    let again = join_all(again).await;
    for id in &tasks {
        gateway.settle(id).await;
    }
    for (before, after) in broken.iter().zip(join_all(again.into_iter().map(Stream::rest)).await) {
        let whole: Vec<i64> = [1].into_iter().chain(ids(before)).chain(ids(&after)).collect();
        assert_eq!(
            whole,
            (1..=i64::try_from(whole.len()).unwrap()).collect::<Vec<_>>(),
            "each once, in order"
        );
        assert_eq!(*names(&after).last().unwrap(), "task.succeeded");
    }
    gateway.stop().await;
}

/// On Postgres a replica tells of what another one does, to streams and to those who wait; on SQLite there is one process.
#[tokio::test]
async fn a_replica_tells_of_what_another_does() {
    let gateway = Gateway::start(Db::Postgres).await;
    let replica = gateway.replica().await;
    let task = gateway.generate(BODY).await;
    let id = task["id"].as_str().unwrap();
    let mut stream = Stream::open(&replica.url, id, None).await;
    assert_eq!(names(&[stream.next().await.unwrap()]), ["task.queued"]);
    let waiting = client().get(format!("{}/tasks/{id}?wait=60", replica.url)).bearer_auth(KEY).send();
    let (waited, settled) = tokio::join!(waiting, gateway.settle(id));
    assert_eq!(settled["status"], "succeeded");
    let waited: Value = waited.unwrap().json().await.unwrap();
    assert_eq!(waited["status"], "succeeded");
    assert_eq!(*names(&stream.rest().await).last().unwrap(), "task.succeeded");
    // An endpoint registered there is heard of here.
    let sink = crate::sink::Sink::saying(crate::sink::Act::Status(200)).await;
    let register = client().post(format!("{}/webhooks", replica.url)).bearer_auth(KEY);
    let register =
        register.header("content-type", "application/json").body(json!({"url": sink.url}).to_string());
    assert_eq!(register.send().await.unwrap().status(), StatusCode::CREATED);
    // The news takes a moment: of tasks that end after it has come, each is told.
    let told = async {
        while sink.letters().is_empty() {
            gateway.run(BODY).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the endpoint is heard of");
    assert_eq!(sink.wait_for(1).await[0].event(), "task.succeeded");
    replica.stop().await;
    gateway.stop().await;
}
