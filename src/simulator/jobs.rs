//! Tasks that take their time: what was ordered, when it will be done, how it will end. Their course is
//! decided when they are taken; afterwards only the clock moves them. They live in memory, and not for ever.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::faults::{Endpoint, Faults, Or, Text, Wrap};
use super::files::Picture;
use super::ledger::Outcome;
use super::lock::Lock;
use super::untidy::{Input, Scene};
use super::{flux, pipeline};
use crate::domain::clock::Millis;

/// How many tasks are remembered, and for how long.
const KEPT: usize = 100_000;
/// How many bytes of bodies are remembered with them: an image sent as base64 is echoed by every poll.
const WEIGHT: usize = 256 << 20;
const REMEMBERED: Duration = Duration::from_hours(24);

/// One task.
#[derive(Debug)]
pub struct Job {
    pub id: String,
    pub seq: u64,
    pub prompt: String,
    pub faults: Arc<Faults>,
    pub created: Millis,
    /// When it leaves the queue.
    pub starts: Millis,
    pub ends: Millis,
    pub ending: Ending,
    pub price_nanos: i64,
    pub pictures: Vec<Arc<Picture>>,
    pub order: Order,
    inputs: Arc<[Input]>,
    weight: usize,
    polls: AtomicUsize,
    shown: AtomicUsize,
    cancelled: Lock<Option<Millis>>,
}

/// What was ordered, in the terms of its upstream.
#[derive(Debug)]
pub enum Order {
    Flux(flux::Order),
    V3(pipeline::v3::Order),
    V1(pipeline::v1::Order),
}

/// How a task ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Completed,
    /// Completed, with nothing to show for it.
    NoImage,
    Failed(Failure),
}

/// Why a task failed; what is not said is put in the upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub refused: bool,
    pub code: Option<String>,
    pub message: Option<String>,
    pub reason: Option<String>,
}

impl Faults {
    /// How a task ends under these faults; a failure said without a code gets this one.
    pub fn ending(&self, code: &str) -> Ending {
        let failure = self.fail.as_ref().and_then(|fail| fail.or(Text(code.to_owned())));
        let text = |said: &Option<Text>| said.as_ref().map(|text| text.0.clone());
        if self.refuse || failure.is_some() {
            return Ending::Failed(Failure {
                refused: self.refuse,
                code: failure.map(|code| code.0),
                message: text(&self.message),
                reason: text(&self.reason),
            });
        }
        if self.error_event.is_some() || (self.decoy.is_some() && !self.beside) {
            return Ending::NoImage;
        }
        match self.no_image {
            None | Some(Or::Flag(false)) => Ending::Completed,
            Some(_) => Ending::NoImage,
        }
    }
}

/// Where a task is at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Pending,
    Running,
    Ended,
    Cancelled,
}

impl Job {
    /// A task that waits a sixth of its time in the queue.
    pub fn new(taken: Taken, now: Millis, span: Duration, order: Order) -> Self {
        Self {
            id: taken.id,
            seq: taken.seq,
            prompt: taken.prompt,
            ending: taken.ending,
            faults: taken.faults,
            created: now,
            starts: now + span / 6,
            ends: now + span,
            price_nanos: taken.price_nanos,
            pictures: taken.pictures,
            order,
            inputs: taken.inputs,
            weight: taken.weight,
            polls: AtomicUsize::new(0),
            shown: AtomicUsize::new(0),
            cancelled: Lock::default(),
        }
    }

    /// Where it is at `now`.
    pub fn stage(&self, now: Millis) -> Stage {
        match now {
            _ if self.cancelled.lock().is_some() => Stage::Cancelled,
            _ if now >= self.ends => Stage::Ended,
            _ if now >= self.starts => Stage::Running,
            _ => Stage::Pending,
        }
    }

    /// When it ended, one way or the other.
    pub fn ended(&self) -> Millis {
        self.cancelled.lock().unwrap_or(self.ends)
    }

    /// How it is billed once it ended, and what for.
    pub fn bill(&self) -> (Outcome, i64, &'static str) {
        let (outcome, nanos, why) = match &self.ending {
            Ending::Completed => (Outcome::Completed, self.price_nanos, "completed"),
            Ending::NoImage => (Outcome::NoImage, self.price_nanos, "completed without a picture"),
            Ending::Failed(_) => (Outcome::Failed, 0, "failed"),
        };
        match self.faults.billed {
            Some(true) => (outcome, self.price_nanos, why),
            Some(false) => (outcome, 0, why),
            None => (outcome, nanos, why),
        }
    }

    /// Counts a poll that hands out the pictures' links and says how many came before it.
    pub fn shown(&self) -> usize {
        self.shown.fetch_add(1, Ordering::Relaxed)
    }

    /// What an untidy answer to a poll must know.
    pub fn scene(&self, endpoint: Endpoint, poll: usize) -> Scene {
        let (prompt, inputs) = (self.prompt.clone(), Arc::clone(&self.inputs));
        Scene { endpoint, seq: self.seq, prompt, inputs, poll }
    }

    /// The faults that shape an answer to a poll: those of a rule that speaks of it, else the order's own.
    pub fn untidy<'a>(&'a self, rule: Option<&'a Faults>) -> &'a Faults {
        rule.filter(|rule| rule.is_untidy()).unwrap_or(&self.faults)
    }

    /// An id of the upstream's own; of digits alone where ids are to be numbers.
    pub fn id_of(faults: &Faults, seq: u64, usual: String) -> String {
        if faults.wraps(Wrap::NumberIds) { (7_200_000_000 + seq).to_string() } else { usual }
    }

    /// Counts a poll and says how many came before it.
    pub fn polled(&self) -> usize {
        self.polls.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a task is made of besides its order and its time.
pub struct Taken {
    pub id: String,
    pub seq: u64,
    pub prompt: String,
    pub faults: Arc<Faults>,
    pub ending: Ending,
    pub price_nanos: i64,
    pub pictures: Vec<Arc<Picture>>,
    pub weight: usize,
    pub inputs: Arc<[Input]>,
}

/// All tasks remembered.
#[derive(Debug, Default)]
pub struct Jobs(Lock<Registry>);

#[derive(Debug, Default)]
struct Registry {
    by_id: HashMap<String, Arc<Job>>,
    by_age: VecDeque<Arc<Job>>,
    weight: usize,
    /// Those whose books are still open, by the moment they end.
    open: BTreeMap<(Millis, u64), Arc<Job>>,
}

impl Jobs {
    /// Remembers a task, and forgets those that are finished and too old or too many. Under an id that is
    /// taken already (a fault can ask for it) the first task keeps answering.
    pub fn add(&self, job: Job) -> Arc<Job> {
        let job = Arc::new(job);
        let now = job.created;
        let mut registry = self.0.lock();
        registry.by_id.entry(job.id.clone()).or_insert_with(|| Arc::clone(&job));
        registry.by_age.push_back(Arc::clone(&job));
        registry.weight += job.weight;
        registry.open.insert((job.ends, job.seq), Arc::clone(&job));
        while let Some(oldest) = registry.by_age.front() {
            let old = now.since(oldest.created) > REMEMBERED;
            let many = registry.by_age.len() > KEPT || registry.weight > WEIGHT;
            let far_too_many = registry.by_age.len() > 2 * KEPT;
            if !((old || many) && now >= oldest.ends || far_too_many) {
                break;
            }
            if let Some(oldest) = registry.by_age.pop_front() {
                registry.weight -= oldest.weight;
                registry.by_id.remove(&oldest.id);
            }
        }
        job
    }

    /// The task with this id.
    pub fn get(&self, id: &str) -> Option<Arc<Job>> {
        self.0.lock().by_id.get(id).map(Arc::clone)
    }

    /// Takes out the tasks whose end has come, each of them once.
    pub fn take_due(&self, now: Millis) -> Vec<Arc<Job>> {
        let mut registry = self.0.lock();
        let mut due = Vec::new();
        while registry.open.first_key_value().is_some_and(|(key, _)| key.0 <= now) {
            due.extend(registry.open.pop_first().map(|(_, job)| job));
        }
        due
    }

    /// Cancels a task that has not begun; says whether it did.
    pub fn cancel(&self, job: &Job, now: Millis) -> bool {
        let mut registry = self.0.lock();
        let pending = job.stage(now) == Stage::Pending;
        if pending {
            registry.open.remove(&(job.ends, job.seq));
            *job.cancelled.lock() = Some(now);
        }
        pending
    }

    /// The moment the next task ends.
    pub fn next_end(&self) -> Option<Millis> {
        self.0.lock().open.first_key_value().map(|(key, _)| key.0)
    }

    /// How often each task was polled, by id.
    pub fn polls(&self) -> BTreeMap<String, usize> {
        let registry = self.0.lock();
        registry.by_id.iter().map(|(id, job)| (id.clone(), job.polls.load(Ordering::Relaxed))).collect()
    }
}
