//! The upstreams' own HTTP APIs, a result host, faults on demand and a ledger, as one server: for the demo,
//! for tests and for staging. Written from the fact sheet alone, beside the house: nothing here knows the
//! gateway, so that a mistake in one is caught by the other.
#![doc = include_str!("README.md")]

mod chance;
mod chat;
mod connection;
mod control;
mod dialect;
mod faults;
mod fields;
mod files;
mod flux;
mod hooks;
mod images;
mod intake;
mod jobs;
mod ledger;
mod lock;
mod pipeline;
mod play;
mod server;
mod sse;
#[cfg(test)]
mod tests;
mod untidy;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::faults::{
    Base64, Body as ErrorBody, Bomb, Cut, CutBy, Decoy, Endpoint, ErrorAfter, ErrorEvent, Faults, FileFormat,
    FileType, FileWrap, Form, Lie, LinkForm, List, Match, NoImage, Or, Outage, PromptForm, Ring, Rule, Seat,
    Spelling, Sse, Stop, StopBy, Style, Text, Truncate, Words, Wrap,
};
use self::intake::receive;
use self::ledger::Ledger;
pub use self::ledger::{Billed, File, KeyCheck, Outcome, Provider, Reception};
use self::world::World;
use crate::domain::clock::Clock;

/// How a simulator is started.
pub struct Options {
    /// Decides when a task is done. With a clock that stands still nothing ticks: tasks are found done when
    /// somebody looks, and webhooks wait for [`Simulator::ring`].
    pub clock: Arc<dyn Clock>,
    /// The JSONL file of the ledger, appended and synced; `None` keeps it in memory only.
    pub ledger: Option<PathBuf>,
    /// Multiplies every generation time, stream pause and webhook delay of the upstreams' own; 0 is at once.
    /// Times asked for by a fault are taken as they are.
    pub time_scale: f64,
    /// Varies drawings, ids, durations and styles: the same seed and the same requests give the same run.
    pub seed: u64,
    /// What links to results start with; by default the address the simulator listens on.
    pub public_url: Option<String>,
}

/// A running simulator. Dropping it stops it without waiting; [`Simulator::stop`] waits.
pub struct Simulator {
    world: Arc<World>,
    url: String,
    /// The ledger's writer outlives everybody who writes.
    last: TaskTracker,
    last_stop: CancellationToken,
}

impl Simulator {
    /// Starts serving on this listener.
    pub async fn start(listener: TcpListener, options: Options) -> io::Result<Self> {
        let mut address = listener.local_addr()?;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let url = format!("http://{address}");
        let (last, last_stop) = (TaskTracker::new(), CancellationToken::new());
        let ledger = Ledger::open(options.ledger, &last, last_stop.clone()).await?;
        let world = Arc::new(World {
            base: options.public_url.as_deref().unwrap_or(&url).trim_end_matches('/').to_owned(),
            clock: options.clock,
            time_scale: options.time_scale,
            seed: options.seed,
            ledger,
            rules: faults::Rules::new(options.seed),
            jobs: jobs::Jobs::default(),
            shelf: files::Shelf::default(),
            decoys: untidy::Decoys::default(),
            hooks: hooks::Hooks::new()?,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            headers: lock::Lock::default(),
        });
        if runs_by_itself(world.clock.as_ref()).await {
            world.tracker.spawn(Arc::clone(&world).keep_ringing());
        }
        let router = router(Arc::clone(&world));
        world.tracker.spawn(server::serve(listener, router, world.tracker.clone(), world.stop.clone()));
        Ok(Self { world, url, last, last_stop })
    }

    /// Where it listens, as `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Every paid POST received, in order: the latest 250,000 of them.
    pub fn ledger(&self) -> Vec<Reception> {
        self.world.settle();
        self.world.ledger.receptions()
    }

    /// What was billed so far.
    pub fn billed(&self) -> Billed {
        self.world.settle();
        self.world.ledger.billed()
    }

    /// Adds a rule behind the others.
    pub fn add_rule(&self, rule: Rule) {
        self.world.rules.add(rule);
    }

    /// Lifts all rules.
    pub fn clear_rules(&self) {
        self.world.rules.clear();
    }

    /// How often each task was polled, by its id.
    pub fn polls(&self) -> BTreeMap<String, usize> {
        self.world.jobs.polls()
    }

    /// The names of all headers that any request to an upstream or its result host had.
    pub fn headers(&self) -> BTreeSet<String> {
        self.world.headers.lock().clone()
    }

    /// Sends every webhook that is due by the clock, with its further tries as far as they are due.
    pub async fn ring(&self) {
        self.world.ring().await;
    }

    /// Stops listening, drops open connections and waits for every task; the ledger is on disk afterwards.
    pub async fn stop(self) {
        self.world.stop.cancel();
        self.world.tracker.close();
        self.world.tracker.wait().await;
        self.last_stop.cancel();
        self.last.close();
        self.last.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.world.stop.cancel();
        self.last_stop.cancel();
    }
}

/// Whether this clock moves on its own, or waits to be told.
async fn runs_by_itself(clock: &dyn Clock) -> bool {
    let before = clock.now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    clock.now() > before
}

fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/api/v1/task", post(receive::<flux::Flux>))
        .route("/api/v1/task/{id}", get(flux::poll).delete(flux::cancel))
        .route("/v1/chat/completions", post(receive::<chat::Chat>))
        .route("/v1/images/generations", post(receive::<images::Images<false>>))
        .route("/v1/images/edits", post(receive::<images::Images<true>>))
        .route("/generate/v3", post(receive::<pipeline::v3::V3>))
        .route("/generate/v3/status/{id}", get(pipeline::v3::status))
        .route("/generate/image/v1", post(receive::<pipeline::v1::V1>))
        .route("/generate/image/v1/status/{id}", get(pipeline::v1::status))
        .route("/files/{name}", get(files::get))
        .route("/cdn/{name}", get(files::get))
        .route("/cdn/download/{name}", get(files::get))
        .route("/decoys/{name}", get(untidy::decoy_file))
        .route("/_sim/health", get(control::health))
        .route("/_sim/ledger", get(control::ledger))
        .route("/_sim/rules", get(control::rules).post(control::add_rules).delete(control::clear_rules))
        .route("/_sim/polls", get(control::polls))
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found") })
        .layer(from_fn_with_state(Arc::clone(&world), note_headers))
        .with_state(world)
}

async fn note_headers(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    world.note_headers(request.headers());
    next.run(request).await
}
