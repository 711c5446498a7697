//! Mode `memory`: many large answers arrive at the same moment, on a folder and on a bucket that takes its bytes slowly. The
//! gateway's memory stays within its bound, it lets go of the paid connections at the speed of the line, whatever the store
//! does, and every picture is there.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bucket::Bucket;
use crate::checker::{Finding, violated};
use crate::fleet::{Plan, Shelf};
use crate::gate::Gate;
use crate::order::Order;
use crate::process::Memory;
use crate::scenario::Stage;

/// What the gateway may take, in MiB of resident memory.
const MOST_MIB: u64 = 150;
/// So many pictures stand in each answer.
const EACH: usize = 4;
/// The memory is looked at this often.
const EVERY: Duration = Duration::from_millis(10);
/// How long everything may take.
const PATIENCE: Duration = Duration::from_mins(15);
/// While the bucket takes its bytes, the connections must be over in this share of the time.
const SHARE: u32 = 2;

/// How much arrives, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Answers at once.
    pub answers: usize,
    /// Bytes of each picture.
    pub picture: u64,
    /// What the slow bucket takes, in bytes a second.
    pub rate: u64,
}

/// What one run showed.
struct Shown {
    shelf: &'static str,
    /// How long the answers were in all.
    bytes: u64,
    memory: Memory,
    /// From the gate's opening until the gateway had let go of the last connection…
    read: Duration,
    /// …and until everything was stored.
    stored: Duration,
    findings: Vec<Finding>,
}

/// Both runs; answers with the report and whether all is as it must be.
pub async fn run(easel: &Path, size: Size) -> Result<(String, bool)> {
    let folder = on(easel, size, false).await.context("on a folder")?;
    let bucket = on(easel, size, true).await.context("on a slow bucket")?;
    let shown = [folder, bucket];
    let passed = !shown.iter().any(|one| violated(&one.findings));
    Ok((report(size, &shown), passed))
}

async fn on(easel: &Path, size: Size, slow: bool) -> Result<Shown> {
    let home = tempfile::Builder::new().prefix("easel-bucket.").tempdir()?;
    let bucket = if slow { Some(Bucket::start(home.path(), size.rate).await?) } else { None };
    let mut plan = Plan::new(easel);
    // Until every answer is drawn, none begins.
    plan.timeout_s = 600;
    plan.shelf =
        bucket.as_ref().map(|bucket| Shelf { section: bucket.section(), folder: bucket.folder().to_owned() });
    let mut stage = Stage::set(plan).await?;
    let gate = Gate::start(stage.fleet.simulator(), size.answers).await?;
    stage.fleet.reroute(gate.url())?;
    stage.start(None, &[]).await?;
    let process = stage.fleet.gateway(0)?.id();
    let watched = Watched::start(process);

    let orders: Vec<Order> = (0..size.answers).map(|_| order(size.picture)).collect();
    let all = orders.iter().map(async |order| {
        let id = stage.caller.submit(order).await.context("not taken in")?;
        stage.caller.end(&id, PATIENCE).await.with_context(|| format!("{id} does not end"))
    });
    let tasks = futures_util::future::try_join_all(all).await?;
    let ended = Instant::now();
    let memory = watched.stop()?;

    let passed = gate.passed();
    let opened = passed.iter().map(|one| one.opened).min().context("no answer has passed")?;
    let over = passed.iter().map(|one| one.over).max().context("no answer has passed")?;
    let (read, stored) = (over - opened, ended - opened);
    let (world, mut findings) = stage.judged().await?;

    let mut bound = Finding::new("M1", "resident memory, high-water mark, within its bound");
    let peak = memory.high_water_kib / 1024;
    bound.check(peak < MOST_MIB, || format!("{peak} MiB"));
    let mut whole = Finding::new("M2", "every task succeeded, with all pictures, for one purchase");
    for task in &tasks {
        let images = task["images"].as_array().map_or(0, Vec::len);
        whole.check(task["status"] == "succeeded" && images == EACH, || {
            format!("{} is {} with {images} pictures: {}", task["id"], task["status"], task["error"])
        });
    }
    let (sold, posts) = (world.receptions.len(), passed.len());
    whole.check(sold == size.answers && posts == size.answers, || {
        format!("{posts} POSTs, {sold} purchases for {} orders", size.answers)
    });
    let mut connections = Finding::new("M3", "a slow store holds no paid connection");
    connections.check(!slow || read * SHARE < stored, || {
        format!("read after {:.1} s, stored after {:.1} s", read.as_secs_f64(), stored.as_secs_f64())
    });
    findings.extend([bound, whole, connections]);
    let bytes = passed.iter().map(|one| one.bytes).sum();
    let shelf = if slow { "a slow bucket" } else { "a folder" };
    Ok(Shown { shelf, bytes, memory, read, stored, findings })
}

/// Pictures inside the answer, of so many bytes each.
fn order(bytes: u64) -> Order {
    let mut order = Order::new("gpt_image", 0.1, &format!("file_bytes={bytes}"));
    order.body["n"] = serde_json::json!(EACH);
    order
}

/// A process whose memory is watched on a thread of its own.
struct Watched {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Memory>>,
}

impl Watched {
    fn start(process: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most = Memory::of(process)?;
            while !until.load(Ordering::Relaxed) {
                most = most.max(Memory::of(process)?);
                std::thread::sleep(EVERY);
            }
            Ok(most)
        });
        Self { stop, thread }
    }

    fn stop(self) -> Result<Memory> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the memory could not be watched"))?
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn report(size: Size, shown: &[Shown]) -> String {
    let verdict = if shown.iter().any(|one| violated(&one.findings)) {
        "violations were found"
    } else {
        "no violation"
    };
    let mega = |bytes: u64| bytes / 1_000_000;
    let answers = u64::try_from(size.answers).unwrap_or(u64::MAX);
    let mut text = format!(
        "## {answers} answers of {} MB at the same time: {verdict}\n\n\
         Command: `chaos memory {answers} --picture {} --rate {}`\n\n\
         Each answer holds {EACH} pictures of {:.1} MB in base64; they wait at a gate until all have begun. Simulated providers and \
         store are other processes.\n\n| |",
        shown.first().map_or(0, |one| mega(one.bytes / answers.max(1))),
        size.picture,
        size.rate,
        size.picture as f64 / 1e6,
    );
    for one in shown {
        let _ = write!(text, " {} |", one.shelf);
    }
    text += "\n|---|---:|---:|\n";
    let mut row = |what: &str, of: &dyn Fn(&Shown) -> String| {
        let _ = write!(text, "| {what} |");
        for one in shown {
            let _ = write!(text, " {} |", of(one));
        }
        text += "\n";
    };
    row("answers in all, MB", &|one| mega(one.bytes).to_string());
    row("resident memory at its highest (VmHWM, the program's own file included), MiB", &|one| {
        format!("{:.0}", one.memory.high_water_kib as f64 / 1024.0)
    });
    row("of it anonymous, at its highest (RssAnon), MiB", &|one| {
        format!("{:.0}", one.memory.anonymous_kib as f64 / 1024.0)
    });
    row("seconds until the gateway had let go of the last provider connection", &|one| {
        format!("{:.1}", one.read.as_secs_f64())
    });
    row("seconds until everything was stored", &|one| format!("{:.1}", one.stored.as_secs_f64()));
    for one in shown {
        let _ = write!(text, "\nOn {}:\n\n{}", one.shelf, crate::report::findings(&one.findings));
    }
    text + "\n"
}
