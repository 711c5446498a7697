//! The ledger's lines and sums. Money stands on one of three accounts: reserved for what a task may yet spend, unresolved
//! where a provider may have charged, settled where one did. A line moves money between them and says why; `books.rs`
//! has the rules by which a task's lines are made, so that their sum is always what the task says it costs.

use std::iter::Sum;
use std::ops::{Add, Sub};

use super::attempt::{Attempt, Billing};
use super::id::AttemptId;
use super::money::Usd;

/// Why money moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A task was accepted: what it may spend.
    Reserve,
    /// An attempt ended: what it cost, out of the reservation.
    Settle,
    /// The task ended: what is left of its reservation.
    Release,
    /// Learned after an attempt was settled: it was charged, or charged otherwise than thought.
    Late,
    /// Learned after an attempt was settled: it was not charged.
    Refund,
    /// An operator said whether an attempt was charged.
    Mark,
}

impl EntryKind {
    /// Its name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Settle => "settle",
            Self::Release => "release",
            Self::Late => "late",
            Self::Refund => "refund",
            Self::Mark => "mark",
        }
    }
}

/// What stands on the three accounts, or by how much a line changes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// Set aside for tasks that have not ended.
    pub reserved: Usd,
    /// The most that attempts of unknown billing may have cost.
    pub unresolved: Usd,
    /// What attempts have cost for certain.
    pub settled: Usd,
}

impl Balance {
    /// What an attempt counts as, once it is over.
    pub fn of(attempt: &Attempt) -> Self {
        let mut balance = Self::default();
        match attempt.billed {
            Billing::No => {}
            Billing::Yes => balance.settled = attempt.charged.unwrap_or_default(),
            Billing::Unknown => balance.unresolved = attempt.possible_charge.unwrap_or_default(),
        }
        balance
    }

    /// All of it: what a budget has to cover.
    pub fn committed(self) -> Usd {
        self.reserved + self.unresolved + self.settled
    }

    /// Whether it changes nothing.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl Add for Balance {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            reserved: self.reserved + other.reserved,
            unresolved: self.unresolved + other.unresolved,
            settled: self.settled + other.settled,
        }
    }
}

impl Sub for Balance {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            reserved: self.reserved - other.reserved,
            unresolved: self.unresolved - other.unresolved,
            settled: self.settled - other.settled,
        }
    }
}

impl Sum for Balance {
    fn sum<I: Iterator<Item = Self>>(balances: I) -> Self {
        balances.fold(Self::default(), Add::add)
    }
}

/// One line. Whose it is, the task that it belongs to says.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Why.
    pub kind: EntryKind,
    /// The attempt it is about; `None`: the task.
    pub attempt: Option<AttemptId>,
    /// Provider id.
    pub provider: String,
    /// What is known of the attempt's billing from here on.
    pub billed: Option<Billing>,
    /// By the catalogue, on the line that opens a task.
    pub estimated: Option<Usd>,
    /// By how much the accounts change.
    pub change: Balance,
}
