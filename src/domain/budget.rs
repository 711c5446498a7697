//! Whether a key's budgets cover one more task: a pure rule over the sums of its ledger.

use std::fmt;

use super::key::Limits;
use super::ledger::Balance;
use super::money::Usd;

/// Which of a key's budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// The day's, UTC.
    Daily,
    /// The one for all time.
    Total,
}

/// A budget that does not cover a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Which.
    pub budget: Budget,
    /// How much it is.
    pub of: Usd,
    /// How much of it is left.
    pub left: Usd,
    /// How much the task may spend.
    pub needed: Usd,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, left, needed, .. } = self;
        match self.budget {
            Budget::Daily => write!(
                f,
                "this may cost ${needed}, and ${left} is left of this key's ${of} for today; the day ends at 00:00 UTC"
            ),
            Budget::Total => {
                write!(f, "this may cost ${needed}, and ${left} is left of this key's ${of} in all")
            }
        }
    }
}

impl Limits {
    /// The budget that does not cover a task that may spend `needed`, when `today` and `total` are the key's sums with
    /// that task counted in.
    pub fn short(&self, today: Balance, total: Balance, needed: Usd) -> Option<Short> {
        let budgets = [(Budget::Daily, self.daily_budget, today), (Budget::Total, self.budget, total)];
        budgets.into_iter().find_map(|(budget, of, with)| {
            let of = of?;
            let over = with.committed() > of;
            over.then(|| Short { budget, of, left: (of + needed - with.committed()).max(Usd::ZERO), needed })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> Usd {
        text.parse().unwrap()
    }

    #[test]
    fn a_budget_covers_what_is_reserved_unresolved_and_settled() {
        let limits = Limits { daily_budget: Some(usd("1")), budget: Some(usd("5")), ..Limits::default() };
        let full = Balance { reserved: usd("0.5"), unresolved: usd("0.3"), settled: usd("0.2") };
        assert_eq!(limits.short(full, full, usd("0.5")), None);
        let over = Balance { reserved: usd("0.500000001"), ..full };
        let short = limits.short(over, over, usd("0.1")).unwrap();
        assert_eq!((short.budget, short.left), (Budget::Daily, usd("0.099999999")));
        let total = Balance { settled: usd("5"), ..Balance::default() };
        let short = limits.short(full, total + full, usd("0.5")).unwrap();
        assert_eq!((short.budget, short.left), (Budget::Total, Usd::ZERO));
        assert_eq!(Limits::default().short(over, over, usd("9")), None);
    }

    #[test]
    fn what_is_left_is_told_in_dollars() {
        let limits = Limits { budget: Some(usd("0.01")), ..Limits::default() };
        let with = Balance { reserved: usd("0.0115"), ..Balance::default() };
        let short = limits.short(Balance::default(), with, usd("0.0015")).unwrap();
        assert_eq!(short.to_string(), "this may cost $0.0015, and $0 is left of this key's $0.01 in all");
    }
}
