//! Large results, all at once and each at a steady pace, so that all of them are on their way together: what bringing them
//! here costs the gateway in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::figures::Table;
use crate::watch::Watch;
use crate::world::World;

/// How long all of them together may take.
const PATIENCE: Duration = Duration::from_mins(5);
/// What the whole process should not exceed.
const MOST_MIB: f64 = 150.0;

/// Measures it and returns the table.
pub async fn run(easel: &Path, results: usize, mib: usize, rate: usize) -> Result<String> {
    let mut world = World::open(easel).await?;
    let sink = Watch::sink().await?;
    world.configure(results.max(1), "", "")?;
    world.start().await?;
    let client = Client::of(&world)?;
    // One small picture first: what every gateway that works has in memory.
    client.submit("b-first", 0.1, Some(sink.url())).await?;
    sink.wait_for(1, PATIENCE).await;
    let idle = world.resident_kib()? as f64 / 1024.0;
    let wish = format!("file_bytes={} file_slow={} time=1", mib << 20, rate << 20);
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for n in 0..results {
        let (client, wish, webhook) = (client.clone(), wish.clone(), sink.url().to_owned());
        running.spawn(async move { client.submit_with(&format!("b-{n}"), &wish, Some(&webhook)).await });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    sink.wait_for(results + 1, PATIENCE).await;
    let (here, took) = (sink.moments().len() - 1, begun.elapsed());
    ensure!(here == results, "only {here} of {results} results are here");
    let peak = world.peak_kib()? as f64 / 1024.0;
    let mut table = Table::new(&format!("Downloads: {results} results of {mib} MiB at once"));
    table.row("results that are here", here);
    table.row("MiB brought here", here * mib);
    table.row("seconds", format!("{:.1}", took.as_secs_f64()));
    table.row("the gateway's resident memory before", format!("{idle:.1} MiB"));
    table.at_most("the most it ever was", peak, MOST_MIB, " MiB");
    Ok(table.finish())
}
