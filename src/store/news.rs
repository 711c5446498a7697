//! What replicas on one Postgres tell each other: which tasks changed, that there is work, and whose endpoints changed. Told
//! after the commit and in batches, because a NOTIFY inside a transaction would make all commits stand in one line. What
//! gets lost that way (a process that dies between the two) is found by one look at all watched tasks every few seconds.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Store, StoreError, time};
use crate::domain::id::TaskId;
use crate::domain::secret::token;

const CHANNEL: &str = "easel";
/// What may wait to be told; beyond that the next look finds it.
const WAITING: usize = 10_000;
/// Postgres takes 8,000 bytes at a time.
const BATCH: usize = 200;
/// How often all watched tasks are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a connection that broke may take to be noticed and made anew between two looks.
const LOOK_BACK: Duration = Duration::from_mins(1);

enum Item {
    Task(TaskId),
    Work,
    Endpoints(String),
}

/// Tells the other replicas; on SQLite there are none.
#[derive(Default)]
pub(super) struct News {
    told: Option<mpsc::Sender<Item>>,
    stop: CancellationToken,
    running: TaskTracker,
}

impl News {
    /// A task's waiters elsewhere should look.
    pub fn task_changed(&self, task: TaskId) {
        self.tell(Item::Task(task));
    }

    /// There is a new task: a replica with room may be quicker than the one that took it in.
    pub fn work_due(&self) {
        self.tell(Item::Work);
    }

    /// A tenant's endpoints are not what they were.
    pub fn endpoints_changed(&self, tenant: &str) {
        self.tell(Item::Endpoints(tenant.to_owned()));
    }

    fn tell(&self, item: Item) {
        if let Some(told) = &self.told {
            // Full: the other replicas' next look finds it.
            let _ = told.try_send(item);
        }
    }

    pub async fn close(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

impl Store {
    /// Begins to hear and tell of changes, on a database with other replicas, and to go by that database's clock.
    pub(super) fn with_news(mut self, pool: PgPool) -> Self {
        let (told, waiting) = mpsc::channel(WAITING);
        let news = News { told: Some(told), ..News::default() };
        let (stop, running, me) = (news.stop.clone(), news.running.clone(), token());
        running.spawn(time::keep(pool.clone(), Arc::clone(&self.clock), stop.clone()));
        self.news = Arc::new(news);
        running.spawn(tell(pool.clone(), waiting, me.clone(), stop.clone()));
        running.spawn(hear(self.clone(), pool, me, stop));
        self
    }

    /// Wakes the watchers of tasks that something happened to lately.
    async fn look_around(&self, pool: &PgPool) -> Result<(), StoreError> {
        const SQL: &str = "SELECT DISTINCT task_id FROM events WHERE task_id = ANY($1) AND created_at >= $2";
        let since = self.clock.now() - LOOK_BACK;
        let watched: Vec<String> = self.changes.watched().iter().map(ToString::to_string).collect();
        for some in watched.chunks(1_000) {
            let changed: Vec<String> =
                sqlx::query_scalar(SQL).bind(some).bind(since.0).fetch_all(pool).await?;
            for id in changed.iter().filter_map(|id| id.parse().ok()) {
                self.changes.task_changed(id);
            }
        }
        self.load_endpoints().await
    }

    async fn heard(&self, payload: &str, me: &str) {
        let Some((from, said)) = payload.split_once(' ') else { return };
        match from.split_at_checked(1) {
            Some(("t", origin)) if origin != me => {
                for id in said.split(' ').filter_map(|id| id.parse().ok()) {
                    self.changes.task_changed(id);
                }
            }
            Some(("k", origin)) if origin != me => self.changes.work_due(),
            Some(("w", origin)) if origin != me => {
                if let Err(error) = self.reload_endpoints(said).await {
                    tracing::warn!(%error, "cannot read the webhook endpoints; trying again at the next look");
                }
            }
            _ => {}
        }
    }
}

async fn tell(pool: PgPool, mut waiting: mpsc::Receiver<Item>, me: String, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            count = waiting.recv_many(&mut batch, BATCH) => if count == 0 { return },
            () = stop.cancelled() => return,
        }
        let mut payloads = Vec::new();
        let (mut tasks, mut work) = (String::new(), false);
        for item in batch.drain(..) {
            match item {
                Item::Work => work = true,
                Item::Task(id) => _ = write!(tasks, " {id}"),
                Item::Endpoints(tenant) => payloads.push(format!("w{me} {tenant}")),
            }
        }
        if !tasks.is_empty() {
            payloads.push(format!("t{me}{tasks}"));
        }
        if work {
            payloads.push(format!("k{me} "));
        }
        for payload in payloads.into_iter().filter(|payload| payload.len() < 8_000) {
            let told =
                sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(&pool).await;
            if let Err(error) = told {
                tracing::warn!(%error, "cannot tell the other replicas; their next look finds it");
            }
        }
    }
}

async fn hear(store: Store, pool: PgPool, me: String, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = listen(&store, &pool, &me, &stop).await {
            tracing::warn!(%error, "cannot hear of other replicas' changes; connecting anew");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

async fn listen(store: &Store, pool: &PgPool, me: &str, stop: &CancellationToken) -> Result<(), StoreError> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    // What was told before anybody listened, or while the last connection was broken.
    store.look_around(pool).await?;
    loop {
        tokio::select! {
            heard = listener.try_recv() => match heard? {
                Some(heard) => store.heard(heard.payload(), me).await,
                // The connection broke and came back: what was told meanwhile is found by looking.
                None => store.look_around(pool).await?,
            },
            () = tokio::time::sleep(LOOK_EVERY) => store.look_around(pool).await?,
            () = stop.cancelled() => return Ok(()),
        }
    }
}
