//! What a run showed, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::checker::Finding;
use crate::fleet::LEASE;
use crate::freeze::Freezes;
use crate::nemesis::Kill;
use crate::ordeal::Outcome;
use crate::outage::{self, Outage};
use crate::rolling::Turn;

/// The invariants, a line each, with the first violations in full.
pub fn findings(findings: &[Finding]) -> String {
    let mut text = String::from("| | Invariant | Looked at | Violations |\n|---|---|---:|---:|\n");
    for one in findings {
        let _ = writeln!(text, "| {} | {} | {} | {} |", one.id, one.says, one.checked, one.violations.len());
    }
    for one in findings.iter().filter(|one| !one.violations.is_empty()) {
        let _ = writeln!(text, "\n{}:", one.id);
        for violation in one.violations.iter().take(20) {
            let _ = writeln!(text, "- {violation}");
        }
    }
    text
}

/// A run under load: what befell the gateways, in lines of its own, and what is left.
fn run(title: &str, command: &str, befell: &str, outcome: &Outcome) -> String {
    let verdict = if outcome.failed() { "violations were found" } else { "no violation" };
    let mut text = format!(
        "## {title}: {verdict}\n\n\
         Command: `{command}`\n\n\
         | | |\n|---|---:|\n\
         {befell}\
         | tasks submitted | {} |\n\
         | of them with right answers that were wrapped untidily | {} |\n\
         | paid POSTs received by the providers | {} |\n\
         | attempts interrupted between intent and answer | {} |\n\
         | seconds from the last of it until every task had ended | {:.1} |\n\
         | descriptors at rest, and after more of the same work | {} |\n\
         | pictures inside answers that a kill kept from being booked: files without an owner | {} |\n\
         | answers and files in quarantine, and copies of them that a kill left | {}, {} |\n\
         | half-written files, left for an hour where gateways may share the folder | {} |\n\
         | resident memory at the end, MiB | {} |\n\
         | the whole run, minutes | {:.1} |\n\n",
        outcome.asked.submitted,
        outcome.asked.untidy,
        outcome.receptions,
        outcome.interrupted,
        outcome.settled.as_secs_f64(),
        outcome.descriptors.map_or("not measured".to_owned(), |(before, after)| format!("{before}, {after}")),
        outcome.orphans,
        outcome.quarantined,
        outcome.copies,
        outcome.half_written,
        outcome.resident_kib / 1024,
        outcome.took.as_secs_f64() / 60.0,
    );
    text += "| Tasks that ended as | |\n|---|---:|\n";
    for (phase, count) in &outcome.ends {
        let _ = writeln!(text, "| {phase} | {count} |");
    }
    text + "\n" + &findings(&outcome.findings)
}

/// A run of kills.
pub fn kills(title: &str, command: &str, kills: &[Kill], outcome: &Outcome) -> String {
    let aimed = kills.iter().filter(|kill| kill.after_reception.is_some()).count();
    let befell = format!(
        "| kills (SIGKILL) | {} |\n\
         | of them within 5 ms after a paid POST reached the provider | {aimed} |\n\
         | seconds per cycle | {:.2} |\n\
         | seconds from kill to serving again | {:.2} |\n",
        kills.len(),
        mean(kills.iter().map(|kill| kill.cycle)),
        mean(kills.iter().map(|kill| kill.down)),
    );
    run(title, command, &befell, outcome) + "\n" + &by_phase("Kills", kills.iter().map(|kill| &kill.phases))
}

/// A run of freezes.
pub fn freezes(title: &str, command: &str, freezes: &Freezes, outcome: &Outcome) -> String {
    let all = &freezes.all;
    let aimed = all.iter().filter(|one| one.after_reception.is_some()).count();
    let befell = format!(
        "| freezes (SIGSTOP, later SIGCONT) | {} |\n\
         | of them within 5 ms after a paid POST reached the provider | {aimed} |\n\
         | seconds frozen, with a lease of {} s | {:.1} |\n\
         | seconds from the thaw until it served again, at worst | {:.2} |\n\
         | writes of thawed gateways that touched no row: another worker had the task | {} |\n\
         | steps of thawed gateways that the task's phase did not allow any more | {} |\n\
         | answers of providers that a thawed gateway alone had, kept after the task's end | {} |\n",
        all.len(),
        LEASE.as_secs(),
        mean(all.iter().map(|one| one.lasted)),
        worst(all.iter().map(|one| one.dazed)),
        freezes.fenced,
        freezes.too_late,
        freezes.late_results,
    );
    run(title, command, &befell, outcome) + "\n" + &by_phase("Freezes", all.iter().map(|one| &one.phases))
}

/// A run of outages.
pub fn outages(title: &str, command: &str, all: &[Outage], outcome: &Outcome) -> String {
    let aimed = all.iter().filter(|one| one.after_reception.is_some()).count();
    let (told, [half, most, slowest]) = outage::told(all);
    let resumed = || all.iter().flat_map(|one| one.resumed.iter().copied());
    let befell = format!(
        "| outages (pg_ctl -m immediate stop) | {} |\n\
         | of them within 5 ms after a paid POST reached the provider | {aimed} |\n\
         | seconds away | {:.1} |\n\
         | POSTs asked and refused while it was away | {told} |\n\
         | milliseconds until the refusal: median, 99 of 100, worst | {}, {}, {} |\n\
         | seconds from its return until a gateway took a task in: mean, worst | {:.2}, {:.2} |\n",
        all.len(),
        mean(all.iter().map(|one| one.away)),
        half.as_millis(),
        most.as_millis(),
        slowest.as_millis(),
        mean(resumed()),
        worst(resumed()),
    );
    run(title, command, &befell, outcome)
}

/// An upgrade.
pub fn rolling(title: &str, command: &str, turns: &[Turn], outcome: &Outcome) -> String {
    let befell = format!(
        "| gateways upgraded, one after the other | {} |\n\
         | seconds from SIGTERM to the end of the process, at worst | {:.2} |\n\
         | seconds from there until the new program served, migrations included, at worst | {:.2} |\n",
        turns.len(),
        worst(turns.iter().map(|turn| turn.drained)),
        worst(turns.iter().map(|turn| turn.started)),
    );
    run(title, command, &befell, outcome)
}

/// In seconds.
fn mean(all: impl Iterator<Item = Duration>) -> f64 {
    let (count, sum) = all.fold((0_u32, Duration::ZERO), |(count, sum), one| (count + 1, sum + one));
    sum.as_secs_f64() / f64::from(count.max(1))
}

/// In seconds.
fn worst(all: impl Iterator<Item = Duration>) -> f64 {
    all.max().unwrap_or_default().as_secs_f64()
}

fn by_phase<'a>(what: &str, all: impl Iterator<Item = &'a BTreeMap<String, i64>>) -> String {
    let mut hit: BTreeMap<&str, (usize, i64)> = BTreeMap::new();
    for phases in all {
        for (phase, count) in phases {
            let entry = hit.entry(phase).or_default();
            entry.0 += 1;
            entry.1 += count;
        }
    }
    let mut text = format!("| Phase | {what} that hit a task in it | Tasks hit |\n|---|---:|---:|\n");
    for (phase, (times, tasks)) in hit {
        let note = if phase == "submitting" { " (the intent window)" } else { "" };
        let _ = writeln!(text, "| {phase}{note} | {times} | {tasks} |");
    }
    text + "\n"
}

/// The machine, as far as a reader of the figures wants to know it.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cpus} cores, {} GiB of memory, Linux {}", kib / 1_048_576, kernel.trim())
}

/// Today, for the head of a report.
#[expect(clippy::disallowed_methods, reason = "a report carries the date of the wall clock")]
pub fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}
