//! The invariants, V1 to V10 and the privacy of tenants (P8), over a world at rest. Each says how much it looked at and
//! what it found wrong. `checker_money.rs` has those about pictures and money.

use std::collections::{BTreeMap, BTreeSet};

use crate::journal::Note;
use crate::ledger::Picture;
use crate::rows::TaskRow;
use crate::world::World;

/// Descriptors of database connections that a pool may open late. A leak of one per task would be several times more.
const LAZY_DESCRIPTORS: usize = 12;

/// What an invariant found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// `V1`…
    pub id: &'static str,
    /// What must hold.
    pub says: &'static str,
    /// How many things were looked at.
    pub checked: usize,
    /// Where it does not hold.
    pub violations: Vec<String>,
}

impl Finding {
    pub fn new(id: &'static str, says: &'static str) -> Self {
        Self { id, says, checked: 0, violations: Vec::new() }
    }

    /// Counts one thing, and notes what is wrong with it.
    pub fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.violations.push(otherwise());
        }
    }
}

/// Judges a world.
pub fn judge(world: &World) -> Vec<Finding> {
    let families = Families::of(world);
    vec![
        promised(world),
        one_key_one_task(world),
        crate::checker_money::paid_at_most_once(world, &families),
        crate::checker_money::written_before_sent(world, &families),
        one_end(world),
        crate::checker_money::no_picture_lost(world, &families),
        crate::sink::delivered(world),
        crate::checker_money::books_agree(world, &families),
        custody(world),
        quiet(world),
        private(world),
        load_as_reckoned(world),
    ]
}

/// Whether anything at all is wrong.
pub fn violated(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| !finding.violations.is_empty())
}

/// Tasks by what ties them together: a caller's task with its parts, and the token in its prompt.
pub struct Families {
    /// Ids of the caller's task and its parts, by token.
    pub by_token: BTreeMap<String, Vec<usize>>,
}

impl Families {
    fn of(world: &World) -> Self {
        let mut by_token: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, task) in world.rows.tasks.iter().enumerate() {
            if let Some(token) = task.token() {
                by_token.entry(token).or_default().push(at);
            }
        }
        Self { by_token }
    }
}

fn promised(world: &World) -> Finding {
    let mut finding = Finding::new("V1", "every id that a caller read exists");
    let known: BTreeSet<&str> = world.rows.tasks.iter().map(|task| task.id.as_str()).collect();
    for note in &world.journal {
        if let Note::Accepted { id, key, .. } = note {
            finding
                .check(known.contains(id.as_str()), || format!("{id} (key {key}) was promised and is gone"));
        }
    }
    finding
}

fn one_key_one_task(world: &World) -> Finding {
    let mut finding = Finding::new("V2", "one key, one task; every replay returned it");
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut tokens: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for note in &world.journal {
        if let Note::Accepted { id, key, token, .. } = note {
            ids.entry(key).or_default().insert(id);
            tokens.entry(token).or_default().insert(id);
        }
    }
    for task in world.rows.tasks.iter().filter(|task| task.parent_id.is_none()) {
        if let Some(key) = &task.idempotency_key {
            ids.entry(key).or_default().insert(&task.id);
        }
    }
    for (key, ids) in ids {
        finding.check(ids.len() == 1, || format!("key {key} belongs to {ids:?}"));
    }
    for (token, ids) in tokens {
        finding.check(ids.len() == 1, || format!("the request {token} became {ids:?}"));
    }
    finding
}

/// Which event may follow which; `task.queued` is the row itself.
fn may_follow(before: &str, after: &str) -> bool {
    let open = [
        "task.attempt",
        "task.progress",
        "task.partial_image",
        "task.saving",
        "task.failed",
        "task.canceled",
    ];
    match before {
        "task.queued" => {
            matches!(
                after,
                "task.attempt" | "task.progress" | "task.saving" | "task.failed" | "task.canceled"
            )
        }
        "task.attempt" | "task.progress" | "task.partial_image" => open.contains(&after),
        "task.saving" => matches!(after, "task.succeeded" | "task.failed"),
        "task.succeeded" | "task.failed" | "task.canceled" | "task.late_result" => {
            after == "task.late_result"
        }
        _ => false,
    }
}

fn one_end(world: &World) -> Finding {
    let mut finding = Finding::new(
        "V5",
        "events contiguous, each pair legal, exactly one end; no task left over; what was told stays true",
    );
    let mut histories: BTreeMap<&str, Vec<(i64, &str)>> = BTreeMap::new();
    for event in &world.rows.events {
        histories.entry(&event.task_id).or_default().push((event.seq, &event.name));
    }
    let mut phases: BTreeMap<&str, &str> = BTreeMap::new();
    for task in &world.rows.tasks {
        phases.insert(&task.id, &task.phase);
        finding.check(task.terminal(), || format!("{} is still {}", task.id, task.phase));
        finding.check(!task.terminal() || (task.wake_at.is_none() && task.finished_at.is_some()), || {
            format!("{} is {} and still owes work, or has no end", task.id, task.phase)
        });
        // Parts have no history of their own.
        if task.parent_id.is_some() {
            continue;
        }
        let history = histories.remove(task.id.as_str()).unwrap_or_default();
        let mut before = (1, "task.queued");
        for now in &history {
            finding.check(now.0 == before.0 + 1 && may_follow(before.1, now.1), || {
                format!("{}: {} {} after {} {}", task.id, now.0, now.1, before.0, before.1)
            });
            before = *now;
        }
        let ends: Vec<&str> = history
            .iter()
            .map(|event| event.1)
            .filter(|name| matches!(*name, "task.succeeded" | "task.failed" | "task.canceled"))
            .collect();
        let expected = format!("task.{}", task.phase);
        finding.check(!task.terminal() || ends == [expected.as_str()], || {
            format!("{} is {} and its history ends with {ends:?}", task.id, task.phase)
        });
    }
    for (id, history) in histories {
        finding.check(false, || format!("{} events of {id}, which is not there", history.len()));
    }
    // A status that ends a task was the truth when it was told, and stays it.
    let mut told: BTreeMap<&str, &str> = BTreeMap::new();
    for note in &world.journal {
        if let Note::Told { id, status } = note
            && matches!(status.as_str(), "succeeded" | "failed" | "canceled")
        {
            let first = *told.entry(id).or_insert(status);
            finding.check(first == status, || format!("{id} was {first} and then {status}"));
        }
    }
    for (id, status) in told {
        let now = phases.get(id).copied().unwrap_or("gone");
        finding.check(now == status, || format!("{id} was told to be {status} and is {now}"));
    }
    finding
}

fn custody(world: &World) -> Finding {
    let mut finding = Finding::new(
        "V9",
        "image row ⇔ file, quarantine row ⇔ object, hashes right, no temporary file, nothing left in the spool, the database sound",
    );
    let files = &world.pictures.files;
    let owned: BTreeSet<&str> = owned(world).collect();
    let orphans = orphans(world);
    for image in &world.rows.images {
        finding.check(files.contains_key(&image.sha256), || {
            format!("{}: {} is in no file", image.task_id, image.sha256)
        });
    }
    for (name, hash) in files {
        finding.check(name == hash, || format!("file {name} holds {hash}"));
        let known = owned.contains(name.as_str()) || orphans.contains(name.as_str());
        finding.check(known, || format!("file {name} belongs to nothing"));
    }
    quarantine(world, &mut finding);
    spooled(world, &mut finding);
    for name in &world.pictures.temporary {
        finding.check(false, || format!("{name} was left behind"));
    }
    finding.check(world.rows.unsound.is_empty(), || world.rows.unsound.join("; "));
    finding
}

/// Every row of quarantine has its bytes, and all bytes there have a row, but for copies.
fn quarantine(world: &World, finding: &mut Finding) {
    let objects = &world.pictures.quarantined;
    let mut rows = BTreeSet::new();
    for row in &world.rows.quarantined {
        rows.insert(row.id.as_str());
        let here = objects.get(&row.id);
        let right = here.is_some_and(|kept| {
            kept.sha256 == row.sha256 && i64::try_from(kept.bytes).is_ok_and(|bytes| bytes == row.bytes)
        });
        finding.check(right, || {
            format!("{} in quarantine is {} of {} bytes, and holds {here:?}", row.id, row.sha256, row.bytes)
        });
    }
    let copies = copies(world);
    for id in objects.keys().map(String::as_str) {
        let known = rows.contains(id) || copies.contains(id);
        finding.check(known, || format!("{id} in quarantine belongs to nothing"));
    }
}

/// Objects in quarantine that a kill between their bytes and their row left without one: they were kept once more, under
/// another id. Anything else without a row is a violation.
pub fn copies(world: &World) -> BTreeSet<&str> {
    let rows = &world.rows.quarantined;
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let known: BTreeSet<&str> = rows.iter().map(|row| row.sha256.as_str()).collect();
    let objects = world.pictures.quarantined.iter();
    let copies =
        objects.filter(|(id, kept)| !ids.contains(id.as_str()) && known.contains(kept.sha256.as_str()));
    copies.map(|(id, _)| id.as_str()).collect()
}

/// What waits in the spool is about an attempt that is still open, and its process lives.
fn spooled(world: &World, finding: &mut Finding) {
    let open: BTreeSet<&str> =
        world.rows.attempts.iter().filter(|one| one.open()).map(|one| one.id.as_str()).collect();
    for file in &world.spool {
        finding.check(file.live, || format!("spool/{} is of a process that is gone", file.path));
        let needed = file.attempt.as_deref().is_some_and(|attempt| open.contains(attempt));
        finding.check(!file.live || needed, || format!("spool/{} is needed by nothing", file.path));
    }
}

fn owned(world: &World) -> impl Iterator<Item = &str> {
    let images = world.rows.images.iter().map(|image| image.sha256.as_str());
    images.chain(world.rows.files.iter().map(String::as_str))
}

/// Files that a kill between the bytes of an inline picture and their row left without an owner: the provider's ledger
/// knows them, and their attempt is one whose outcome was lost. Anything else without an owner is a violation.
pub fn orphans(world: &World) -> BTreeSet<&str> {
    let owned: BTreeSet<&str> = owned(world).collect();
    let lost: BTreeSet<&str> = world
        .rows
        .attempts
        .iter()
        .filter(|attempt| attempt.state == "lost")
        .map(|attempt| attempt.task_id.as_str())
        .collect();
    let lost: BTreeSet<String> = world
        .rows
        .tasks
        .iter()
        .filter(|task| lost.contains(task.id.as_str()))
        .filter_map(TaskRow::token)
        .collect();
    let receptions =
        world.receptions.iter().filter(|one| one.token.as_ref().is_some_and(|token| lost.contains(token)));
    let here = |sha256: &&str| world.pictures.files.contains_key(*sha256) && !owned.contains(sha256);
    receptions.flat_map(|one| one.files.values()).filter_map(Picture::sent).filter(here).collect()
}

fn quiet(world: &World) -> Finding {
    let mut finding = Finding::new(
        "V10",
        "secrets in no log, body, row or quarantine; descriptors back to where they were",
    );
    finding.checked = world.searched + world.journal.len();
    finding.violations.clone_from(&world.leaks);
    for note in &world.journal {
        if let Note::Leak { what } = note {
            finding.violations.push(what.clone());
        }
    }
    if let Some((before, after)) = world.descriptors {
        finding.check(after <= before + LAZY_DESCRIPTORS, || format!("{before} descriptors grew to {after}"));
    }
    finding
}

fn private(world: &World) -> Finding {
    let mut finding = Finding::new("P8", "a tenant sees its own tasks alone");
    for note in &world.journal {
        if let Note::Foreign { id, http } = note {
            finding.check(*http == 404, || format!("another tenant got {http} for {id}"));
        }
    }
    finding
}

fn load_as_reckoned(world: &World) -> Finding {
    let mut finding = Finding::new("S1", "every answer was one that the load reckons with");
    finding.checked = world.journal.len();
    for note in &world.journal {
        if let Note::Odd { what } = note {
            finding.violations.push(what.clone());
        }
    }
    finding
}
