//! A provider account as all replicas see it, [`LaneState`]: how many tasks it takes at once, whether it rests, and the circuits that keep
//! tasks away from a model that fails. Pure: outcomes and moments go in, admissions come out.

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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000_000);

    fn after(seconds: u64) -> Millis {
        NOW + Duration::from_secs(seconds)
    }

    #[test]
    fn five_failures_in_a_row_open_the_circuit_of_that_model() {
        let mut lane = LaneState::default();
        for _ in 0..4 {
            lane.note("a", Outcome::Sick, 8, NOW);
        }
        assert_eq!(lane.admit("a", NOW), Admission::Free);
        lane.note("a", Outcome::Sick, 8, NOW);
        assert_eq!(lane.admit("a", NOW), Admission::Closed(after(10)));
        assert_eq!(lane.admit("b", NOW), Admission::Free);
        assert_eq!(lane.word(NOW), "open");
    }

    #[test]
    fn one_real_task_probes_and_decides() {
        let mut lane = LaneState::default();
        (0..5).for_each(|_| lane.note("a", Outcome::Sick, 8, NOW));
        assert_eq!(lane.admit("a", after(10)), Admission::Probe);
        lane.probe("a", after(10));
        assert_eq!(lane.admit("a", after(11)), Admission::Closed(after(16)), "one probe at a time");
        lane.note("a", Outcome::Sick, 8, after(12));
        assert_eq!(lane.admit("a", after(13)), Admission::Closed(after(32)), "twice as long");
        lane.probe("a", after(32));
        lane.note("a", Outcome::Good, 8, after(33));
        assert_eq!((lane.admit("a", after(33)), lane.is_well()), (Admission::Free, true));
        // A probe that is slow, or whose worker died, does not keep the circuit open.
        (0..5).for_each(|_| lane.note("a", Outcome::Sick, 8, after(100)));
        lane.probe("a", after(110));
        assert_eq!(lane.admit("a", after(110) + PROBE_LOST), Admission::Probe);
        // Nor for longer than half a minute, however often it fails.
        (0..9).for_each(|at| lane.note("a", Outcome::Sick, 8, after(200 + 40 * at)));
        assert_eq!(lane.admit("a", after(521)), Admission::Closed(after(550)));
    }

    #[test]
    fn what_a_provider_takes_on_closes_the_circuit_before_it_is_done() {
        for outcome in [Outcome::Sick, Outcome::Refused] {
            let mut lane = LaneState::default();
            (0..5).for_each(|_| lane.note("a", outcome, 8, NOW));
            lane.probe("a", after(10));
            lane.note("a", Outcome::Accepted, 8, after(11));
            assert_eq!(lane.admit("a", after(11)), Admission::Free, "{outcome:?}");
        }
    }

    #[test]
    fn a_clock_that_was_ahead_leaves_nothing_behind() {
        let (ahead, mut lane) = (after(7 * 86_400), LaneState::default());
        (0..5).for_each(|_| lane.note("a", Outcome::Sick, 8, ahead));
        lane.note("a", Outcome::Refused, 8, ahead);
        lane.note("a", Outcome::Crowded(Some(2), Duration::from_hours(3)), 8, ahead);
        lane.probe("a", ahead);
        assert!(matches!(lane.admit("a", NOW), Admission::Closed(until) if until > after(86_400)));
        let lane = lane.bounded(NOW);
        assert_eq!(lane.admit("a", NOW), Admission::Closed(NOW + PAUSE_MOST));
        assert_eq!(lane.limit(8, NOW + CEILING_HOLDS), 4);
        let at = NOW + PAUSE_MOST;
        assert_eq!(lane.bounded(at).admit("a", at), Admission::Probe);
    }

    #[test]
    fn more_than_half_of_twenty_in_a_minute_open_it_too() {
        let mut lane = LaneState::default();
        for at in 0..19 {
            let outcome = if at % 2 == 0 { Outcome::Sick } else { Outcome::Good };
            lane.note("a", outcome, 8, NOW);
        }
        assert_eq!(lane.admit("a", NOW), Admission::Free);
        lane.note("a", Outcome::Sick, 8, NOW);
        assert_eq!(lane.admit("a", NOW), Admission::Closed(after(10)));
    }

    #[test]
    fn failed_tasks_in_a_row_open_nothing_until_they_are_most_of_many() {
        let mut lane = LaneState::default();
        (0..19).for_each(|_| lane.note("a", Outcome::Poor, 8, NOW));
        assert_eq!(lane.admit("a", NOW), Admission::Free);
        lane.note("a", Outcome::Poor, 8, NOW);
        assert_eq!(lane.admit("a", NOW), Admission::Closed(after(10)));
    }

    #[test]
    fn a_rest_is_never_shortened_and_a_refused_account_closes_as_a_whole() {
        let mut lane = LaneState::default();
        lane.note("a", Outcome::Pause(Duration::from_mins(1)), 8, NOW);
        lane.note("a", Outcome::Pause(Duration::from_secs(5)), 8, NOW);
        assert_eq!(lane.admit("b", NOW), Admission::Closed(after(60)));
        let mut lane = LaneState::default();
        lane.note("a", Outcome::Refused, 8, NOW);
        assert_eq!(lane.admit("b", NOW), Admission::Closed(after(10)));
    }

    #[test]
    fn crowding_halves_and_successes_bring_back_one_by_one() {
        let mut lane = LaneState::default();
        lane.note("a", Outcome::Crowded(None, Duration::ZERO), 8, NOW);
        assert_eq!(lane.limit(8, NOW), 4);
        (0..4).for_each(|_| lane.note("a", Outcome::Good, 8, NOW));
        assert_eq!(lane.limit(8, NOW), 5);
        lane.note("a", Outcome::Crowded(Some(2), Duration::ZERO), 8, NOW);
        assert_eq!(lane.limit(8, NOW), 2);
        (0..100).for_each(|_| lane.note("a", Outcome::Good, 8, NOW));
        assert_eq!((lane.limit(8, NOW), lane.limit(8, NOW + CEILING_HOLDS)), (2, 8));
    }
}
