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
