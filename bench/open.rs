//! Many open tasks: what a gateway costs that waits for thousands of jobs by polling alone, whether it keeps its schedule,
//! and how soon after a SIGKILL it does again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::client::{Client, now_ms};
use crate::figures::{Sample, Table};
use crate::world::World;
use crate::wrk::cpu_seconds;

/// How many requests are made at a time.
const AT_A_TIME: usize = 32;
/// How long the jobs take: longer than this looks at them.
const JOB: f64 = 1_500.0;
/// How long everything may take to get where it is expected.
const PATIENCE: Duration = Duration::from_mins(4);
/// The longest pause between two polls, which all of them have come to after so long.
const SETTLED: Duration = Duration::from_secs(100);
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(30);
/// From one look at the schedule to the next.
const LOOK: Duration = Duration::from_millis(100);
/// A poll this late is behind its schedule.
const LATE_MS: f64 = 1_000.0;

/// What the database says at one moment.
struct Seen {
    /// How many are at the provider.
    waiting: i64,
    /// How late the latest of them is, in milliseconds.
    late_ms: f64,
}

/// Looks into the gateway's own database, beside it.
struct Looker(SqliteConnection);

impl Looker {
    async fn at(world: &World) -> Result<Self> {
        let options = SqliteConnectOptions::new().filename(world.path("easel.db")).read_only(true);
        Ok(Self(options.connect().await?))
    }

    async fn look(&mut self) -> Result<Seen> {
        const SQL: &str = "SELECT COUNT(*), COALESCE(MIN(wake_at), 0) FROM tasks WHERE phase = 'waiting'";
        let (waiting, due): (i64, i64) = sqlx::query_as(SQL).fetch_one(&mut self.0).await?;
        let late_ms = if waiting == 0 { 0.0 } else { (now_ms() - due as f64).max(0.0) };
        Ok(Seen { waiting, late_ms })
    }
}

/// Measures it and returns the table.
pub async fn run(easel: &Path, tasks: usize) -> Result<String> {
    let mut world = World::open(easel).await?;
    let engine = format!("open_per_tenant = {tasks}\nopen_in_all = {tasks}");
    world.configure(tasks, "", &engine)?;
    world.start().await?;
    let client = Client::of(&world)?;
    let begun = Instant::now();
    let submitting = stream::iter(0..tasks).map(|n| {
        let client = client.clone();
        async move { client.submit(&format!("o-{n}"), JOB, None).await }
    });
    let _: Vec<String> = submitting.buffer_unordered(AT_A_TIME).try_collect().await?;
    let mut looker = Looker::at(&world).await?;
    while looker.look().await?.waiting < i64::try_from(tasks)? {
        ensure!(begun.elapsed() < PATIENCE, "not all are at the provider");
        tokio::time::sleep(LOOK).await;
    }
    let sent = begun.elapsed();
    tokio::time::sleep(SETTLED).await;

    let process = world.process()?;
    let polls = async || Ok::<f64, anyhow::Error>(client.polls().await?.values().sum());
    let (cpu, before, begun) = (cpu_seconds(process)?, polls().await?, Instant::now());
    let mut late = Vec::new();
    while begun.elapsed() < WATCHED {
        let seen = looker.look().await?;
        ensure!(seen.waiting == i64::try_from(tasks)?, "{} of {tasks} still wait", seen.waiting);
        late.push(seen.late_ms);
        tokio::time::sleep(LOOK).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let (cores, asked) = ((cpu_seconds(process)? - cpu) / took, (polls().await? - before) / took);
    let (resident, late) = (world.resident_kib()? as f64 / 1_024.0, Sample::new(late));

    looker.0.close().await?;
    let before = client.polls().await?;
    let killed = Instant::now();
    world.kill()?;
    world.start().await?;
    let ready = killed.elapsed();
    loop {
        let now = client.polls().await?;
        let moving = now.iter().filter(|(job, asked)| before.get(*job).is_none_or(|before| *asked > before));
        if moving.count() >= tasks {
            break;
        }
        ensure!(killed.elapsed() < PATIENCE, "not all are asked about again");
        tokio::time::sleep(LOOK).await;
    }
    let moving = killed.elapsed();

    let mut table = Table::new(&format!("{tasks} open tasks, found by polling alone"));
    table.row("seconds until all were at the provider", format!("{:.1}", sent.as_secs_f64()));
    table.row("polls a second, once they are at their longest pauses", format!("{asked:.0}"));
    table.at_most("the gateway's resident memory", resident, 100.0, " MiB");
    table.at_most("cores", cores, 0.5, "");
    table.row(
        "how late the next one to be taken in hand is, median of all looks",
        format!("{:.0} ms", late.median()),
    );
    table.at_most("the same, at most", late.max(), LATE_MS, " ms");
    table.at_most("from SIGKILL and start to serving", ready.as_secs_f64(), 1.0, " s");
    table.at_most("from SIGKILL until each was asked about again", moving.as_secs_f64(), 2.0, " s");
    Ok(table.finish())
}
