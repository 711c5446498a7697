//! The one loop: claim what is due, work on it, repeat. Claiming is leasing: a task whose worker dies becomes due again by
//! itself, and a worker that lives extends its leases.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Held, Inner, Work, drive};
use crate::chaos::crash;
use crate::domain::clock::Millis;
use crate::domain::id::{AttemptId, TaskId};
use crate::domain::task::Phase;
use crate::store::{Claim, Owing, StoreError};

/// The loop looks again after this long even when nothing told it to.
const FALLBACK: Duration = Duration::from_secs(1);

/// Rounds begin at least this far apart: what comes due together is claimed together.
pub(super) const APART: Duration = Duration::from_millis(4);

/// Late results are looked for this many at once.
const LOOKS: usize = 64;

/// Claims and works until told to stop.
pub(super) async fn serve(engine: Arc<Inner>) {
    while !engine.stop.is_cancelled() {
        let apart = Instant::now() + APART;
        match round(&engine).await {
            Ok(Round { begun, next }) => {
                if begun.is_empty() {
                    rest(&engine, next).await;
                }
                tokio::time::sleep_until(apart).await;
            }
            Err(error) => {
                tracing::error!(%error, "cannot claim work; trying again");
                tokio::select! {
                    () = tokio::time::sleep(FALLBACK) => {}
                    () = engine.stop.cancelled() => {}
                }
            }
        }
    }
}

/// What came of looking for work once.
#[derive(Default)]
pub(super) struct Round {
    /// What was begun.
    pub begun: Vec<JoinHandle<()>>,
    /// When more comes due, as far as it is known.
    pub next: Option<Millis>,
}

/// Claims once and starts on what it got.
pub(super) async fn round(engine: &Arc<Inner>) -> Result<Round, StoreError> {
    engine.count_crowd().await?;
    let until = engine.clock.now() + engine.settings.lease;
    let (polls, saves) = (engine.room(Work::Poll), engine.room(Work::Save));
    let owing = engine.store.owing().await?;
    let looks = LOOKS.saturating_sub(engine.looking().len());
    let due = Due::of(&owing, (polls > 0, saves > 0, looks > 0), engine.clock.now());
    let lanes = engine.open_lanes(owing.queued).await?;
    let mut tasks = Vec::new();
    if due.polls || due.saves || !lanes.is_empty() {
        tasks = engine.store.claim(Claim { until, polls, saves, lanes }).await?;
    }
    if !tasks.is_empty() {
        crash("claim.committed");
    }
    let work = tasks.into_iter().filter_map(|task| {
        let id = task.id;
        let starting = (task.phase == Phase::Queued).then(|| task.lane.clone());
        match engine.held().entry(id) {
            // This process still has a worker on it, whose lease ran out while the database was away: it goes first.
            Entry::Occupied(mut held) => {
                held.get_mut().again = true;
                return None;
            }
            Entry::Vacant(free) => free.insert(Held {
                version: task.version,
                work: Work::of(task.phase),
                starting,
                again: false,
            }),
        };
        let worker = Arc::clone(engine);
        Some(engine.tracker.spawn(async move {
            // Let go of the task whatever happens, a panic included: then its lease runs out.
            let _guard = LetGo { engine: Arc::clone(&worker), id };
            drive::run(&worker, Box::new(task)).await;
        }))
    });
    let mut begun: Vec<_> = work.collect();
    // Apart from the tasks: what comes late keeps nothing waiting.
    let stragglers = if due.stragglers { engine.store.stragglers(until, looks).await? } else { Vec::new() };
    for straggler in stragglers {
        // One that is still looked at, for longer than its lease, goes on.
        let Some(looking) = Looking::begin(engine, straggler.attempt.id) else { continue };
        begun.push(engine.tracker.spawn(async move { looking.engine.look_for(straggler).await }));
    }
    Ok(Round { begun, next: due.next })
}

/// A look for a late result that is under way.
struct Looking {
    engine: Arc<Inner>,
    id: AttemptId,
}

impl Looking {
    fn begin(engine: &Arc<Inner>, id: AttemptId) -> Option<Self> {
        engine.looking().insert(id).then(|| Self { engine: Arc::clone(engine), id })
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.engine.looking().remove(&self.id);
        self.engine.store.changes().work_due();
    }
}

impl Inner {
    /// How many more tasks there is room for in one kind of work.
    fn room(&self, work: Work) -> usize {
        let under_way = self.held().values().filter(|held| held.work == work).count();
        let most = match work {
            // Four for each that can download: the others stand in line for well hosts, or convert.
            Work::Save => self.settings.concurrency.min(4 * self.settings.downloads),
            Work::Poll | Work::Send => self.settings.concurrency,
        };
        most.saturating_sub(under_way)
    }
}

impl Work {
    /// What a task of this phase is about to need.
    fn of(phase: Phase) -> Self {
        match phase {
            Phase::Queued => Self::Send,
            Phase::Storing => Self::Save,
            _ => Self::Poll,
        }
    }
}

/// What is due and has room.
struct Due {
    polls: bool,
    saves: bool,
    stragglers: bool,
    /// When more is.
    next: Option<Millis>,
}

impl Due {
    fn of(owing: &Owing, (polls, saves, looks): (bool, bool, bool), now: Millis) -> Self {
        let due = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        // What there is no room for is due again when something ends, which is said.
        let next = [
            owing.polls.filter(|_| polls),
            owing.saves.filter(|_| saves),
            owing.later,
            owing.stragglers.filter(|_| looks),
        ];
        Self {
            polls: polls && due(owing.polls),
            saves: saves && due(owing.saves),
            stragglers: looks && due(owing.stragglers),
            next: next.into_iter().flatten().min(),
        }
    }
}

struct LetGo {
    engine: Arc<Inner>,
    id: TaskId,
}

impl Drop for LetGo {
    fn drop(&mut self) {
        let held = self.engine.held().remove(&self.id);
        self.engine.store.changes().work_due();
        if held.is_some_and(|held| held.again) {
            let (engine, id) = (Arc::clone(&self.engine), self.id);
            self.engine.tracker.spawn(async move {
                if let Err(error) = engine.store.wake(id).await {
                    tracing::warn!(task.id = %id, %error, "cannot make a task due; its own time will come");
                }
            });
        }
    }
}

/// Waits until something may be due.
async fn rest(engine: &Inner, next: Option<Millis>) {
    let pause =
        next.map_or(FALLBACK, |at| at.since(engine.clock.now()).clamp(Duration::from_millis(5), FALLBACK));
    tokio::select! {
        () = engine.store.changes().work() => {}
        () = tokio::time::sleep(pause) => {}
        () = engine.stop.cancelled() => {}
    }
}

/// Extends the leases of what this process is at work on, until it is stopped and holds nothing.
pub(super) async fn renew(engine: Arc<Inner>) {
    let pause = engine.settings.lease / 3;
    let mut next = Instant::now() + pause;
    loop {
        if engine.stop.is_cancelled() {
            if engine.held().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50).min(pause)).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = engine.stop.cancelled() => {}
            }
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + pause;
        let held: Vec<_> = engine.held().iter().map(|(id, held)| (*id, held.version)).collect();
        let until = engine.clock.now() + engine.settings.lease;
        if !held.is_empty()
            && let Err(error) = engine.store.renew(held, until).await
        {
            tracing::warn!(%error, "cannot extend leases");
        }
    }
}
