//! A task's books: what its attempts have cost for certain, and what those may have cost of which nobody can say.

use super::attempt::{Attempt, Billing};
use super::money::Usd;
use super::task::Task;

impl Task {
    /// Enters what became of an attempt into the task's books.
    pub fn book(&mut self, attempt: &Attempt) {
        self.state.booked = true;
        self.state.units = attempt.units.clone().or(self.state.units.take());
        let cost = &mut self.state.cost;
        match attempt.billed {
            Billing::No => {}
            Billing::Yes => cost.settled = cost.settled + attempt.charged.unwrap_or_default(),
            Billing::Unknown => {
                cost.unresolved = cost.unresolved + attempt.possible_charge.unwrap_or_default();
            }
        }
        self.state.billed = Some(match (self.billed(), attempt.billed) {
            (Billing::Yes, _) | (_, Billing::Yes) => Billing::Yes,
            (Billing::Unknown, _) | (_, Billing::Unknown) => Billing::Unknown,
            _ => Billing::No,
        });
    }

    /// Corrects the books when it turns out what became of an attempt that was entered as unknown.
    pub fn rebook(&mut self, before: &Attempt, after: &Attempt) {
        let cost = &mut self.state.cost;
        if before.billed == Billing::Unknown {
            cost.unresolved = cost.unresolved - before.possible_charge.unwrap_or_default();
        }
        if before.billed != Billing::Yes && after.billed == Billing::Yes {
            cost.settled = cost.settled + after.charged.unwrap_or_default();
        }
        self.state.billed = Some(match after.billed {
            _ if cost.unresolved > Usd::ZERO => self.billed(),
            _ if cost.settled > Usd::ZERO => Billing::Yes,
            billed => billed,
        });
    }

    /// Whether the task as a whole was charged for, over all its attempts.
    pub fn billed(&self) -> Billing {
        self.state.billed.unwrap_or(Billing::No)
    }
}
