//! What callers try that is not theirs to do, written into the audit behind their backs: the answer neither waits for it nor
//! tells by its delay whether there was anything to try. Whether an id that was not found belongs to another tenant is looked
//! up here, after the answer, so that no handler has to think of it. The same try is written once a minute.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::audit::{Actor, Entry, Outcome};
use crate::domain::clock::Clock;
use crate::store::{Store, StoreError};

/// So many may wait to be written; beyond that only the log hears of them.
const WAITING: usize = 1_000;
/// So many different ones are written a minute.
const A_MINUTE: usize = 600;

/// A try.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Try {
    /// The key that tried.
    pub key: String,
    /// Its tenant.
    pub tenant: String,
    /// The request, as method and path.
    pub request: String,
    /// The id that was not found, if that is what was tried.
    pub id: Option<String>,
}

/// Writes tries down, and what else nobody waits for to the end.
pub(super) struct Tries {
    store: Store,
    told: mpsc::Sender<Try>,
    stop: CancellationToken,
    running: TaskTracker,
}

impl Tries {
    /// Begins to write.
    pub fn start(store: Store, clock: Arc<dyn Clock>) -> Self {
        let (told, waiting) = mpsc::channel(WAITING);
        let (stop, running) = (CancellationToken::new(), TaskTracker::new());
        let writer = Writer { store: store.clone(), clock, minute: 0, seen: HashSet::new() };
        running.spawn(writer.run(waiting, stop.clone()));
        Self { store, told, stop, running }
    }

    /// Takes note of a try.
    pub fn note(&self, one: Try) {
        if let Err(error) = self.told.try_send(one) {
            tracing::warn!(%error, "a try could not be written into the audit");
        }
    }

    /// Writes down what was done and is not a row's own change, though its caller goes away meanwhile.
    pub async fn record(&self, entry: Entry) {
        let store = self.store.clone();
        let writing = self.running.spawn(async move {
            if let Err(error) = store.audit(entry).await {
                tracing::error!(%error, "an act could not be written into the audit");
            }
        });
        // One that panicked has been logged.
        let _ = writing.await;
    }

    /// Writes what was told so far, and stops.
    pub async fn close(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

struct Writer {
    store: Store,
    clock: Arc<dyn Clock>,
    minute: i64,
    seen: HashSet<Try>,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Try>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                one = waiting.recv() => match one {
                    Some(one) => self.write_one(one).await,
                    None => return,
                },
                () = stop.cancelled() => waiting.close(),
            }
        }
    }

    async fn write_one(&mut self, one: Try) {
        let minute = self.clock.now().0.div_euclid(60_000);
        if self.minute != minute {
            self.minute = minute;
            self.seen.clear();
        }
        if self.seen.len() >= A_MINUTE || !self.seen.insert(one.clone()) {
            return;
        }
        if let Err(error) = self.write(one).await {
            tracing::error!(%error, "a try could not be written into the audit");
        }
    }

    async fn write(&self, one: Try) -> Result<(), StoreError> {
        let who = Actor { key: one.key, tenant: one.tenant };
        let (act, subject) = match one.id {
            None => ("admin.refused", one.request.clone()),
            Some(id) => match self.store.owner(&id).await? {
                Some(owner) if owner != who.tenant => ("tenant.cross", id),
                _ => return Ok(()),
            },
        };
        let entry = Entry::new(self.clock.as_ref(), who, act, subject, Outcome::Refused);
        self.store.audit(entry.with("request", one.request)).await
    }
}
