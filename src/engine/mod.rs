//! Floor 3: moves tasks. [`Engine::accept`] takes one in, the worker loop carries each through its phases, and nothing of
//! it lives in a caller's connection. `worker.rs` is the loop, `drive.rs` one step of one task, `route.rs` the choice of
//! routes, `lane.rs` which provider accounts may be sent to just now.

mod accept;
mod allowed;
mod bring;
mod cancel;
mod catalog;
mod convert;
mod crowd;
mod deliver;
mod drive;
mod gather;
mod lane;
mod late;
mod mark;
mod observed;
mod offered;
mod options;
mod pace;
mod post;
mod prepare;
mod reconcile;
mod results;
mod retry;
mod ring;
mod route;
mod save;
mod space;
mod spans;
mod spend;
mod submit;
mod tally;
mod tidy;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use accept::{Acceptance, Caller, Refusal};
pub use catalog::{Alias, Catalog, Entry};
pub use deliver::WebhookSettings;
pub use lane::LaneView;
pub use offered::Offered;
pub use results::{HostView, Recovered, Supplied};
pub use route::{NoRoute, Plan, Planned, Rejected, Standing};
pub use tidy::TidyError;

use crate::blobs::Blobs;
use crate::blobs::space::Space;
use crate::domain::audit;
use crate::domain::clock::Clock;
use crate::domain::id::{AttemptId, TaskId};
use crate::domain::link::Links;
use crate::domain::retention::Keeping;
use crate::domain::task::{Phase, Task};
use crate::domain::webhook::{Rotation, Secret};
use crate::net::Net;
use crate::net::policy::Refused;
use crate::providers::Provider;
use crate::spool::Spool;
use crate::store::{Store, StoreError};
use crate::trace::Traces;

/// One configured provider account.
#[derive(Clone)]
pub struct Lane {
    /// The adapter.
    pub provider: Arc<dyn Provider>,
    /// How many tasks may be at the provider at once.
    pub in_flight: u32,
}

/// The engine's numbers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a claimed task belongs to its worker without a sign of life.
    pub lease: Duration,
    /// Serve, poll and save, but submit nothing.
    pub hold_submissions: bool,
    /// How long a task may take when its caller does not say.
    pub deadline: Duration,
    /// How many tasks this process polls at once, and how many it saves.
    pub concurrency: usize,
    /// How many results may be on their way here at once, and how many input images.
    pub downloads: usize,
    /// How many tasks of one tenant may be open.
    pub open_per_tenant: u32,
    /// How many tasks may be open in all.
    pub open_in_all: u32,
    /// How long things are kept.
    pub keeping: Keeping,
    /// How long entries of the audit are.
    pub audit_keep: Duration,
    /// Whether other replicas may write to the same blob store.
    pub shared: bool,
    /// Numbers of the webhooks.
    pub webhooks: WebhookSettings,
}

/// Everything the engine works with.
pub struct Parts {
    /// Rows.
    pub store: Store,
    /// Pictures.
    pub blobs: Blobs,
    /// Room on the disks.
    pub space: Space,
    /// Answers and images that wait.
    pub spool: Spool,
    /// Connections.
    pub net: Net,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Addresses of our own.
    pub links: Links,
    /// Spans.
    pub traces: Traces,
    /// What is on offer, and at whom.
    pub offered: ArcSwap<Offered>,
    /// Numbers.
    pub settings: Settings,
}

/// Moves tasks.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    observed: observed::Observed,
    known: lane::Known,
    crowd: crowd::Crowd,
    mail: deliver::Mail,
    hosts: Arc<results::Hosts>,
    /// Late results that are being looked for.
    looking: Mutex<HashSet<AttemptId>>,
    guests: prepare::Guests,
    held: Mutex<HashMap<TaskId, Held>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// A task this process is at work on.
struct Held {
    /// The version it is held by.
    version: i64,
    /// What is being done with it.
    work: Work,
    /// The lane it is about to be sent on: counted against the lane until the row itself says so.
    starting: Option<String>,
    /// Whether something happened meanwhile that makes it due again at once.
    again: bool,
}

/// Kinds of work, of which each has places of its own: none waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Being sent: bounded by what its account takes at once.
    Send,
    /// Asking how a job stands, and all else that takes a moment.
    Poll,
    /// Bringing images here.
    Save,
}

impl std::ops::Deref for Inner {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Engine {
    /// An engine that does not move yet.
    pub fn new(parts: Parts) -> Self {
        let inner = Inner {
            observed: observed::Observed::default(),
            known: lane::Known::default(),
            crowd: crowd::Crowd::default(),
            mail: deliver::Mail::default(),
            hosts: results::Hosts::new(parts.settings.downloads),
            looking: Mutex::default(),
            guests: prepare::Guests::default(),
            held: Mutex::default(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            parts,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts the loops.
    pub fn start(&self) {
        self.inner.tracker.spawn(worker::serve(Arc::clone(&self.inner)));
        self.inner.tracker.spawn(worker::renew(Arc::clone(&self.inner)));
        self.inner.tracker.spawn(deliver::serve(Arc::clone(&self.inner)));
        self.inner.tracker.spawn(tidy::serve(Arc::clone(&self.inner)));
        self.inner.tracker.spawn(tidy::read_left(Arc::clone(&self.inner)));
        self.inner.tracker.spawn(space::serve(Arc::clone(&self.inner)));
    }

    /// Stops taking up tasks, and waits up to `patience` for those in hand: what is paid for is finished. Whether all were.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.inner.stop.cancel();
        self.inner.tracker.close();
        tokio::time::timeout(patience, self.inner.tracker.wait()).await.is_ok()
    }

    /// Works until nothing is due at the clock's present moment. For tests, which move the clock by hand.
    pub async fn run_until_idle(&self) -> Result<(), StoreError> {
        loop {
            let mut working = worker::round(&self.inner).await?.begun;
            working.extend(deliver::round(&self.inner).await?);
            if working.is_empty() {
                return Ok(());
            }
            // A worker that panicked has been logged, and its task becomes due again.
            futures_util::future::join_all(working).await;
        }
    }

    /// Whether an address somebody else chose may be fetched at all.
    pub fn vet(&self, address: &str) -> Result<(), Refused> {
        self.inner.net.guarded.vet(address).map(drop)
    }

    /// Whether a webhook may be sent to an address: one that may be reached, and is not our own.
    pub fn vet_webhook(&self, address: &str) -> Result<(), Refused> {
        if self.inner.links.leads_here(address) {
            return Err(Refused::Syntax("the gateway itself"));
        }
        if address.contains('#') {
            return Err(Refused::Syntax("fragment"));
        }
        self.vet(address)
    }

    /// As [`Self::vet_webhook`], and with its name looked up.
    pub async fn vet_endpoint(&self, address: &str) -> Result<(), Refused> {
        self.vet_webhook(address)?;
        self.inner.net.guarded.reach(address).await.map(drop)
    }

    /// The secrets that letters of `owner` are signed with at the moment, the newest first.
    pub async fn webhook_secrets(&self, owner: &str) -> Result<(Rotation, Vec<Secret>), StoreError> {
        let rotation = self.inner.store.rotation(owner).await?;
        let key = &self.inner.settings.webhooks.key;
        Ok((rotation, rotation.secrets(key, owner, self.inner.clock.now())))
    }

    /// Exchanges the secret of `owner`; the one before signs along for the overlap.
    pub async fn rotate_webhook_secret(
        &self,
        owner: &str,
        entry: audit::Entry,
    ) -> Result<(Rotation, Vec<Secret>), StoreError> {
        let until = self.inner.clock.now() + self.inner.settings.webhooks.overlap;
        self.inner.store.rotate(owner.to_owned(), until, entry).await?;
        self.webhook_secrets(owner).await
    }

    /// Whether nothing is sent to providers, by configuration.
    pub fn holds_submissions(&self) -> bool {
        self.inner.settings.hold_submissions
    }

    /// The task's place in line, 0 once a provider is at work on it, and the seconds until its pictures can be expected.
    pub async fn outlook(&self, task: &Task) -> Result<(i64, u64), StoreError> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let needs = inner.usual(&task.lane);
        if task.phase != Phase::Queued {
            let spent = task.started_at.map(|at| now.since(at)).unwrap_or_default();
            return Ok((0, needs.saturating_sub(spent).as_secs().max(1)));
        }
        let place = inner.store.ahead(task).await? + 1;
        Ok((place, (inner.turn(&task.lane, place) + needs).as_secs()))
    }

    /// How long things are kept.
    pub fn keeping(&self) -> Keeping {
        self.inner.settings.keeping
    }

    /// How every provider account is doing.
    pub async fn lanes(&self) -> Result<Vec<LaneView>, StoreError> {
        self.inner.view_lanes().await
    }

    /// Forgets what is held against a provider account: rests, open circuits, limits. `false` when there is no such account.
    pub async fn reset_lane(&self, id: &str, who: audit::Actor) -> Result<bool, StoreError> {
        self.inner.reset_lane(id, who).await
    }

    /// Whether the spool is full, so that nothing is bought for now.
    pub fn spool_full(&self) -> bool {
        self.inner.spool.full()
    }

    /// Hosts that results are downloaded from: those that hang, and those with downloads under way.
    pub fn hosts(&self) -> Vec<HostView> {
        self.inner.hosts.view(self.inner.clock.now())
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, HashMap<TaskId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looking(&self) -> MutexGuard<'_, HashSet<AttemptId>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tasks of each lane have been claimed and not yet been sent.
    fn starting(&self) -> HashMap<String, usize> {
        let mut starting = HashMap::new();
        for held in self.held().values() {
            if let Some(lane) = &held.starting {
                *starting.entry(lane.clone()).or_default() += 1;
            }
        }
        starting
    }
}
