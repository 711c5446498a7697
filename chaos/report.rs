//! What a run showed, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::checker::Finding;
use crate::kills::Outcome;
use crate::nemesis::Kill;

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

/// A run of kills.
pub fn kills(title: &str, command: &str, outcome: &Outcome) -> String {
    let Outcome { kills, .. } = outcome;
    let verdict = if outcome.failed() { "violations were found" } else { "no violation" };
    let cycles: Duration = kills.iter().map(|kill| kill.cycle).sum();
    let down: Duration = kills.iter().map(|kill| kill.down).sum();
    let count = u32::try_from(kills.len()).unwrap_or(u32::MAX).max(1);
    let aimed = kills.iter().filter(|kill| kill.after_reception.is_some()).count();
    let mut text = format!(
        "## {title}: {verdict}\n\n\
         Command: `{command}`\n\n\
         | | |\n|---|---:|\n\
         | kills (SIGKILL) | {} |\n\
         | of them within 5 ms after a paid POST reached the provider | {aimed} |\n\
         | seconds per cycle | {:.2} |\n\
         | seconds from kill to serving again | {:.2} |\n\
         | tasks submitted | {} |\n\
         | paid POSTs received by the providers | {} |\n\
         | attempts interrupted between intent and answer | {} |\n\
         | seconds from the last kill until every task had ended | {:.1} |\n\
         | descriptors at rest, and after more of the same work | {} |\n\
         | pictures inside answers that a kill kept from being booked: files without an owner | {} |\n\
         | half-written files, left for an hour where gateways may share the folder | {} |\n\
         | resident memory at the end, MiB | {} |\n\
         | the whole run, minutes | {:.1} |\n\n",
        kills.len(),
        cycles.as_secs_f64() / f64::from(count),
        down.as_secs_f64() / f64::from(count),
        outcome.submitted,
        outcome.receptions,
        outcome.interrupted,
        outcome.settled.as_secs_f64(),
        outcome.descriptors.map_or("not measured".to_owned(), |(before, after)| format!("{before}, {after}")),
        outcome.orphans,
        outcome.half_written,
        outcome.resident_kib / 1024,
        outcome.took.as_secs_f64() / 60.0,
    );
    text += &by_phase(kills);
    text += "| Tasks that ended as | |\n|---|---:|\n";
    for (phase, count) in &outcome.ends {
        let _ = writeln!(text, "| {phase} | {count} |");
    }
    text + "\n" + &findings(&outcome.findings)
}

fn by_phase(kills: &[Kill]) -> String {
    let mut hit: BTreeMap<&str, (usize, i64)> = BTreeMap::new();
    for kill in kills {
        for (phase, count) in &kill.phases {
            let entry = hit.entry(phase).or_default();
            entry.0 += 1;
            entry.1 += count;
        }
    }
    let mut text = String::from("| Phase | Kills that hit a task in it | Tasks hit |\n|---|---:|---:|\n");
    for (phase, (kills, tasks)) in hit {
        let note = if phase == "submitting" { " (the intent window)" } else { "" };
        let _ = writeln!(text, "| {phase}{note} | {kills} | {tasks} |");
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
