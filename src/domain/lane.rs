//! A provider account as all replicas see it, [`LaneState`]: how many tasks it takes at once, whether it rests, and the circuits that keep
//! tasks away from a model that fails. Pure: outcomes and moments go in, admissions come out.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Millis;

/// Failures in a row that open a circuit.
const IN_A_ROW: u32 = 5;
/// In a window of this length…
const WINDOW: Duration = Duration::from_mins(1);
/// …this many outcomes, more than half of them failures, open it too.
const ENOUGH: u32 = 20;
/// How long a circuit stays open at first; it doubles each time its probe fails.
const OPEN: Duration = Duration::from_secs(10);
/// The longest it stays open: whatever is wrong with a provider, half a minute after it is well again it is found to be.
const OPEN_MOST: Duration = Duration::from_secs(30);
/// While one task probes, the others look again after so long.
const PROBING: Duration = Duration::from_secs(5);
/// A probe that is not heard of for this long is slow, or was lost with its worker: another one may try.
const PROBE_LOST: Duration = Duration::from_secs(30);
/// How long a limit that the provider named is believed.
const CEILING_HOLDS: Duration = Duration::from_hours(1);
/// The longest rest that is kept, whoever asked for it.
pub const PAUSE_MOST: Duration = Duration::from_mins(15);
/// The circuit that stands for the account as a whole.
const ACCOUNT: &str = "*";

/// A provider account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneState {
    /// How many tasks it takes at once, when that is fewer than configured.
    cap: Option<u32>,
    /// Successes since the cap last grew.
    grown: u32,
    /// A limit the provider named, and until when it is believed.
    ceiling: Option<(u32, i64)>,
    /// Until when the account rests.
    paused_until: Option<i64>,
    /// By model; the account as a whole under `*`. Closed circuits without failures are left out.
    circuits: BTreeMap<String, Circuit>,
}

/// What keeps tasks away from a model that fails.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Circuit {
    in_a_row: u32,
    window_from: i64,
    good: u32,
    bad: u32,
    open_until: Option<i64>,
    opened: u32,
    probe_since: Option<i64>,
}

/// What became of an attempt, for the lane's purposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It worked.
    Good,
    /// The provider has taken it on: it is there, and takes tasks. What becomes of the task is another matter.
    Accepted,
    /// It failed in a way that speaks against the model's health.
    Sick,
    /// It failed on its own account, which the request may have brought about: it counts, but a few in a row prove nothing.
    Poor,
    /// The account as a whole is of no use: its key or its credit is refused, or it is not who it should be.
    Refused,
    /// The account is to be left alone for so long.
    Pause(Duration),
    /// Too many at once; the provider may have named its limit.
    Crowded(Option<u32>, Duration),
    /// It says nothing about health.
    Neutral,
}

/// Whether a task may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Free,
    /// It may, as the one task that finds out whether things are well again.
    Probe,
    /// Not before this moment.
    Closed(Millis),
}

impl LaneState {
    /// How many tasks may be at the provider at once, of `configured`.
    pub fn limit(&self, configured: u32, now: Millis) -> u32 {
        let ceiling =
            self.ceiling.filter(|(_, until)| now.0 < *until).map_or(u32::MAX, |(ceiling, _)| ceiling);
        configured.min(ceiling).min(self.cap.unwrap_or(u32::MAX)).max(1)
    }

    /// Until when the account rests, when it does.
    pub fn paused_until(&self, now: Millis) -> Option<Millis> {
        self.paused_until.filter(|until| now.0 < *until).map(Millis)
    }

    /// Whether a task for `model` may be sent.
    pub fn admit(&self, model: &str, now: Millis) -> Admission {
        if let Some(until) = self.paused_until(now) {
            return Admission::Closed(until);
        }
        let mut admission = Admission::Free;
        for circuit in [ACCOUNT, model].into_iter().filter_map(|name| self.circuits.get(name)) {
            let Some(until) = circuit.open_until else { continue };
            if now.0 < until {
                return Admission::Closed(Millis(until));
            }
            match circuit.probe_since {
                Some(since) if now.since(Millis(since)) < PROBE_LOST => {
                    return Admission::Closed(now + PROBING);
                }
                _ => admission = Admission::Probe,
            }
        }
        admission
    }

    /// Until when circuits keep tasks for `model` away; `None` also while one task finds out whether they still must.
    pub fn shut(&self, model: &str, now: Millis) -> Option<Millis> {
        let circuits = [ACCOUNT, model].into_iter().filter_map(|name| self.circuits.get(name));
        circuits.filter_map(|circuit| circuit.open_until).filter(|until| now.0 < *until).max().map(Millis)
    }

    /// Whether a task is finding out just now whether the account as a whole is well again.
    pub fn probing(&self, now: Millis) -> bool {
        let since = self.circuits.get(ACCOUNT).and_then(|circuit| circuit.probe_since);
        since.is_some_and(|since| now.since(Millis(since)) < PROBE_LOST)
    }

    /// Marks that a probe for `model` is under way.
    pub fn probe(&mut self, model: &str, now: Millis) {
        for name in [ACCOUNT, model] {
            if let Some(circuit) = self.circuits.get_mut(name).filter(|circuit| circuit.open_until.is_some())
            {
                circuit.probe_since = Some(now.0);
            }
        }
    }

    /// Takes note of an outcome.
    pub fn note(&mut self, model: &str, outcome: Outcome, configured: u32, now: Millis) {
        match outcome {
            Outcome::Good => {
                self.circuits.remove(ACCOUNT);
                let circuit = self.circuits.entry(model.to_owned()).or_default();
                circuit.good(now);
                if circuit.bad == 0 {
                    self.circuits.remove(model);
                }
                self.grow(configured);
            }
            Outcome::Accepted => self.close(Some(model)),
            Outcome::Sick => self.circuits.entry(model.to_owned()).or_default().bad(true, now),
            Outcome::Poor => self.circuits.entry(model.to_owned()).or_default().bad(false, now),
            Outcome::Refused => self.circuits.entry(ACCOUNT.to_owned()).or_default().open(now),
            Outcome::Pause(rest) => self.pause(rest, now),
            Outcome::Crowded(named, rest) => {
                if let Some(limit) = named.filter(|limit| *limit > 0) {
                    self.ceiling = Some((limit, (now + CEILING_HOLDS).0));
                }
                self.cap = Some((self.cap.unwrap_or(configured) / 2).max(1));
                self.grown = 0;
                self.pause(rest, now);
            }
            Outcome::Neutral => {}
        }
        if !matches!(outcome, Outcome::Good | Outcome::Accepted | Outcome::Sick | Outcome::Poor) {
            // A probe that met something else has found nothing out: the next task may try.
            for circuit in self.circuits.values_mut() {
                circuit.probe_since = None;
            }
        }
    }

    /// Closes the circuits that are open: of the account, and of this model or of all.
    fn close(&mut self, model: Option<&str>) {
        let named = |name: &str| name == ACCOUNT || model.is_none_or(|model| model == name);
        self.circuits.retain(|name, circuit| circuit.open_until.is_none() || !named(name));
    }

    /// Forgets what was held against the account because of its key: it has another one.
    pub fn reopen(&mut self) {
        self.close(None);
        self.paused_until = None;
    }

    /// The same with no moment further away than it can be: a clock that was ahead for a while leaves nothing behind.
    #[must_use]
    pub fn bounded(mut self, now: Millis) -> Self {
        let most = |at: &mut i64, span: Duration| *at = (*at).min((now + span).0);
        self.paused_until.iter_mut().for_each(|until| most(until, PAUSE_MOST));
        self.ceiling.iter_mut().for_each(|(_, until)| most(until, CEILING_HOLDS));
        for circuit in self.circuits.values_mut() {
            circuit.open_until.iter_mut().for_each(|until| most(until, OPEN_MOST));
            circuit.probe_since.iter_mut().for_each(|since| most(since, Duration::ZERO));
            most(&mut circuit.window_from, Duration::ZERO);
        }
        self
    }

    /// Whether nothing is held against the account: then an outcome that is not bad need not be written down.
    pub fn is_well(&self) -> bool {
        self.cap.is_none() && self.circuits.is_empty()
    }

    /// Whether some circuit is open, and until when.
    pub fn open_until(&self, now: Millis) -> Option<Millis> {
        let open = self.circuits.values().filter_map(|circuit| circuit.open_until);
        open.filter(|until| now.0 < *until).max().map(Millis)
    }

    /// A word for people: `healthy`, `probing`, `open`, `paused`.
    pub fn word(&self, now: Millis) -> &'static str {
        if self.open_until(now).is_some() {
            "open"
        } else if self.circuits.values().any(|circuit| circuit.open_until.is_some()) {
            "probing"
        } else if self.paused_until(now).is_some() {
            "paused"
        } else {
            "healthy"
        }
    }

    fn pause(&mut self, rest: Duration, now: Millis) {
        // Never shortened: a later, shorter wish does not undo an earlier, longer one.
        self.paused_until = Some(self.paused_until.unwrap_or(0).max((now + rest).0));
    }

    /// One more at once after as many successes as there are at once.
    fn grow(&mut self, configured: u32) {
        let Some(cap) = self.cap else { return };
        self.grown += 1;
        if self.grown >= cap {
            self.grown = 0;
            self.cap = Some(cap + 1).filter(|cap| *cap < configured);
        }
    }
}

impl Circuit {
    fn roll(&mut self, now: Millis) {
        if now.since(Millis(self.window_from)) >= WINDOW {
            (self.window_from, self.good, self.bad) = (now.0, 0, 0);
        }
    }

    fn good(&mut self, now: Millis) {
        self.roll(now);
        self.good += 1;
        self.in_a_row = 0;
        if self.open_until.is_some() {
            *self = Self::default();
        }
    }

    fn bad(&mut self, sick: bool, now: Millis) {
        self.roll(now);
        self.bad += 1;
        self.in_a_row += u32::from(sick);
        let total = self.good + self.bad;
        let failed_probe = self.open_until.is_some_and(|until| now.0 >= until);
        if failed_probe || self.in_a_row >= IN_A_ROW || (total >= ENOUGH && self.bad * 2 > total) {
            self.open(now);
        }
    }

    fn open(&mut self, now: Millis) {
        if self.open_until.is_some_and(|until| now.0 < until) {
            return;
        }
        let span = OPEN.saturating_mul(1 << self.opened.min(10)).min(OPEN_MOST);
        self.opened += 1;
        self.in_a_row = 0;
        self.probe_since = None;
        self.open_until = Some((now + span).0);
    }
}
