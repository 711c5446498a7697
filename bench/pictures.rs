//! Pictures through the gateway: fetched, checked, hashed and kept, and then served, beside a server that only passes bytes
//! on.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::client::Client;
use crate::figures::Table;
use crate::speed::{How, Match, floor};
use crate::watch::Watch;
use crate::world::World;
use crate::wrk::{cpu_seconds, script_over};

/// How large each picture is.
const SIZE: usize = 1 << 20;
/// How many requests are made at a time.
const AT_A_TIME: usize = 32;
/// How long all of them may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Measures it and returns the table.
pub async fn run(easel: &Path, how: &How, pictures: usize) -> Result<String> {
    let mut world = World::open(easel).await?;
    let (sink, upstream) = (Watch::sink().await?, Watch::file(SIZE).await?);
    let server = format!("public_url = \"{}\"", world.url());
    world.configure(AT_A_TIME, &server, "")?;
    world.start().await?;
    let client = Client::of(&world)?;
    let (before, begun) = (world.resident_kib()?, Instant::now());
    let cpu = || Ok::<_, anyhow::Error>([cpu_seconds(world.process()?)?, cpu_seconds(world.provider())?]);
    let idle = cpu()?;
    let wish = format!("file_bytes={SIZE} time=0");
    let submitting = stream::iter(0..pictures).map(|n| {
        let (client, wish, webhook) = (client.clone(), wish.clone(), sink.url().to_owned());
        async move { client.submit_with(&format!("b-{n}"), &wish, Some(&webhook)).await }
    });
    let ids: Vec<String> = submitting.buffer_unordered(AT_A_TIME).try_collect().await?;
    sink.wait_for(pictures, PATIENCE).await;
    let (here, took) = (sink.moments().len(), begun.elapsed().as_secs_f64());
    ensure!(here == pictures, "only {here} of {pictures} pictures are here");
    let [easel_cpu, simulator_cpu] = {
        let busy = cpu()?;
        [0, 1].map(|who| (busy[who] - idle[who]) * 1_000.0 / pictures as f64)
    };
    let first = client.get(&format!("/tasks/{}", ids[0])).await?;
    let size = first["images"][0]["bytes"].as_f64().context("no picture")?;

    let (pass, ask) = (world.path("pass.lua"), world.path("ask.lua"));
    script_over(&pass, &["/through".to_owned()])?;
    let paths: Vec<String> = ids.iter().map(|id| format!("/tasks/{id}/images/0")).collect();
    script_over(&ask, &paths)?;
    let rows = format!("sqlite://{}", world.path("floor.db").display());
    let statuses = world.path("statuses");
    std::fs::write(&statuses, "")?;
    let (url, floor) = floor(&world, &rows, &statuses, Some(upstream.url())).await?;
    let game = Match { how, floor: (url, pass, floor.id()), easel: (world.url(), ask, world.process()?) };
    let score = game.play().await?;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let mut table = Table::new(&format!("Pictures of {:.0} KiB through the gateway", size / 1_024.0));
    let (passed, given) = score.medians(|load| load.per_s);
    table.row("passed on by a bare server", format!("{:.0} MiB/s", mib(passed * SIZE as f64)));
    table.row("served from custody", format!("{:.0} MiB/s", mib(given * size)));
    table.at_least(
        "served ÷ passed on, in bytes",
        given * size / (passed * SIZE as f64),
        0.4,
        "; beyond: 0.6",
    );
    table.row("tasks whose picture was fetched, checked and kept", pictures);
    let brought = size * pictures as f64 / took;
    table.row(
        "from the first POST to the last webhook; the provider draws them meanwhile",
        format!("{:.0} MiB/s", mib(brought)),
    );
    table.row(
        "CPU for each of them: Easel, the simulator",
        format!("{easel_cpu:.1} ms, {simulator_cpu:.1} ms"),
    );
    table.at_least("the same ÷ passed on, in bytes", brought / (passed * SIZE as f64), 0.4, "; beyond: 0.6");
    table.row("resident memory before", format!("{:.1} MiB", before as f64 / 1_024.0));
    table.row("the most it ever was", format!("{:.1} MiB", world.peak_kib()? as f64 / 1_024.0));
    Ok(table.finish())
}
