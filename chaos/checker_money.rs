//! The invariants about what is paid for: at most once, written before it was sent, brought home, and booked.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::checker::{Families, Finding};
use crate::ledger::Reception;
use crate::rows::{AttemptRow, TaskRow};
use crate::world::World;

/// The rows and receptions of one caller's task.
struct Family<'w> {
    token: &'w str,
    tasks: Vec<&'w TaskRow>,
    attempts: Vec<&'w AttemptRow>,
    receptions: Vec<&'w Reception>,
}

impl<'w> Family<'w> {
    fn all(world: &'w World, families: &'w Families) -> Vec<Self> {
        let families = families.by_token.iter().map(|(token, tasks)| {
            let tasks: Vec<_> = tasks.iter().map(|at| &world.rows.tasks[*at]).collect();
            let ids: BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
            (ids, Self { token, tasks, attempts: Vec::new(), receptions: Vec::new() })
        });
        let mut families: Vec<_> = families.collect();
        let mut by_task = std::collections::BTreeMap::new();
        let mut by_token = std::collections::BTreeMap::new();
        for (at, (ids, family)) in families.iter().enumerate() {
            by_task.extend(ids.iter().map(|id| (*id, at)));
            by_token.insert(family.token, at);
        }
        for attempt in &world.rows.attempts {
            if let Some(at) = by_task.get(attempt.task_id.as_str()) {
                families[*at].1.attempts.push(attempt);
            }
        }
        for reception in &world.receptions {
            if let Some(at) = reception.token.as_deref().and_then(|token| by_token.get(token)) {
                families[*at].1.receptions.push(reception);
            }
        }
        families.into_iter().map(|(_, family)| family).collect()
    }

    /// The task that its caller knows.
    fn whole(&self) -> Option<&'w TaskRow> {
        self.tasks.iter().find(|task| task.parent_id.is_none()).copied()
    }

    /// What the ledger says of it: reserved, unresolved, settled.
    fn ledger(&self, world: &World) -> [i64; 3] {
        let ids: BTreeSet<&str> = self.tasks.iter().map(|task| task.id.as_str()).collect();
        let own = world.rows.books.iter().filter(|book| ids.contains(book.task_id.as_str()));
        own.fold([0; 3], |[reserved, unresolved, settled], book| {
            [reserved + book.reserved, unresolved + book.unresolved, settled + book.settled]
        })
    }

    /// How many upstream calls serve it: its parts, or itself.
    fn calls(&self) -> usize {
        self.tasks.iter().filter(|task| task.parent_id.is_some()).count().max(1)
    }
}

/// Dollars in nano-dollars, from the text or number that rows hold.
fn nanos(value: &Value) -> i64 {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let part: String = part.chars().chain("000000000".chars()).take(9).collect();
    whole.parse::<i64>().unwrap_or(0) * 1_000_000_000 + part.parse::<i64>().unwrap_or(0)
}

/// The most the caller lets the task cost, when it says so.
fn bound(task: &TaskRow) -> Option<i64> {
    let request: Value = serde_json::from_str(&task.request).unwrap_or_default();
    Some(&request["routing"]["max_cost_usd"]).filter(|most| !most.is_null()).map(nanos)
}

pub fn paid_at_most_once(world: &World, families: &Families) -> Finding {
    let mut finding = Finding::new("V3", "per task, what may have been paid for stays within its bound");
    for family in Family::all(world, families) {
        let paid: Vec<_> = family.receptions.iter().filter(|one| one.paid()).collect();
        let told = || {
            let seen: Vec<_> = paid
                .iter()
                .map(|one| (one.seq, one.provider.as_str(), one.outcome.as_str(), one.nanos))
                .collect();
            format!("{}: paid {} times for {} call(s): {seen:?}", family.token, paid.len(), family.calls())
        };
        match family.whole().and_then(bound) {
            Some(most) => {
                let billed: i64 = paid.iter().filter_map(|one| one.nanos).sum();
                finding.check(billed <= most, told);
            }
            // A server paid by the hour is sent a call of unknown outcome once more: that costs time, no money.
            None if paid.iter().all(|one| one.provider == "pipeline") => {
                finding.check(paid.len() <= 2 * family.calls(), told);
            }
            None => finding.check(paid.len() <= family.calls(), told),
        }
    }
    // One provider's id stands for one purchase.
    let mut seen = BTreeSet::new();
    for attempt in &world.rows.attempts {
        if let Some(handle) = &attempt.handle {
            finding
                .check(seen.insert((&attempt.provider, handle)), || format!("{handle} serves two attempts"));
        }
    }
    finding
}

pub fn written_before_sent(world: &World, families: &Families) -> Finding {
    let mut finding = Finding::new("V4", "every paid call has an attempt that was committed before it");
    for reception in &world.receptions {
        let known = reception.token.as_ref().is_some_and(|token| families.by_token.contains_key(token));
        finding.check(known, || format!("reception {} belongs to no task", reception.seq));
    }
    for family in Family::all(world, families) {
        // Attempts come in order of their intent: the n-th reception needs n of them before it.
        for (at, reception) in family.receptions.iter().enumerate() {
            // Both processes read the wall clock once, at their start; it may have been set between the two.
            let before = family.attempts.iter().filter(|one| one.started_at <= reception.at + 50).count();
            finding.check(before > at, || {
                format!("{}: reception {} came before its intent", family.token, reception.seq)
            });
            if let Some(planted) = reception.correlation.as_deref().filter(|text| text.starts_with("att_")) {
                finding.check(family.attempts.iter().any(|one| one.id == planted), || {
                    format!(
                        "{}: reception {} carries {planted}, which is not there",
                        family.token, reception.seq
                    )
                });
            }
        }
    }
    finding
}

pub fn no_picture_lost(world: &World, families: &Families) -> Finding {
    let mut finding = Finding::new(
        "V6",
        "a finished picture whose handle, link or answer came is stored as it was sent, or what came is in quarantine",
    );
    let quarantined: BTreeSet<&str> =
        world.rows.quarantined.iter().map(|row| row.attempt_id.as_str()).collect();
    for family in Family::all(world, families) {
        let ids: BTreeSet<&str> = family.tasks.iter().map(|task| task.id.as_str()).collect();
        let images = world.rows.images.iter().filter(|image| ids.contains(image.task_id.as_str()));
        let stored: BTreeSet<&str> = images.map(|image| image.sha256.as_str()).collect();
        for reception in family.receptions.iter().filter(|one| one.outcome == "completed") {
            let known = family.attempts.iter().any(|attempt| knows(attempt, reception));
            if !known {
                continue;
            }
            for (url, picture) in &reception.files {
                let sent = picture.sent();
                finding.check(sent.is_some_and(|sha256| stored.contains(sha256)), || {
                    format!("{}: {url} of reception {} is not here ({sent:?})", family.token, reception.seq)
                });
            }
        }
        for task in family.tasks.iter().filter(|task| task.phase == "succeeded") {
            finding.check(world.rows.images.iter().any(|image| image.task_id == task.id), || {
                format!("{} succeeded without a picture", task.id)
            });
        }
        for attempt in family.attempts.iter().filter(|attempt| answered_in_vain(attempt)) {
            finding.check(quarantined.contains(attempt.id.as_str()), || {
                format!("{}: what was answered to {} and gave no image is not kept", family.token, attempt.id)
            });
        }
    }
    finding
}

/// Whether an attempt's row shows that its call was answered, that no picture came of it, and that it may have been charged.
fn answered_in_vain(attempt: &AttemptRow) -> bool {
    let detail = attempt.detail();
    let status = detail["failure"]["provider"]["http_status"].as_i64();
    let answered = status.is_some_and(|status| (200..300).contains(&status));
    answered && detail["billed"] != "no" && attempt.state != "succeeded" && !attempt.open()
}

/// Whether an attempt's row shows that its provider's work for this reception can be found.
fn knows(attempt: &AttemptRow, reception: &Reception) -> bool {
    match (&attempt.handle, &reception.upstream_id) {
        (Some(handle), Some(id)) => handle == id,
        // Answers without a handle: the picture's link or bytes came, or nothing is known.
        _ => reception.upstream_id.is_none() && attempt.state == "succeeded",
    }
}

pub fn books_agree(world: &World, families: &Families) -> Finding {
    let mut finding =
        Finding::new("V8", "the gateway's books say what the provider billed, less what is unknown");
    for family in Family::all(world, families) {
        let Some(whole) = family.whole() else { continue };
        let billed: i64 = family.receptions.iter().filter_map(|one| one.nanos).sum();
        let state = whole.state();
        let (settled, unresolved) = (nanos(&state["cost"]["settled"]), nanos(&state["cost"]["unresolved"]));
        let unknown = family.attempts.iter().any(|one| one.detail()["billed"] == "unknown");
        let agree = if unknown { settled <= billed } else { settled == billed && unresolved == 0 };
        finding.check(agree, || {
            format!(
                "{} ({}): settled {settled}, unresolved {unresolved}, billed {billed}{}",
                family.token,
                whole.phase,
                if unknown { ", with an unknown outcome" } else { "" }
            )
        });
        let charged: i64 = family.attempts.iter().map(|one| nanos(&one.detail()["charged"])).sum();
        finding.check(settled == charged, || {
            format!("{}: settled {settled}, but its attempts were charged {charged}", family.token)
        });
        let [reserved, maybe, booked] = family.ledger(world);
        finding.check(booked == settled && maybe == unresolved, || {
            format!(
                "{}: settled {settled}, unresolved {unresolved}, but its ledger says {booked} and {maybe}",
                family.token
            )
        });
        finding.check(reserved == 0 || !whole.terminal(), || {
            format!("{}: {reserved} are set aside for a task that has ended", family.token)
        });
        for attempt in family.attempts.iter().filter(|_| whole.terminal()) {
            finding.check(!attempt.open(), || {
                format!("{} of an ended task is still {}", attempt.id, attempt.state)
            });
        }
    }
    finding
}
