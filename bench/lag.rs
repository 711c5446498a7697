//! How late a caller hears: from the provider's callback to the head of `task.succeeded` at the caller's webhook. The
//! gateway asks the provider, fetches the picture, checks and stores it, commits, and posts in between.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::figures::{Sample, Table};
use crate::watch::Watch;
use crate::world::World;

/// How long the last ones may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Measures it and returns the table.
pub async fn run(easel: &Path, tasks: usize, rate: f64, callers: usize) -> Result<String> {
    ensure!(rate > 0.0 && callers > 0, "a rate and a caller are needed");
    let mut world = World::open(easel).await?;
    let proxy = Watch::proxy(world.url()).await?;
    let sink = Watch::sink().await?;
    world.configure(50, &format!("public_url = \"{}\"", proxy.url()), "")?;
    world.start().await?;
    let client = Client::of(&world)?;
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (client, webhook) = (client.clone(), sink.url().to_owned());
        running.spawn(async move {
            // Evenly spread: the callers take turns.
            tokio::time::sleep(Duration::from_secs_f64(caller as f64 / rate)).await;
            let mut beat = tokio::time::interval(Duration::from_secs_f64(callers as f64 / rate));
            for n in (caller..tasks).step_by(callers) {
                beat.tick().await;
                // Done before the first poll is due: it is the callback that tells.
                let seconds = fastrand::f64().mul_add(1.2, 0.3);
                client.submit(&format!("b-{n}"), seconds, Some(&webhook)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    sink.wait_for(tasks, PATIENCE).await;

    let (told, rung, ledger) = (sink.moments(), proxy.moments(), client.ledger().await?);
    // One that a poll found before the provider rang has no moment to count from.
    let lags = told.iter().filter_map(|(token, told)| {
        let rung = rung.get(&ledger.get(token)?.bell)?;
        Some(told - rung).filter(|lag| *lag >= 0.0)
    });
    let lags = Sample::new(lags.collect());
    let mut table = Table::new(&format!("Webhook lag: {tasks} tasks, {rate} a second, {callers} callers"));
    table.row("tasks", tasks);
    table.row("`task.succeeded` at the sink", told.len());
    table.row("n: of them after the provider's callback", lags.len());
    table.at_most("from callback to `task.succeeded`, median", lags.median(), 50.0, " ms");
    table.row("p90", format!("{:.1} ms", lags.percentile(90)));
    table.at_most("p99", lags.percentile(99), 250.0, " ms");
    table.row("max", format!("{:.1} ms", lags.max()));
    Ok(table.finish())
}
