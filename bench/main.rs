//! Measures what callers feel, on the real program and the simulated providers as children: how late a webhook is, how late
//! polling finds a picture, what many event streams, many large downloads and many open tasks cost, what replicas add, how
//! fast it is beside bare servers and with a full database. Prints Markdown; judges nothing. `script/bench --help` says how.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a command-line tool that stands outside the gateway: it prints, makes its own clients, reads the clock, and \
              its counts are far below 2^52"
)]

mod client;
mod downloads;
mod figures;
mod floor;
mod follower;
mod growth;
mod lag;
mod open;
mod paced;
mod pictures;
mod polls;
#[path = "../chaos/postgres.rs"]
mod postgres;
#[path = "../chaos/process.rs"]
#[expect(dead_code, reason = "shared with the chaos suite, which watches more of a child than this does")]
mod process;
mod replicas;
mod schedule;
mod speed;
mod streams;
mod watch;
mod world;
mod wrk;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Measures Easel against the simulated providers; prints Markdown tables")]
struct Cli {
    /// The program to measure.
    #[arg(long)]
    easel: PathBuf,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// From a provider's callback to `task.succeeded` at a webhook.
    Lag {
        /// How many tasks.
        #[arg(long, default_value_t = 1_000)]
        tasks: usize,
        /// How many of them a second, over all callers.
        #[arg(long, default_value_t = 10.0)]
        rate: f64,
        /// How many callers.
        #[arg(long, default_value_t = 4)]
        callers: usize,
    },
    /// Without callbacks: from a job's end to `task.succeeded`, as a share of the generation time, and what it costs in polls.
    Polls {
        /// How many tasks, all at once.
        #[arg(long, default_value_t = 200)]
        tasks: usize,
    },
    /// Event streams: memory per client, and a SIGKILL that no follower may notice in what it is told.
    Streams {
        /// How many clients, each on a task of its own.
        #[arg(default_value_t = 10_000)]
        clients: usize,
    },
    /// Large results, all at once: what they cost in memory while they are brought here.
    Downloads {
        /// How many results.
        #[arg(long, default_value_t = 32)]
        results: usize,
        /// How large each is, in MiB.
        #[arg(long, default_value_t = 30)]
        mib: usize,
        /// How many MiB a second each is given at.
        #[arg(long, default_value_t = 3)]
        rate: usize,
    },
    /// Thousands of open tasks, found by polling alone: memory, cores, lateness, and the same after a SIGKILL. Takes minutes.
    Open {
        /// How many.
        #[arg(default_value_t = 10_000)]
        tasks: usize,
    },
    /// Pictures of 1 MiB fetched, kept and served, beside a bare server that passes them on.
    Pictures {
        /// How long each turn is, in seconds.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// How many turns each has.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How many pictures.
        #[arg(long, default_value_t = 200)]
        pictures: usize,
    },
    /// Several gateways on one Postgres: who picks up what, and how many tasks a second.
    Replicas {
        /// A database on the server to use; the run makes its own beside it.
        #[arg(long)]
        postgres: String,
        /// How many tasks for each number of gateways.
        #[arg(long, default_value_t = 2_000)]
        tasks: usize,
        /// How many callers at once.
        #[arg(long, default_value_t = 32)]
        callers: usize,
    },
    /// Beside bare servers that do the least of the same, in turns: accepts, statuses, whole tasks, the process itself.
    Speed {
        /// How long each turn is, in seconds.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// How many turns each has.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// A database on a server to measure on beside SQLite; the run makes its own beside it.
        #[arg(long)]
        postgres: Option<String>,
    },
    /// SQLite: a database with few ended tasks beside one with many.
    Growth {
        /// How long each turn is, in seconds.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// How many turns each has.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// So many are few; with fewer than are looked at, looks at them would be answered from memory.
        #[arg(long, default_value_t = speed::LOOKED_AT)]
        few: usize,
        /// So many are many.
        #[arg(long, default_value_t = 1_000_000)]
        many: usize,
    },
    /// What `speed` measures against: a bare server, until it is killed.
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        listen: String,
        #[arg(long)]
        store: String,
        #[arg(long)]
        statuses: PathBuf,
        #[arg(long)]
        upstream: Option<String>,
    },
    /// Pure arithmetic: how well a poll schedule finds the end of jobs of 2 to 30 s. Starts nothing.
    Schedule(schedule::Schedule),
    /// Lag, polls, streams and downloads, one after the other, with their defaults.
    All,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Cli { easel, mode } = Cli::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Dropping what runs ends every child.
    tokio::select! {
        done = run(easel, mode) => done,
        _ = terminate.recv() => anyhow::bail!("stopped"),
        _ = interrupt.recv() => anyhow::bail!("stopped"),
    }
}

async fn run(easel: PathBuf, mode: Mode) -> Result<()> {
    // The children run in folders of their own.
    let easel =
        if matches!(mode, Mode::Schedule(_) | Mode::Floor { .. }) { easel } else { easel.canonicalize()? };
    match mode {
        Mode::Lag { tasks, rate, callers } => println!("{}", lag::run(&easel, tasks, rate, callers).await?),
        Mode::Polls { tasks } => println!("{}", polls::run(&easel, tasks).await?),
        Mode::Streams { clients } => println!("{}", streams::run(&easel, clients).await?),
        Mode::Downloads { results, mib, rate } => {
            println!("{}", downloads::run(&easel, results, mib, rate).await?);
        }
        Mode::Replicas { postgres, tasks, callers } => {
            println!("{}", replicas::run(&easel, &postgres, tasks, callers).await?);
        }
        Mode::Speed { seconds, rounds, postgres } => {
            println!("{}", speed::run(&easel, &speed::How { seconds, rounds, postgres }).await?);
        }
        Mode::Growth { seconds, rounds, few, many } => {
            let how = speed::How { seconds, rounds, postgres: None };
            println!("{}", growth::run(&easel, &how, few, many).await?);
        }
        Mode::Open { tasks } => println!("{}", open::run(&easel, tasks).await?),
        Mode::Pictures { seconds, rounds, pictures } => {
            let how = speed::How { seconds, rounds, postgres: None };
            println!("{}", pictures::run(&easel, &how, pictures).await?);
        }
        Mode::Floor { listen, store, statuses, upstream } => {
            floor::serve(&listen, &store, &statuses, upstream).await?;
        }
        Mode::Schedule(schedule) => println!("{}", schedule.measure()),
        Mode::All => {
            println!("{}", lag::run(&easel, 1_000, 10.0, 4).await?);
            println!("{}", polls::run(&easel, 200).await?);
            println!("{}", streams::run(&easel, 10_000).await?);
            println!("{}", downloads::run(&easel, 32, 30, 3).await?);
        }
    }
    Ok(())
}
