//! What event streams cost, and whether a SIGKILL loses an event: each client follows a task of its own that waits in the
//! queue, the gateway is killed and started again, and a third of the tasks are called off while the clients come back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::figures::Table;
use crate::follower::{Follower, Tally};
use crate::world::World;

/// How many requests are made at a time.
const AT_A_TIME: usize = 32;
/// How long the clients may take to be there, and the events to come.
const PATIENCE: Duration = Duration::from_mins(3);
/// After this long without a request, memory is read.
const REST: Duration = Duration::from_secs(3);

/// Measures it and returns the table.
pub async fn run(easel: &Path, clients: usize) -> Result<String> {
    let mut world = World::open(easel).await?;
    let engine = format!("hold_submissions = true\nopen_per_tenant = {clients}\nopen_in_all = {clients}");
    world.configure(2, &format!("streams_per_tenant = {}", clients * 2), &engine)?;
    world.start().await?;
    let client = Client::of(&world)?;
    let submitting = stream::iter(0..clients).map(|n| {
        let client = client.clone();
        async move { client.submit(&format!("b-{n}"), 1.0, None).await }
    });
    let ids: Vec<String> = submitting.buffer_unordered(AT_A_TIME).try_collect().await?;
    tokio::time::sleep(REST).await;
    let before = world.resident_kib()?;

    let (tally, began) = (Arc::new(Tally::default()), Instant::now());
    let mut followers = JoinSet::new();
    for id in ids.clone() {
        let (address, tally) = (world.address(), Arc::clone(&tally));
        followers.spawn(async move { Follower::new(&address, &id, &tally).follow().await });
    }
    ensure!(reaches(&tally.primed, clients).await, "{} of {clients} came in", tally.primed.load(Relaxed));
    let opening = began.elapsed();
    tokio::time::sleep(REST).await;
    let after = world.resident_kib()?;

    let killed = Instant::now();
    world.kill()?;
    world.start().await?;
    let down = killed.elapsed();
    let victims: Vec<String> = ids.into_iter().step_by(3).collect();
    let owed = victims.len();
    // Some of the clients are back by now, and some are not: they are told by a replay.
    let canceling = stream::iter(victims).map(Ok).try_for_each_concurrent(AT_A_TIME, |id| {
        let client = client.clone();
        async move { client.cancel(&id).await }
    });
    canceling.await?;
    let all_back = reaches(&tally.back, clients).await;
    reaches(&tally.canceled, owed).await;
    let last_back = *tally.last_back.lock().expect("no follower panics");
    let returned = last_back.map_or(Duration::ZERO, |last| last - killed);
    tokio::time::sleep(REST).await;
    let restarted = world.resident_kib()?;
    drop(followers);

    let load = |count: &AtomicUsize| count.load(Relaxed);
    let missed = owed - load(&tally.canceled).min(owed) + load(&tally.gaps);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1_024.0);
    let per_client = after.saturating_sub(before) as f64 / clients.max(1) as f64;
    let mut table = Table::new(&format!("Event streams: {clients} clients, a SIGKILL in between"));
    table.row("clients, each on a task of its own", clients);
    table.row("seconds until all of them had their first event", format!("{:.1}", opening.as_secs_f64()));
    table.row("the gateway's resident memory without them", mib(before));
    table.row("with them", mib(after));
    table.row("per client", format!("{per_client:.1} KiB"));
    table.row("seconds from SIGKILL until it served again", format!("{:.1}", down.as_secs_f64()));
    table.row(
        "clients that came back",
        format!("{}{}", load(&tally.back), if all_back { "" } else { " (!)" }),
    );
    table.row("seconds from SIGKILL until all were back", format!("{:.1}", returned.as_secs_f64()));
    table.row("streams opened once more than that", load(&tally.again));
    table.row("resident memory after that, two thirds still following", mib(restarted));
    table.row("tasks called off meanwhile: `task.canceled` owed", owed);
    table.row("`task.canceled` received", load(&tally.canceled));
    table.at_most("events missed", missed as f64, 0.0, "");
    table.row("events received twice", load(&tally.repeated));
    Ok(table.finish())
}

/// Waits until a count is there; whether it came to that.
async fn reaches(count: &AtomicUsize, goal: usize) -> bool {
    let waiting = async {
        while count.load(Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.is_ok()
}
