//! Without callbacks: how late polling finds the end of a job, as a share of the generation time, and how often it asks.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::figures::{Sample, Table};
use crate::watch::Watch;
use crate::world::World;

/// How long all of them together may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Measures it and returns the table.
pub async fn run(easel: &Path, tasks: usize) -> Result<String> {
    let mut world = World::open(easel).await?;
    let sink = Watch::sink().await?;
    world.configure(200, "", "")?;
    world.start().await?;
    let client = Client::of(&world)?;
    let seconds: Vec<f64> = (0..tasks).map(|_| fastrand::f64().mul_add(28.0, 2.0)).collect();
    let mut running = JoinSet::new();
    for (n, seconds) in seconds.iter().copied().enumerate() {
        let (client, webhook) = (client.clone(), sink.url().to_owned());
        running.spawn(async move { client.submit(&format!("b-{n}"), seconds, Some(&webhook)).await });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    sink.wait_for(tasks, PATIENCE).await;

    let (told, ledger, polls) = (sink.moments(), client.ledger().await?, client.polls().await?);
    let (mut shares, mut asked) = (Vec::new(), Vec::new());
    for (n, seconds) in seconds.iter().enumerate() {
        let token = format!("b-{n}");
        let Some((told, reception)) = told.get(&token).zip(ledger.get(&token)) else { continue };
        let end = seconds.mul_add(1_000.0, reception.at_ms);
        shares.push((told - end) / (seconds * 1_000.0) * 100.0);
        asked.extend(polls.get(&reception.upstream_id));
    }
    let (shares, asked) = (Sample::new(shares), Sample::new(asked));
    let mut table = Table::new(&format!("Polling: {tasks} tasks at once, jobs of 2 to 30 s, no callbacks"));
    table.row("tasks", tasks);
    table.row("n: `task.succeeded` at the sink", shares.len());
    table.at_most("lag as a share of the generation time, median", shares.median(), 10.0, " %");
    table.row("the same, p90", format!("{:.1} %", shares.percentile(90)));
    table.at_most("polls per task, most", asked.max(), 12.0, "");
    table.row("polls per task, median", asked.median());
    Ok(table.finish())
}
