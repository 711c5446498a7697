//! What replicas on one Postgres do for each other: how soon an idle one takes what a busy one was handed, and how many
//! tasks a second one, two and three of them bring to their end. They share the machine with the database, the simulator
//! and the callers, so the figures say where it stops growing here.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::{Client, now_ms};
use crate::figures::{Sample, Table};
use crate::postgres::fresh;
use crate::world::World;

/// Measures it on databases of its own beside the one `postgres` names, and returns the tables.
pub async fn run(easel: &Path, postgres: &str, tasks: usize, callers: usize) -> Result<String> {
    let mut text = picked_up(easel, &fresh(postgres).await?).await?;
    let mut table =
        Table::new(&format!("Replicas on one Postgres: {tasks} tasks, {callers} callers, pictures at once"));
    for replicas in [1, 2, 3, 3, 2, 1] {
        let store = fresh(postgres).await?;
        let (accepted, ended) = throughput(easel, &store, replicas, tasks, callers).await?;
        table.row(&format!("{replicas} gateway(s): accepted a second"), format!("{accepted:.0}"));
        table.row(&format!("{replicas} gateway(s): brought to their end a second"), format!("{ended:.0}"));
    }
    text += "\n";
    text += &table.finish();
    Ok(text)
}

/// From `POST /generate` at a gateway whose one place is taken to the provider's reception of what another one sends.
async fn picked_up(easel: &Path, store: &str) -> Result<String> {
    let mut world = World::with_gateways(easel, Some(store), 2).await?;
    world.configure_at(0, 50, "", "concurrency = 1")?;
    world.configure_at(1, 50, "", "")?;
    world.start_at(0).await?;
    let client = Client::at(&world, 0)?;
    client.submit_with("blocker", "delay=120", None).await?;
    while client.ledger().await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.start_at(1).await?;
    let mut posted = Vec::new();
    for n in 0..200 {
        posted.push((format!("p-{n}"), now_ms()));
        client.submit(&format!("p-{n}"), 0.0, None).await?;
        // Idle again before the next one.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(100..200))).await;
    }
    let ledger = client.ledger().await?;
    let lags = posted.iter().filter_map(|(token, at)| Some(ledger.get(token)?.at_ms - at));
    let lags = Sample::new(lags.collect());
    ensure!(lags.len() == posted.len(), "{} of {} were picked up", lags.len(), posted.len());
    let mut table = Table::new("Handed to a busy replica, taken by an idle one");
    table.row("tasks", posted.len());
    table.at_most("from the POST to the provider's reception, median", lags.median(), 50.0, " ms");
    table.row("p99", format!("{:.1} ms", lags.percentile(99)));
    Ok(table.finish())
}

async fn throughput(
    easel: &Path,
    store: &str,
    replicas: usize,
    tasks: usize,
    callers: usize,
) -> Result<(f64, f64)> {
    let mut world = World::with_gateways(easel, Some(store), replicas).await?;
    for at in 0..replicas {
        world.configure_at(at, 1_000, "", "open_per_tenant = 100000\nopen_in_all = 100000")?;
        world.start_at(at).await?;
    }
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let client = Client::at(&world, caller % replicas)?;
        running.spawn(async move {
            let mut ids = Vec::new();
            for n in (caller..tasks).step_by(callers) {
                ids.push(client.submit(&format!("t-{n}"), 0.0, None).await?);
            }
            anyhow::Ok((client, ids))
        });
    }
    let mut submitted = Vec::new();
    while let Some(done) = running.join_next().await {
        submitted.push(done??);
    }
    let accepted = begun.elapsed().as_secs_f64();
    for (client, ids) in submitted {
        for id in ids {
            let status = client.ended(&id).await?;
            ensure!(status == "succeeded", "{id} is {status}");
        }
    }
    let ended = begun.elapsed().as_secs_f64();
    Ok((tasks as f64 / accepted, tasks as f64 / ended))
}
