//! One feed for all who follow the same task: a change is read and rendered once, whoever asks first, and its bytes are
//! shared. Nobody polls: a feed reads only after a commit has said that there is something new.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use serde_json::json;

use crate::domain::clock::Clock;
use crate::domain::id::TaskId;
use crate::domain::link::Links;
use crate::domain::meter;
use crate::domain::task::Task;
use crate::domain::view::{TaskView, view};
use crate::domain::webhook::EventName;
use crate::store::{EventRow, Store, StoreError, Watch};

/// The feeds that are followed at the moment, and how many follow for each tenant.
#[derive(Clone)]
pub struct Feeds(Arc<Room>);

struct Room {
    store: Store,
    links: Links,
    clock: Arc<dyn Clock>,
    most: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    feeds: HashMap<TaskId, Weak<Feed>>,
    followers: HashMap<String, usize>,
}

/// What happened to one task, rendered.
pub(super) struct Feed {
    task: TaskId,
    watch: Watch,
    room: Arc<Room>,
    lines: tokio::sync::Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    /// Number and bytes, in order.
    rendered: Vec<(i64, Bytes)>,
    /// How often the task had changed when it was last read; `None` before the first time.
    read_at: Option<u64>,
    ended: bool,
}

/// What a follower has not seen yet.
pub(super) struct More {
    pub bytes: Vec<Bytes>,
    pub last: i64,
    pub ended: bool,
}

impl Feeds {
    /// No feed yet; at most `most` followers for each tenant.
    pub fn new(store: Store, links: Links, clock: Arc<dyn Clock>, most: usize) -> Self {
        Self(Arc::new(Room { store, links, clock, most, open: Mutex::default() }))
    }

    /// Follows a task; `None` when its tenant follows as many as it may.
    pub(super) fn follow(&self, task: &Task) -> Option<Follower> {
        let room = &self.0;
        let mut open = room.lock();
        let count = open.followers.entry(task.tenant.clone()).or_default();
        if *count >= room.most {
            return None;
        }
        *count += 1;
        let feed = open.feeds.get(&task.id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let feed = Arc::new(Feed {
                task: task.id,
                watch: room.store.changes().watch(task.id),
                room: Arc::clone(room),
                lines: tokio::sync::Mutex::default(),
            });
            open.feeds.insert(task.id, Arc::downgrade(&feed));
            feed
        });
        drop(open);
        metrics::gauge!(meter::EVENT_STREAMS).increment(1.0);
        Some(Follower { feed, tenant: task.tenant.as_str().into() })
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, task: TaskId, lines: &mut Lines) -> Result<(), StoreError> {
        if lines.rendered.is_empty() {
            // Number 1 is implied by the task's row.
            if let Some(task) = self.store.task(task).await? {
                lines.rendered.push((1, queued(&task, &self.links)));
            }
        }
        let after = lines.rendered.last().map_or(0, |(seq, _)| *seq);
        for row in self.store.events(task, after).await? {
            let last = EventName::parse(&row.name).is_some_and(EventName::terminal);
            let bytes =
                if last { self.whole(task, &row).await? } else { line(row.seq, &row.name, &row.data) };
            lines.rendered.push((row.seq, bytes));
            lines.ended |= last;
        }
        Ok(())
    }

    /// A task's last word carries the whole task.
    async fn whole(&self, task: TaskId, row: &EventRow) -> Result<Bytes, StoreError> {
        let Some(task) = self.store.task(task).await? else { return Ok(line(row.seq, &row.name, &row.data)) };
        let images = self.store.images(task.id).await?;
        let seen: TaskView = view(&task, &images, &self.links, self.clock.now());
        Ok(line(row.seq, &row.name, &serde_json::to_string(&seen).unwrap_or_default()))
    }
}

/// One who follows a task.
pub(super) struct Follower {
    feed: Arc<Feed>,
    tenant: Box<str>,
}

impl Follower {
    /// Arms the watch: the future ends with the first change after this call.
    pub fn armed(&self) -> impl Future<Output = ()> + Send + 'static {
        self.feed.watch.armed()
    }

    /// What came after number `seen`.
    pub async fn after(&self, seen: i64) -> Result<More, StoreError> {
        let mut lines = self.feed.lines.lock().await;
        let count = self.feed.watch.count();
        if lines.read_at != Some(count) {
            self.feed.room.read(self.feed.task, &mut lines).await?;
            // Counted before reading: what changed meanwhile is read again.
            lines.read_at = Some(count);
        }
        let from = lines.rendered.partition_point(|(seq, _)| *seq <= seen);
        let bytes: Vec<_> = lines.rendered[from..].iter().map(|(_, bytes)| bytes.clone()).collect();
        let last = lines.rendered.last().map_or(seen, |(seq, _)| (*seq).max(seen));
        Ok(More { bytes, last, ended: lines.ended })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        metrics::gauge!(meter::EVENT_STREAMS).decrement(1.0);
        let mut open = self.feed.room.lock();
        if let Some(count) = open.followers.get_mut(&*self.tenant) {
            *count -= 1;
            if *count == 0 {
                open.followers.remove(&*self.tenant);
            }
        }
        // The last one turns off the light; a follower that comes meanwhile waits for the lock.
        if Arc::strong_count(&self.feed) == 1 {
            open.feeds.remove(&self.feed.task);
        }
    }
}

/// What is known of a task from its first moment on, and never changes.
fn queued(task: &Task, links: &Links) -> Bytes {
    let to = |rest: &str| links.to(&format!("/tasks/{}{rest}", task.id));
    let said = json!({
        "id": task.id, "status": "queued", "model": task.model, "operation": task.operation, "created_at": task.created_at,
        "urls": {"self": to(""), "events": to("/events"), "cancel": to("/cancel"), "attempts": to("/attempts")},
    });
    line(1, EventName::Queued.as_str(), &said.to_string())
}

/// One event on the wire; JSON has no line breaks of its own.
fn line(seq: i64, name: &str, data: &str) -> Bytes {
    let mut text = String::with_capacity(data.len() + name.len() + 40);
    let _ = write!(text, "id: {seq}\nevent: {name}\ndata: {data}\n\n");
    text.into()
}
