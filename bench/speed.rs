//! The speed table: Easel beside the least that could do the same (`floor.rs`), asked by the same load generator in turns,
//! so that what else the machine does falls on both. Figures of one run are compared with each other; alone they say little.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::client::Client;
use crate::figures::{Sample, Table};
use crate::paced;
use crate::postgres::fresh;
use crate::process::{Process, free_port};
use crate::watch::Watch;
use crate::world::World;
use crate::wrk::{Ask, Load, cpu_seconds, script, script_numbered, script_over};

/// Connections of the load generator.
const CONNECTIONS: usize = 64;
/// What is asked for; nothing is sent to the provider, so that only taking in is measured.
pub const BODY: &str =
    r#"{"prompt":"a little cat in the snow, seen from far away","model":"flux-schnell","size":"1024x1024"}"#;
/// What the gateway is told: take in whatever comes, send nothing.
pub const HOLD: &str = "hold_submissions = true\nopen_per_tenant = 100000000\nopen_in_all = 100000000";

/// How many tasks are looked at: more than a gateway on SQLite keeps in memory.
pub const LOOKED_AT: usize = 5_000;

/// How long whole tasks may take to end.
const PATIENCE: Duration = Duration::from_mins(5);

/// How it is measured.
#[derive(Debug, Clone)]
pub struct How {
    /// How long each turn is, in seconds.
    pub seconds: u64,
    /// How many turns each has.
    pub rounds: usize,
    /// A Postgres to make databases on; without it only SQLite is measured.
    pub postgres: Option<String>,
}

/// Two servers, asked in turns.
pub struct Match<'a> {
    pub how: &'a How,
    /// Address, script and process of the one to compare with.
    pub floor: (String, PathBuf, u32),
    /// Of the one that is measured.
    pub easel: (String, PathBuf, u32),
}

/// What came of it.
pub struct Score {
    pub floor: Vec<Load>,
    pub easel: Vec<Load>,
}

impl Match<'_> {
    /// Asks both, in turns.
    pub async fn play(&self) -> Result<Score> {
        let mut score = Score { floor: Vec::new(), easel: Vec::new() };
        for round in 0..self.how.rounds {
            // Who goes second finds the disk warmer: they change places.
            for first in [round % 2 == 0, round % 2 != 0] {
                let ((url, script, target), loads) =
                    if first { (&self.floor, &mut score.floor) } else { (&self.easel, &mut score.easel) };
                let ask = Ask { url, script, connections: CONNECTIONS, seconds: self.how.seconds };
                loads.push(ask.run(*target).await?);
            }
        }
        Ok(score)
    }
}

/// The middle one of a figure.
fn median(loads: &[Load], of: impl Fn(&Load) -> f64) -> f64 {
    Sample::new(loads.iter().map(of).collect()).median()
}

impl Score {
    /// The middle one of a figure of each.
    pub fn medians(&self, of: impl Fn(&Load) -> f64) -> (f64, f64) {
        (median(&self.floor, &of), median(&self.easel, &of))
    }

    /// Turn by turn, how many times as fast it was; the middle one.
    fn ratio(&self) -> f64 {
        let ratios = self.floor.iter().zip(&self.easel).map(|(floor, easel)| easel.per_s / floor.per_s);
        Sample::new(ratios.collect()).median()
    }

    /// How fast each was, by these names, and the second beside the first.
    pub fn rates(&self, table: &mut Table, what: &str, names: [&str; 2], (least, beyond): (f64, f64)) {
        for (name, loads) in names.into_iter().zip([&self.floor, &self.easel]) {
            let rate = median(loads, |l| l.per_s);
            table.row(&format!("{what}: {name}, answers a second"), format!("{rate:.0}"));
        }
        let [floor, easel] = names;
        let beyond = format!("; beyond: {beyond}");
        table.at_least(&format!("{what}: {easel} ÷ {floor}"), self.ratio(), least, &beyond);
    }

    fn tell(&self, table: &mut Table, what: &str, target: (f64, f64)) {
        self.rates(table, what, ["the floor", "Easel"], target);
        for (who, loads) in [("the floor", &self.floor), ("Easel", &self.easel)] {
            let (p50, p99) = (median(loads, |l| l.p50_ms), median(loads, |l| l.p99_ms));
            table.row(&format!("{what}: {who}, p50 / p99"), format!("{p50:.2} / {p99:.2} ms"));
            table.row(
                &format!("{what}: {who}, CPU per 1,000"),
                format!("{:.3} s", median(loads, |l| l.cpu_s)),
            );
        }
    }
}

/// Starts the floor in a process of its own.
pub async fn floor(
    world: &World,
    store: &str,
    statuses: &Path,
    upstream: Option<&str>,
) -> Result<(String, Process)> {
    let at = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--easel", "none", "floor", "--listen", &at, "--store", store, "--statuses"]).arg(statuses);
    command.args(upstream.map(|upstream| ["--upstream", upstream]).into_iter().flatten());
    let mut floor = Process::start("the floor", command, "the floor is there", &world.path("floor.log"))?;
    floor.serving().await?;
    Ok((format!("http://{at}"), floor))
}

/// Measures it all and returns the tables.
pub async fn run(easel: &Path, how: &How) -> Result<String> {
    let mut stores = vec![("SQLite", None, (0.4, 0.65), 1_500.0)];
    stores.extend(how.postgres.as_deref().map(|postgres| ("Postgres", Some(postgres), (0.3, 0.6), 1_000.0)));
    let title = format!("{CONNECTIONS} connections, {} turns of {} s each", how.rounds, how.seconds);
    let mut text = String::new();
    for (name, postgres, target, tasks) in stores {
        let mut table = Table::new(&format!("{name}: {title}"));
        let store = async || match postgres {
            Some(postgres) => fresh(postgres).await.map(Some),
            None => Ok(None),
        };
        accepts(easel, how, store().await?.as_deref(), &mut table, target).await?;
        whole(easel, how, store().await?.as_deref(), &mut table, tasks).await?;
        let table = table.finish();
        eprintln!("{table}");
        text += &table;
        text += "\n";
    }
    let mut table = Table::new("The process");
    process(easel, &mut table).await?;
    Ok(text + &table.finish())
}

/// Durable accepts, then statuses of what was accepted.
async fn accepts(
    easel: &Path,
    how: &How,
    postgres: Option<&str>,
    table: &mut Table,
    target: (f64, f64),
) -> Result<()> {
    let mut world = World::with_gateways(easel, postgres, 1).await?;
    world.configure(1, "", HOLD)?;
    world.start().await?;
    let client = Client::of(&world)?;
    let mut statuses = Vec::new();
    for n in 0..LOOKED_AT {
        statuses.push(client.submit(&format!("s-{n}"), 0.0, None).await?);
    }
    let again = looks(how, &world, &client, &statuses[..1_000]).await?;
    // More than are kept in memory, in turn: each is looked at as if for the first time.
    let first = looks(how, &world, &client, &statuses).await?;
    let (list, post) = (world.path("statuses"), world.path("post.lua"));
    script(&post, BODY)?;
    let floor_store =
        postgres.map_or_else(|| format!("sqlite://{}", world.path("floor.db").display()), str::to_owned);
    let (floor_url, floor) = floor(&world, &floor_store, &list, None).await?;
    let (before, _) = client.counts().await?;
    let game = Match {
        how,
        floor: (format!("{floor_url}/durable"), post.clone(), floor.id()),
        easel: (format!("{}/generate", world.url()), post, world.process()?),
    };
    let written = game.play().await?;
    // How it feels with room to spare.
    let pace = 0.7 * median(&written.easel, |load| load.per_s);
    let paced = paced::post(&world.address(), BODY, pace, CONNECTIONS, how.seconds.max(5)).await?;
    let rows = client.counts().await?.0 - before;
    let answered: f64 = written.easel.iter().map(|load| load.answers).sum();
    let answered = answered + paced.len() as f64;
    ensure!(rows >= answered, "{answered} were answered 202, and {rows} are there");
    written.tell(table, "durable accepts", target);
    again.tell(table, "GET /tasks/{id}, in line, again and again", (0.4, 0.7));
    first.tell(table, "GET /tasks/{id}, in line, for the first time", (0.4, 0.7));
    if postgres.is_none() {
        table.at_most(
            &format!("accepts at 70 % of that ({pace:.0} a second), p50"),
            paced.median(),
            5.0,
            " ms",
        );
        table.at_most("the same, p99", paced.percentile(99), 25.0, " ms");
    } else {
        let (p50, p99) = (paced.median(), paced.percentile(99));
        table.row(
            &format!("accepts at 70 % of that ({pace:.0} a second), p50 / p99"),
            format!("{p50:.2} / {p99:.2} ms"),
        );
    }
    table.row("tasks in the database at the end", format!("{rows:.0}"));
    Ok(())
}

/// Looks at these tasks, beside the same answers from memory.
async fn looks(how: &How, world: &World, client: &Client, ids: &[String]) -> Result<Score> {
    let mut known = String::new();
    for id in ids {
        known += &client.get(&format!("/tasks/{id}")).await?.to_string();
        known.push('\n');
    }
    let (list, get) = (world.path("statuses"), world.path("get.lua"));
    std::fs::write(&list, known)?;
    let paths: Vec<String> = ids.iter().map(|id| format!("/tasks/{id}")).collect();
    script_over(&get, &paths)?;
    let store = format!("sqlite://{}", world.path("looks.db").display());
    let (url, floor) = floor(world, &store, &list, None).await?;
    let game =
        Match { how, floor: (url, get.clone(), floor.id()), easel: (world.url(), get, world.process()?) };
    game.play().await
}

/// Whole tasks: taken in, sent, called back, kept and told to a webhook, at a provider that needs no time.
async fn whole(easel: &Path, how: &How, postgres: Option<&str>, table: &mut Table, least: f64) -> Result<()> {
    let mut world = World::with_gateways(easel, postgres, 1).await?;
    let sink = Watch::sink().await?;
    let server = format!("public_url = \"{}\"", world.url());
    world.configure(1_000, &server, "open_per_tenant = 100000000\nopen_in_all = 100000000")?;
    world.start().await?;
    let client = Client::of(&world)?;
    let post = world.path("whole.lua");
    let body = serde_json::json!({
        "prompt": "TOKEN [[sim: picture=64x64 time=0]] a little cat", "model": "flux-schnell", "size": "64x64",
        "webhook": {"url": sink.url(), "events": ["task.succeeded"]},
    });
    script_numbered(&post, &body.to_string())?;
    let (begun, cpu) = (Instant::now(), cpu_seconds(world.process()?)?);
    Ask {
        url: &format!("{}/generate", world.url()),
        script: &post,
        connections: CONNECTIONS,
        seconds: how.seconds,
    }
    .run(world.process()?)
    .await?;
    loop {
        let (taken, done) = client.counts().await?;
        if taken <= done && sink.moments().len() as f64 >= taken {
            let took = begun.elapsed().as_secs_f64();
            let paid = cpu_seconds(world.process()?)? - cpu;
            table.row("whole tasks, each with a webhook", format!("{done:.0}"));
            table.row(
                &format!("whole tasks a second (target on a quiet machine: {least:.0})"),
                format!("{:.0}", done / took),
            );
            table.row("whole tasks: Easel, CPU per 1,000", format!("{:.3} s", paid * 1_000.0 / done));
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{done} of {taken} tasks ended in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ended = client.get("/tasks?status=succeeded&limit=100").await?;
    let ids = ended["data"].as_array().into_iter().flatten().filter_map(|task| task["id"].as_str());
    let ids: Vec<String> = ids.map(str::to_owned).collect();
    looks(how, &world, &client, &ids).await?.tell(
        table,
        "GET /tasks/{id}, ended, with its picture, again and again",
        (0.4, 0.7),
    );
    Ok(())
}

/// The process itself: how large, how soon there.
async fn process(easel: &Path, table: &mut Table) -> Result<()> {
    let mib = std::fs::metadata(easel)?.len() as f64 / f64::from(1 << 20);
    table.at_most("binary", mib, 30.0, " MiB");
    let mut world = World::open(easel).await?;
    world.configure(1, "", "")?;
    // The first start makes the database.
    world.start().await?;
    world.kill()?;
    let mut starts = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        world.start().await?;
        let answer = crate::client::http()?.get(format!("{}/readyz", world.url())).send().await?;
        ensure!(answer.status().is_success(), "/readyz: {}", answer.status());
        starts.push(begun.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if starts.len() < 5 {
            world.kill()?;
        }
    }
    table.at_most(
        "from its start to the first /readyz, median of 5",
        Sample::new(starts).median(),
        100.0,
        " ms",
    );
    table.at_most("idle memory", world.resident_kib()? as f64 / 1024.0, 25.0, " MiB");
    Ok(())
}
