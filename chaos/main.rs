//! The proof that Easel never pays twice and never loses a picture: drives the real program as a child process, kills it,
//! cuts its connections, plants bugs in it, and judges what is left by the simulator's ledger, the callers' journal, the
//! database and the blob folder. `script/chaos --help` says how to run it; `checker.rs` holds the invariants.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a command-line tool that stands outside the gateway: it prints, makes its own clients, and may give up"
)]

mod bugs;
mod caller;
mod checker;
mod checker_money;
mod fleet;
mod h2;
mod journal;
mod kills;
mod ledger;
mod load;
mod nemesis;
mod network;
mod order;
mod process;
mod proxy;
mod report;
mod rows;
mod scenario;
mod sink;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod windows;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::fleet::Plan;

#[derive(Parser)]
#[command(about = "Kills Easel in every way and proves that it never pays twice and loses no picture")]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// kill -9 under load, again and again, over all providers.
    Kills {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        rage: Rage,
    },
    /// A crash in every window of the task's life, with every provider (needs a build with the feature chaos).
    Windows {
        #[command(flatten)]
        common: Common,
        /// Only points that begin so.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Ten planted bugs, each to be caught, and each scenario without its bug (needs a build with the feature chaos).
    Bugs {
        #[command(flatten)]
        common: Common,
        /// Only bugs that begin so.
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Answers that are lost or spoiled on their way.
    Network {
        #[command(flatten)]
        common: Common,
    },
    /// All of them.
    All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        rage: Rage,
    },
}

#[derive(Args)]
struct Common {
    /// The program under test.
    #[arg(long)]
    easel: PathBuf,
    /// Run on this Postgres server, each scenario in a database of its own; windows run on SQLite as well.
    #[arg(long)]
    postgres: Option<String>,
    /// Append the report to this file.
    #[arg(long)]
    report: Option<PathBuf>,
    /// The suite's own choices; the same seed makes the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct Rage {
    /// How many kills.
    #[arg(default_value_t = 100)]
    count: usize,
    /// Callers at once.
    #[arg(long, default_value_t = 4)]
    callers: usize,
    /// Gateways that share the database (Postgres only).
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Callers ask for webhooks, whose deliveries are judged as well.
    #[arg(long)]
    webhooks: bool,
    /// Providers call back.
    #[arg(long)]
    callbacks: bool,
    /// Leave the folder behind.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Dropping what runs ends every child.
    let passed = tokio::select! {
        passed = run(Cli::parse().mode) => passed?,
        _ = terminate.recv() => anyhow::bail!("stopped"),
        _ = interrupt.recv() => anyhow::bail!("stopped"),
    };
    println!("{}", if passed { "chaos: passed" } else { "chaos: FAILED" });
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(mode: Mode) -> Result<bool> {
    Ok(match mode {
        Mode::Kills { common, rage } => {
            fastrand::seed(common.seed);
            kill(&common, &rage).await?
        }
        Mode::Windows { common, only } => {
            fastrand::seed(common.seed);
            windows(&common, &only).await?
        }
        Mode::Network { common } => {
            fastrand::seed(common.seed);
            network(&common).await?
        }
        Mode::Bugs { common, only } => {
            fastrand::seed(common.seed);
            bugs(&common, &only).await?
        }
        Mode::All { common, rage } => {
            fastrand::seed(common.seed);
            let windows = windows(&common, "").await?;
            let bugs = bugs(&common, "").await?;
            let network = network(&common).await?;
            kill(&common, &rage).await? && windows && bugs && network
        }
    })
}

async fn kill(common: &Common, rage: &Rage) -> Result<bool> {
    let mut plan = Plan::new(&common.easel);
    plan.postgres.clone_from(&common.postgres);
    plan.replicas = rage.replicas;
    plan.callbacks = rage.callbacks;
    anyhow::ensure!(
        rage.replicas == 1 || plan.postgres.is_some(),
        "replicas share a Postgres, not a SQLite file"
    );
    let database = if plan.postgres.is_some() { "Postgres" } else { "SQLite" };
    let outcome = kills::run(plan, rage.count, rage.callers, rage.webhooks, rage.keep).await?;
    let title = format!("{} kills on {database}, {} gateway(s)", rage.count, rage.replicas);
    let mut command = format!(
        "chaos kills {} --seed {} --callers {} --replicas {}",
        rage.count, common.seed, rage.callers, rage.replicas
    );
    for (on, flag) in [
        (common.postgres.is_some(), " --postgres URL"),
        (rage.webhooks, " --webhooks"),
        (rage.callbacks, " --callbacks"),
    ] {
        command += if on { flag } else { "" };
    }
    publish(common, &report::kills(&title, &command, &outcome))?;
    Ok(!outcome.failed())
}

async fn windows(common: &Common, only: &str) -> Result<bool> {
    let (text, passed) = windows::run(&common.easel, common.postgres.as_deref(), only).await?;
    publish(common, &text)?;
    Ok(passed)
}

async fn network(common: &Common) -> Result<bool> {
    let (text, passed) = network::run(&common.easel).await?;
    publish(common, &text)?;
    Ok(passed)
}

async fn bugs(common: &Common, only: &str) -> Result<bool> {
    let (text, passed) = bugs::run(&common.easel, only).await?;
    publish(common, &text)?;
    Ok(passed)
}

/// Prints a part of the report, and appends it to the file when one is asked for.
fn publish(common: &Common, text: &str) -> Result<()> {
    use std::io::Write;
    println!("{text}");
    let Some(path) = &common.report else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    let (today, machine) = (report::today(), report::machine());
    writeln!(file, "Run on {today}: {machine}.\n\n{text}")?;
    Ok(())
}
