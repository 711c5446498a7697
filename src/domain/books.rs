//! A task's books: what is set aside for it, what its attempts have cost for certain, and what those may have cost of which
//! nobody can say. Each change answers with the ledger's line for it.

use super::attempt::{Attempt, Billing};
use super::ledger::{Balance, Entry, EntryKind};
use super::money::Usd;
use super::task::Task;

impl Task {
    /// The line that opens a task: what is set aside for it. A task divided into parts has no lines of its own; its parts
    /// have.
    pub fn opening(&self) -> Option<Entry> {
        let change = Balance { reserved: self.state.cost.reserved, ..Balance::default() };
        let estimated = self.state.cost.estimated;
        (self.state.parts == 0).then(|| Entry { estimated, ..self.line(EntryKind::Reserve, change) })
    }

    /// Enters what became of an attempt into the task's books: what it cost comes out of what was set aside.
    pub fn book(&mut self, attempt: &Attempt) -> Entry {
        self.state.booked = true;
        self.state.units = attempt.units.clone().or(self.state.units.take());
        let mut change = Balance::of(attempt);
        let used = change.committed().min(self.state.cost.reserved);
        change.reserved = Usd::ZERO - used;
        self.enter(change);
        self.state.billed = Some(match (self.billed(), attempt.billed) {
            (Billing::Yes, _) | (_, Billing::Yes) => Billing::Yes,
            (Billing::Unknown, _) | (_, Billing::Unknown) => Billing::Unknown,
            _ => Billing::No,
        });
        self.line_about(EntryKind::Settle, attempt, change)
    }

    /// Gives back what is left of what was set aside; `None` when nothing is.
    pub fn release(&mut self) -> Option<Entry> {
        let change = Balance { reserved: Usd::ZERO - self.state.cost.reserved, ..Balance::default() };
        self.enter(change);
        (self.state.parts == 0 && !change.is_zero()).then(|| self.line(EntryKind::Release, change))
    }

    /// Corrects the books when more is learned of an attempt that was entered; `None` when that changes nothing.
    pub fn rebook(&mut self, before: &Attempt, after: &Attempt, kind: EntryKind) -> Option<Entry> {
        let change = Balance::of(after) - Balance::of(before);
        self.enter(change);
        let cost = &self.state.cost;
        let billed = match after.billed {
            _ if cost.unresolved > Usd::ZERO => self.billed(),
            _ if cost.settled > Usd::ZERO => Billing::Yes,
            billed => billed,
        };
        self.state.billed = Some(billed);
        if let Some(failure) = &mut self.state.failure {
            failure.billed = billed;
        }
        let changed = !change.is_zero() || before.billed != after.billed;
        changed.then(|| self.line_about(kind, after, change))
    }

    /// Whether the task as a whole was charged for, over all its attempts.
    pub fn billed(&self) -> Billing {
        self.state.billed.unwrap_or(Billing::No)
    }

    fn enter(&mut self, change: Balance) {
        let cost = &mut self.state.cost;
        cost.reserved = cost.reserved + change.reserved;
        cost.unresolved = cost.unresolved + change.unresolved;
        cost.settled = cost.settled + change.settled;
    }

    fn line(&self, kind: EntryKind, change: Balance) -> Entry {
        let provider = self.lane.clone();
        Entry { kind, attempt: None, provider, billed: None, estimated: None, change }
    }

    fn line_about(&self, kind: EntryKind, attempt: &Attempt, change: Balance) -> Entry {
        let (provider, billed) = (attempt.provider.clone(), Some(attempt.billed));
        Entry { attempt: Some(attempt.id), provider, billed, ..self.line(kind, change) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::attempt::{AttemptState, Verdict};
    use crate::domain::clock::{Millis, TestClock};
    use crate::domain::id::{AttemptId, TaskId};
    use crate::domain::request::{GenerateRequest, Operation};
    use crate::domain::state::{Cost, State};
    use crate::domain::task::Phase;

    fn task(reserved: Usd) -> Task {
        let cost = Cost { estimated: Some(reserved), bound: Some(reserved), reserved, ..Cost::default() };
        Task {
            id: TaskId::mint(&TestClock::at(Millis(1))),
            parent: None,
            tenant: "t".into(),
            key: "k".into(),
            idempotency_key: None,
            fingerprint: String::new(),
            request: GenerateRequest::default(),
            model: "m".into(),
            operation: Operation::TextToImage,
            phase: Phase::Queued,
            lane: "p".into(),
            rank: 0,
            version: 1,
            wake_at: None,
            created_at: Millis(1),
            started_at: None,
            finished_at: None,
            start_by: Millis(2),
            deadline_at: Millis(3),
            state: State { cost, ..State::default() },
        }
    }

    fn attempt(number: u32, possible: Option<Usd>, verdict: Verdict) -> Attempt {
        let mut attempt = Attempt {
            id: AttemptId::mint(&TestClock::at(Millis(1))),
            task: TaskId::mint(&TestClock::at(Millis(1))),
            number,
            provider: "p".into(),
            provider_model: "m".into(),
            reason: String::new(),
            state: AttemptState::Intent,
            billed: Billing::Unknown,
            evidence: String::new(),
            possible_charge: possible,
            charged: None,
            units: None,
            handle: None,
            upstream: String::new(),
            sent: Vec::new(),
            failed_since: None,
            made_verdict: None,
            failure: None,
            token_hash: None,
            made: Vec::new(),
            look_at: None,
            lacking_since: None,
            started_at: Millis(1),
            finished_at: None,
        };
        attempt.close(AttemptState::Failed, verdict, Millis(2));
        attempt
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        let billed = prop_oneof![Just(Billing::No), Just(Billing::Yes), Just(Billing::Unknown)];
        (billed, proptest::option::of(0i64..3_000)).prop_map(|(billed, charged)| Verdict {
            charged: charged.map(Usd::from_nanos),
            ..Verdict::new(billed, "")
        })
    }

    /// Attempts with what they may cost, what is said at their end and, of some, what is said later.
    fn life() -> impl Strategy<Value = Vec<(Option<i64>, Verdict, Vec<Verdict>)>> {
        let later = proptest::collection::vec(verdict(), 0..3);
        proptest::collection::vec((proptest::option::of(0i64..2_000), verdict(), later), 0..6)
    }

    proptest! {
        /// Whatever attempts come to and whatever is learned of them later: the lines' sum is what the task says it costs,
        /// that is what its attempts count as now, and once it has ended nothing stays set aside.
        #[test]
        fn the_lines_add_up_to_the_books(reserved in 0i64..4_000, life in life()) {
            let mut task = task(Usd::from_nanos(reserved));
            let mut lines: Vec<Entry> = task.opening().into_iter().collect();
            let mut attempts = Vec::new();
            for (number, (possible, verdict, _)) in (1..).zip(&life) {
                let attempt = attempt(number, possible.map(Usd::from_nanos), verdict.clone());
                lines.push(task.book(&attempt));
                attempts.push(attempt);
                prop_assert!(task.state.cost.reserved >= Usd::ZERO);
                prop_assert_eq!(sum(&lines), books(&task));
            }
            lines.extend(task.release());
            lines.extend(task.release());
            prop_assert_eq!(task.state.cost.reserved, Usd::ZERO);
            for (attempt, (_, _, later)) in attempts.iter_mut().zip(&life) {
                for verdict in later {
                    let before = attempt.clone();
                    attempt.judge(verdict.clone());
                    lines.extend(task.rebook(&before, attempt, EntryKind::Late));
                }
            }
            prop_assert_eq!(sum(&lines), books(&task));
            prop_assert_eq!(books(&task), attempts.iter().map(Balance::of).sum::<Balance>());
        }

        /// As long as attempts stay within what is set aside, no step makes the task count for more than that.
        #[test]
        fn what_is_set_aside_is_the_most_a_task_counts_for(life in life()) {
            let price = Usd::from_nanos(2_000);
            let mut task = task(price * 2);
            for (number, (possible, verdict, _)) in (1..).zip(life) {
                let possible = possible.map(Usd::from_nanos);
                if possible.is_none_or(|possible| possible > task.state.cost.reserved) {
                    continue;
                }
                let verdict = Verdict { charged: None, ..verdict };
                task.book(&attempt(number, possible, verdict));
                prop_assert_eq!(books(&task).committed(), price * 2);
            }
        }
    }

    fn sum(lines: &[Entry]) -> Balance {
        lines.iter().map(|line| line.change).sum()
    }

    fn books(task: &Task) -> Balance {
        let cost = task.state.cost;
        Balance { reserved: cost.reserved, unresolved: cost.unresolved, settled: cost.settled }
    }

    #[test]
    fn a_task_in_parts_has_no_lines_of_its_own() {
        let mut whole = task(Usd::from_nanos(10));
        whole.state.parts = 2;
        assert_eq!((whole.opening(), whole.release()), (None, None));
        assert_eq!(whole.state.cost.reserved, Usd::ZERO);
    }

    #[test]
    fn what_is_learned_twice_is_entered_once() {
        let mut task = task(Usd::from_nanos(10));
        let unknown = attempt(1, Some(Usd::from_nanos(10)), Verdict::new(Billing::Unknown, ""));
        task.book(&unknown);
        let mut known = unknown.clone();
        known.judge(Verdict::new(Billing::No, ""));
        let line = task.rebook(&unknown, &known, EntryKind::Refund).unwrap();
        assert_eq!(line.change.unresolved, Usd::from_nanos(-10));
        assert_eq!(task.rebook(&known, &known, EntryKind::Refund), None);
        assert_eq!(task.billed(), Billing::No);
    }
}
