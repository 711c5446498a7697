//! Everything the endpoints share: the clock, the books, the tasks, the pictures and the rules.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::chance::Chance;
use super::faults::{Faults, Ring, Rules};
use super::files::Shelf;
use super::hooks::Hooks;
use super::jobs::{Job, Jobs};
use super::ledger::Ledger;
use super::lock::Lock;
use super::untidy::Decoys;
use crate::domain::clock::{Clock, Millis};

/// The simulated upstreams, all of them.
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub time_scale: f64,
    pub seed: u64,
    /// What links to files start with, without a slash at the end.
    pub base: String,
    pub ledger: Ledger,
    pub rules: Rules,
    pub jobs: Jobs,
    pub shelf: Shelf,
    /// Files that look like results and are none.
    pub decoys: Decoys,
    pub hooks: Hooks,
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
    /// The names of all headers that were ever sent here.
    pub headers: Lock<BTreeSet<String>>,
}

impl World {
    /// The present, by the simulator's clock.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// The seeded stream for the `seq`-th reception.
    pub fn chance(&self, seq: u64, purpose: &str) -> Chance {
        Chance::new(self.seed, seq, purpose)
    }

    /// Remembers which headers a request has.
    pub fn note_headers(&self, headers: &HeaderMap) {
        let mut known = self.headers.lock();
        for name in headers.keys().filter(|name| !known.contains(name.as_str())).collect::<Vec<_>>() {
            known.insert(name.as_str().to_owned());
        }
    }

    /// So many seconds of the upstream's own, in simulated time.
    pub fn scaled(&self, seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds * self.time_scale).unwrap_or_default()
    }

    /// How long a generation takes: as told, else the upstream's own time, scaled. A task whose webhook comes
    /// before its answer, or that is done at once, takes none.
    pub fn generation(&self, faults: &Faults, own_seconds: f64) -> Duration {
        match faults.time {
            _ if faults.at_once || faults.hook == Some(Ring::Early) => Duration::ZERO,
            Some(told) => Duration::try_from_secs_f64(told).unwrap_or_default(),
            None => self.scaled(own_seconds),
        }
    }

    /// Closes the books on every task whose time has come: bills it, notes its pictures, owes its webhook.
    /// Called wherever the present matters, so that a clock that is moved by hand needs no ticking.
    pub fn settle(&self) {
        for job in self.jobs.take_due(self.now()) {
            self.close(&job);
        }
    }

    fn close(&self, job: &Arc<Job>) {
        let (outcome, nanos, why) = job.bill();
        self.ledger.bill(job.seq, outcome, nanos, why);
        for picture in &job.pictures {
            self.ledger.result(job.seq, &picture.url, None);
        }
        self.hooks.owe(job);
    }
}
