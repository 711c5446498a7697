//! Webhooks to the caller: owed when a task ends, sent when they are due, tried three times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

use super::faults::Ring;
use super::jobs::{Job, Order};
use super::lock::Lock;
use super::world::World;
use super::{flux, pipeline};
use crate::domain::clock::Millis;

/// The only published numbers: every 5 s, up to 3 attempts on anything but 2xx, then none.
const ATTEMPTS: u32 = 3;
const BETWEEN: f64 = 5.0;
/// How late `hook=late` is when nothing else is said.
const LATE: f64 = 60.0;
/// How many tasks' webhooks are on their way at the same time.
const AT_A_TIME: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
/// A nap between two looks at the clock, so that a job added meanwhile is not missed for long.
const NAP: Duration = Duration::from_millis(250);

/// What the caller asked to be called back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    pub url: String,
    /// Sent back as the header `x-webhook-secret`, when there is one.
    pub secret: Option<String>,
}

/// What a webhook says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    /// The task as it is.
    Genuine,
    /// The task as it was while it ran.
    Running,
    /// Somebody else's lie.
    Forged,
}

#[derive(Debug)]
struct Hook {
    job: Arc<Job>,
    to: Callback,
    letter: Letter,
    attempts: u32,
}

/// In order of their time, and of being owed.
#[derive(Debug, Default)]
struct Owed {
    hooks: BTreeMap<(Millis, u64), Hook>,
    ever: u64,
}

/// Webhooks owed.
#[derive(Debug)]
pub struct Hooks {
    client: reqwest::Client,
    owed: Lock<Owed>,
    wake: Notify,
}

impl Hooks {
    /// Nothing owed yet.
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator stands beside the house and calls from outside"
    )]
    pub fn new() -> std::io::Result<Self> {
        let client = reqwest::Client::builder()
            .user_agent("Go-http-client/1.1")
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self { client, owed: Lock::default(), wake: Notify::new() })
    }

    /// Owes the webhooks of a task that ended.
    pub fn owe(&self, job: &Arc<Job>) {
        let Some(to) = job.callback() else { return };
        let letters: &[Letter] = match job.faults.hook {
            Some(Ring::None | Ring::Early) => &[],
            Some(Ring::Twice) => &[Letter::Genuine, Letter::Genuine],
            Some(Ring::Forged) => &[Letter::Forged, Letter::Genuine],
            Some(Ring::Disorder) => &[Letter::Genuine, Letter::Running],
            Some(Ring::Late) | None => &[Letter::Genuine],
        };
        let late = job.faults.hook == Some(Ring::Late);
        let by = if late { job.faults.hook_delay.unwrap_or(LATE) } else { 0.0 };
        // A forged or disordered letter goes with the true one: same moment, in this order.
        let at = job.ends + Duration::try_from_secs_f64(by).unwrap_or_default();
        for letter in letters {
            self.put(at, Hook { job: Arc::clone(job), to: to.clone(), letter: *letter, attempts: 0 });
        }
    }

    fn put(&self, at: Millis, hook: Hook) {
        let mut owed = self.owed.lock();
        owed.ever += 1;
        let key = (at, owed.ever);
        owed.hooks.insert(key, hook);
    }

    /// Takes out what is due, as one pile per task: the letters of a task keep their order.
    fn take_due(&self, now: Millis) -> Vec<Vec<Hook>> {
        let mut owed = self.owed.lock();
        let mut piles: BTreeMap<u64, Vec<Hook>> = BTreeMap::new();
        while owed.hooks.first_key_value().is_some_and(|(key, _)| key.0 <= now) {
            if let Some((_, hook)) = owed.hooks.pop_first() {
                piles.entry(hook.job.seq).or_default().push(hook);
            }
        }
        piles.into_values().collect()
    }

    fn next_due(&self) -> Option<Millis> {
        self.owed.lock().hooks.first_key_value().map(|(key, _)| key.0)
    }

    async fn send(&self, world: &World, hook: &Hook) -> bool {
        let body = hook.job.letter(world, hook.letter).await;
        let mut request = self.client.post(&hook.to.url).json(&body);
        let secret = if hook.letter == Letter::Forged { Some("forged") } else { hook.to.secret.as_deref() };
        if let Some(secret) = secret {
            request = request.header("x-webhook-secret", secret);
        }
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }
}

impl World {
    /// Sends every webhook that is due now, with the further tries that fall due meanwhile.
    pub async fn ring(&self) {
        loop {
            self.settle();
            let due = self.hooks.take_due(self.now());
            if due.is_empty() {
                return;
            }
            stream::iter(due).for_each_concurrent(AT_A_TIME, |pile| self.deliver(pile)).await;
        }
    }

    async fn deliver(&self, pile: Vec<Hook>) {
        for mut hook in pile {
            hook.attempts += 1;
            if !self.hooks.send(self, &hook).await && hook.attempts < ATTEMPTS {
                let again = self.now() + self.scaled(BETWEEN);
                self.hooks.put(again, hook);
            }
        }
    }

    /// Starts a task. With `hook=early` its true webhook rings before its submit is answered.
    pub async fn begin(&self, job: Job) -> Arc<Job> {
        let job = self.jobs.add(job);
        if let Some(to) = job.callback() {
            // The loop may be napping past the end of this one.
            self.hooks.wake.notify_one();
            if job.faults.hook == Some(Ring::Early) {
                self.settle();
                let hook = Hook { job: Arc::clone(&job), to, letter: Letter::Genuine, attempts: 0 };
                self.hooks.send(self, &hook).await;
            }
        }
        job
    }

    /// Rings whenever something falls due, until the simulator stops. For a clock that runs by itself.
    pub async fn keep_ringing(self: Arc<Self>) {
        let seats = Arc::new(Semaphore::new(AT_A_TIME));
        loop {
            self.settle();
            for pile in self.hooks.take_due(self.now()) {
                let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                let world = Arc::clone(&self);
                self.tracker.spawn(async move {
                    world.stop.run_until_cancelled(world.deliver(pile)).await;
                    drop(seat);
                });
            }
            let next = [self.jobs.next_end(), self.hooks.next_due()].into_iter().flatten().min();
            let nap = next.map_or(NAP, |next| next.since(self.now()).min(NAP));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.hooks.wake.notified() => {}
                () = tokio::time::sleep(nap.max(Duration::from_millis(1))) => {}
            }
        }
    }
}

impl Job {
    fn callback(&self) -> Option<Callback> {
        match &self.order {
            Order::Flux(order) => order.callback.clone(),
            Order::V3(order) => order.callback.clone(),
            Order::V1(order) => order.callback.clone(),
        }
    }

    async fn letter(&self, world: &World, letter: Letter) -> Value {
        match &self.order {
            Order::Flux(order) => flux::letter(world, self, order, letter).await,
            Order::V3(order) => pipeline::v3::letter(world, self, order, letter),
            Order::V1(order) => pipeline::v1::letter(world, self, order, letter).await,
        }
    }
}
