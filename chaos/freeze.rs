//! Freezes one gateway with SIGSTOP past its leases while the others go on, half of the time 0 to 5 ms after a paid POST has
//! reached the provider, and thaws it: it wakes in the middle of what it was at and knows of no time that has passed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::fleet::{Fleet, LEASE};
use crate::nemesis::{aim, lull, phases};

/// What a thawed gateway says of a write that touched no row.
const FENCED: &str = "another worker has taken the task over";
/// …of a step that may not follow any more.
const TOO_LATE: &str = "a step came too late";
/// …of a provider's answer that it alone had, entered after the task's end.
const LATE_RESULT: &str = "what became of an attempt was learned after its task had ended";

/// One freeze, and what it hit.
#[derive(Debug, Clone)]
pub struct Freeze {
    /// Whether it followed a line of the ledger, and after how many microseconds it was aimed.
    pub after_reception: Option<u64>,
    /// How many tasks stood in each open phase.
    pub phases: BTreeMap<String, i64>,
    /// How long it lasted.
    pub lasted: Duration,
    /// From the thaw until the gateway served again.
    pub dazed: Duration,
}

/// What thawed gateways did, as their logs tell.
#[derive(Debug, Clone)]
pub struct Freezes {
    pub all: Vec<Freeze>,
    /// Writes that touched no row, because another worker had the task.
    pub fenced: usize,
    /// Steps that were not written, because the task's phase did not allow them any more.
    pub too_late: usize,
    /// Answers to paid calls that were kept although their tasks had ended without them.
    pub late_results: usize,
}

/// Freezes one of the gateways `count` times.
pub async fn rage(fleet: &mut Fleet, count: usize) -> Result<Freezes> {
    let mut all = Vec::with_capacity(count);
    for n in 0..count {
        let at = fastrand::usize(..fleet.replicas());
        let after_reception = if n % 2 == 0 { aim(&fleet.ledger()).await? } else { lull().await };
        fleet.gateway(at)?.freeze()?;
        let frozen = Instant::now();
        let phases = phases(fleet).await?;
        // Past the lease, and long enough for another gateway to notice and to act.
        let until = LEASE + Duration::from_millis(fastrand::u64(1_000..3_000));
        tokio::time::sleep(until.saturating_sub(frozen.elapsed())).await;
        fleet.gateway(at)?.thaw()?;
        let (lasted, thawed) = (frozen.elapsed(), Instant::now());
        fleet.ready(at).await?;
        all.push(Freeze { after_reception, phases, lasted, dazed: thawed.elapsed() });
        if (n + 1) % 10 == 0 {
            eprintln!("chaos: {} of {count} freezes", n + 1);
        }
        // Time to do what it was at, before the next one is frozen.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(500..1_500))).await;
    }
    let said = |text: &str| fleet.said(text);
    Ok(Freezes { fenced: said(FENCED), too_late: said(TOO_LATE), late_results: said(LATE_RESULT), all })
}
