//! Admissions by outcomes and moments.

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
