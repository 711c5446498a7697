//! The figures: one recorder for the process, filled from all floors, rendered as Prometheus' text. Between scrapes the
//! samples of histograms are folded up now and then, so that nobody's not asking costs memory.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::domain::meter::{self, Kind};

/// Seconds that requests and commits take.
const SHORT: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Seconds that tasks take.
const LONG: &[f64] = &[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0];
/// Writes in a commit.
const JOBS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const FOLD_EVERY: Duration = Duration::from_secs(1);

static FIGURES: OnceLock<(PrometheusHandle, Instant)> = OnceLock::new();

/// Starts counting. Once for the process: a second start goes on with the first one's figures.
pub fn start() {
    if FIGURES.get().is_some() {
        return;
    }
    let mut builder = PrometheusBuilder::new();
    for meter in meter::ALL.iter().filter(|meter| meter.kind == Kind::Histogram) {
        let buckets = match meter.name {
            meter::STORE_BATCH => JOBS,
            meter::HTTP_SECONDS | meter::STORE_COMMIT => SHORT,
            _ => LONG,
        };
        builder = match builder.set_buckets_for_metric(Matcher::Full(meter.name.to_owned()), buckets) {
            Ok(builder) => builder,
            // Only for no buckets at all.
            Err(error) => {
                tracing::error!(%error, metric = meter.name, "cannot be counted");
                return;
            }
        };
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        let _ = FIGURES.set((handle, Instant::now()));
        for meter in meter::ALL {
            match meter.kind {
                Kind::Counter => describe_counter!(meter.name, meter.help),
                Kind::Gauge => describe_gauge!(meter.name, meter.help),
                Kind::Histogram => describe_histogram!(meter.name, meter.help),
            }
        }
    }
}

/// The figures of the moment, in Prometheus' text format.
pub fn render() -> String {
    let Some((handle, since)) = FIGURES.get() else { return String::new() };
    gauge!(meter::INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!(meter::UPTIME).set(since.elapsed().as_secs_f64());
    for (name, value) in [
        (meter::RESIDENT, resident_bytes()),
        (meter::OPEN_FDS, open_descriptors()),
        (meter::MAX_FDS, most_descriptors()),
    ] {
        if let Some(value) = value {
            gauge!(name).set(value);
        }
    }
    handle.render()
}

/// Folds samples up until told to stop.
pub async fn fold(stop: CancellationToken) {
    let Some((handle, _)) = FIGURES.get() else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(FOLD_EVERY) => handle.run_upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

/// From `/proc`; elsewhere these are not told.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(f64::from(kib) * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // The one it is read by is gone.
    u32::try_from(count.saturating_sub(1)).ok().map(f64::from)
}

fn most_descriptors() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_knows_itself() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1e6));
        assert!(open_descriptors().is_some_and(|count| count >= 3.0));
        assert!(most_descriptors().is_some_and(|most| most >= open_descriptors().unwrap()));
    }
}
