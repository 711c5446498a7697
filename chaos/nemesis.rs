//! Kills the gateway with SIGKILL: half of the kills 0 to 5 ms after a paid POST has reached the provider, half at any
//! moment; looks at what lay on the table, and starts it again at once.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::fleet::Fleet;
use crate::ledger;
use crate::rows::Db;

/// How long the ledger is watched for a new line before a kill happens anyway.
const WATCH: Duration = Duration::from_millis(1_500);

/// One kill, and what it hit.
#[derive(Debug, Clone)]
pub struct Kill {
    /// Whether it followed a line of the ledger, and after how many microseconds it was aimed.
    pub after_reception: Option<u64>,
    /// How many tasks stood in each open phase.
    pub phases: BTreeMap<String, i64>,
    /// From the kill to the moment the gateway served again.
    pub down: Duration,
    /// The whole cycle.
    pub cycle: Duration,
}

/// Kills one of the gateways `count` times.
pub async fn rage(fleet: &mut Fleet, count: usize) -> Result<Vec<Kill>> {
    let mut kills = Vec::with_capacity(count);
    for n in 0..count {
        let begun = Instant::now();
        let at = fastrand::usize(..fleet.replicas());
        let after_reception = if n % 2 == 0 { aim(&fleet.ledger()).await? } else { lull().await };
        fleet.kill(at)?;
        let killed = Instant::now();
        let phases = phases(fleet).await?;
        fleet.start(at, &[]).await?;
        kills.push(Kill { after_reception, phases, down: killed.elapsed(), cycle: begun.elapsed() });
        if (n + 1) % 50 == 0 {
            eprintln!("chaos: {} of {count} kills", n + 1);
        }
    }
    Ok(kills)
}

/// Waits for a new paid POST in the ledger, then 0 to 5 ms.
pub async fn aim(ledger: &Path) -> Result<Option<u64>> {
    let path = ledger.to_owned();
    // On a thread of its own: milliseconds count here, and the runtime's timer is no finer than one.
    tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
        let mut seen = file.metadata()?.len();
        let begun = Instant::now();
        while begun.elapsed() < WATCH {
            let now = file.metadata()?.len();
            if now > seen {
                let mut new = vec![0; usize::try_from(now - seen)?];
                file.read_exact_at(&mut new, seen)?;
                seen = now;
                if ledger::count(&new) > 0 {
                    let after = fastrand::u64(..5_000);
                    std::thread::sleep(Duration::from_micros(after));
                    return Ok(Some(after));
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(None)
    })
    .await?
}

pub async fn lull() -> Option<u64> {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(20..900))).await;
    None
}

/// What lay on the table, from a copy: the write-ahead log is left for the gateway to recover from.
pub async fn phases(fleet: &Fleet) -> Result<BTreeMap<String, i64>> {
    let db = Db::open_copy(fleet.store(), fleet.folder()).await?;
    let all = db.phases().await?;
    db.close().await;
    let ended = ["succeeded", "failed", "canceled"];
    Ok(all.into_iter().filter(|(phase, _)| !ended.contains(&phase.as_str())).collect())
}
