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

mod balancer;
mod bucket;
mod bugs;
mod caller;
mod checker;
mod checker_money;
mod fleet;
mod freeze;
mod gate;
mod h2;
mod journal;
mod ledger;
mod load;
mod memory;
mod nemesis;
mod network;
mod ordeal;
mod order;
mod outage;
mod postgres;
mod process;
mod proxy;
mod report;
mod rolling;
mod rows;
mod scenario;
mod sink;
mod spool;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod untidy;
mod windows;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::checker::violated;
use crate::fleet::Plan;
use crate::ordeal::{Outcome, Terms};

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
    /// SIGSTOP past the lease, and SIGCONT, of one of several gateways on a Postgres, again and again.
    Freeze {
        #[command(flatten)]
        common: Common,
        /// How many freezes.
        #[arg(default_value_t = 30)]
        count: usize,
        #[command(flatten)]
        crew: Crew,
    },
    /// A Postgres that is stopped hard and started again every 15 s.
    Outage {
        #[command(flatten)]
        common: Common,
        /// How many times.
        #[arg(default_value_t = 8)]
        count: usize,
        /// The folder that `script/pg start` keeps the server in.
        #[arg(long)]
        server: PathBuf,
        #[command(flatten)]
        crew: Crew,
    },
    /// Gateways of an older program are replaced one by one, on one Postgres.
    Rolling {
        #[command(flatten)]
        common: Common,
        /// The older program.
        #[arg(long)]
        old: PathBuf,
        /// What the report calls it.
        #[arg(long, default_value = "an older program")]
        called: String,
        #[command(flatten)]
        crew: Crew,
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
    /// Large answers that arrive at the same moment, on a folder and on a slow bucket: memory, connections, every picture.
    Memory {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flood: Flood,
    },
    /// All of them.
    All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        rage: Rage,
    },
}

/// How many of a hundred orders are answered untidily where nothing is said.
const UNTIDY: u8 = 40;

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
struct Flood {
    /// How many answers.
    #[arg(default_value_t = 32)]
    answers: usize,
    /// Bytes of each of the four pictures in an answer.
    #[arg(long, default_value_t = 14_000_000)]
    picture: u64,
    /// What the slow bucket takes, in bytes a second.
    #[arg(long, default_value_t = 12_000_000)]
    rate: u64,
}

#[derive(Args)]
struct Rage {
    /// How many kills.
    #[arg(default_value_t = 100)]
    count: usize,
    #[command(flatten)]
    crew: Crew,
}

#[derive(Args)]
struct Crew {
    /// Callers at once.
    #[arg(long, default_value_t = 4)]
    callers: usize,
    /// Gateways that share the database (Postgres only); as many as the mode needs when it is not said.
    #[arg(long)]
    replicas: Option<usize>,
    /// So many of a hundred orders are answered rightly but untidily: wrapped, labelled, spelled and seated as the world does
    /// it; 0 for none. Where nothing is said 40, and none where an older program takes part.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=85))]
    untidy: Option<u8>,
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

impl Crew {
    /// The world they work in, of `usual` gateways where nothing is said.
    fn plan(&self, common: &Common, usual: usize) -> Result<Plan> {
        let mut plan = Plan::new(&common.easel);
        plan.postgres.clone_from(&common.postgres);
        plan.replicas = self.replicas.unwrap_or(usual);
        plan.callbacks = self.callbacks;
        anyhow::ensure!(
            plan.replicas == 1 || plan.postgres.is_some(),
            "replicas share a Postgres, not a SQLite file"
        );
        Ok(plan)
    }

    /// How many of a hundred orders are answered untidily.
    fn untidy(&self, plan: &Plan) -> u8 {
        self.untidy.unwrap_or(if plan.older.is_some() { 0 } else { UNTIDY })
    }

    fn terms(&self, plan: &Plan, patience: Duration) -> Terms {
        let untidy = self.untidy(plan);
        Terms { callers: self.callers, untidy, webhooks: self.webhooks, keep: self.keep, patience }
    }

    /// The mode's command line, for the report.
    fn command(&self, mode: &str, common: &Common, plan: &Plan) -> String {
        let mut command = format!(
            "chaos {mode} --seed {} --callers {} --replicas {} --untidy {}",
            common.seed,
            self.callers,
            plan.replicas,
            self.untidy(plan)
        );
        for (on, flag) in [
            (common.postgres.is_some(), " --postgres URL"),
            (self.webhooks, " --webhooks"),
            (self.callbacks, " --callbacks"),
        ] {
            command += if on { flag } else { "" };
        }
        command
    }
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
        Mode::Freeze { common, count, crew } => {
            fastrand::seed(common.seed);
            freeze(&common, count, &crew).await?
        }
        Mode::Outage { common, count, server, crew } => {
            fastrand::seed(common.seed);
            outage(&common, count, &server, &crew).await?
        }
        Mode::Rolling { common, old, called, crew } => {
            fastrand::seed(common.seed);
            rolling(&common, &old, &called, &crew).await?
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
        Mode::Memory { common, flood } => {
            fastrand::seed(common.seed);
            memory(&common, flood).await?
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
    let plan = rage.crew.plan(common, 1)?;
    let database = if plan.postgres.is_some() { "Postgres" } else { "SQLite" };
    let title = format!("{} kills on {database}, {} gateway(s)", rage.count, plan.replicas);
    let command = rage.crew.command(&format!("kills {}", rage.count), common, &plan);
    let terms = rage.crew.terms(&plan, caller::USUAL);
    let (kills, outcome) = ordeal::run(plan, terms, async |fleet: &mut fleet::Fleet, _: &caller::Caller| {
        nemesis::rage(fleet, rage.count).await
    })
    .await?;
    publish(common, &report::kills(&title, &command, &kills, &outcome))?;
    Ok(!outcome.failed())
}

/// A frozen gateway's connections are taken and not answered: callers ask elsewhere after two seconds.
async fn freeze(common: &Common, count: usize, crew: &Crew) -> Result<bool> {
    let plan = crew.plan(common, 3)?;
    anyhow::ensure!(plan.replicas > 1, "somebody has to go on while one is frozen");
    let title = format!("{count} freezes on Postgres, {} gateways", plan.replicas);
    let command = crew.command(&format!("freeze {count}"), common, &plan);
    let terms = crew.terms(&plan, Duration::from_secs(2));
    let (freezes, outcome) =
        ordeal::run(plan, terms, async |fleet: &mut fleet::Fleet, _: &caller::Caller| {
            freeze::rage(fleet, count).await
        })
        .await?;
    publish(common, &report::freezes(&title, &command, &freezes, &outcome))?;
    Ok(!outcome.failed())
}

async fn outage(common: &Common, count: usize, server: &std::path::Path, crew: &Crew) -> Result<bool> {
    let plan = crew.plan(common, 2)?;
    let url = plan.postgres.clone().context("outages are a Postgres server's: --postgres URL")?;
    let title = format!("{count} outages of Postgres, {} gateway(s)", plan.replicas);
    let command = crew.command(&format!("outage {count} --server FOLDER"), common, &plan);
    let server = outage::Server::at(server, &url);
    let terms = crew.terms(&plan, caller::USUAL);
    let (outages, outcome) =
        ordeal::run(plan, terms, async |fleet: &mut fleet::Fleet, caller: &caller::Caller| {
            outage::rage(fleet, caller, &server, count).await
        })
        .await?;
    judged(common, outcome, outage::judge(&outages), |outcome| {
        report::outages(&title, &command, &outages, outcome)
    })
}

async fn rolling(common: &Common, old: &std::path::Path, called: &str, crew: &Crew) -> Result<bool> {
    let mut plan = crew.plan(common, 2)?;
    plan.older = Some(std::path::absolute(old)?);
    anyhow::ensure!(plan.replicas > 1, "somebody has to go on while one is replaced");
    let title = format!("{} gateways upgraded from {called} on Postgres", plan.replicas);
    let command = crew.command("rolling --old PROGRAM", common, &plan);
    let terms = crew.terms(&plan, caller::USUAL);
    let ((turns, finding), outcome) =
        ordeal::run(plan, terms, async |fleet: &mut fleet::Fleet, caller: &caller::Caller| {
            let turns = rolling::upgrade(fleet).await?;
            let finding = rolling::judge(&turns, &caller.refusals());
            Ok((turns, finding))
        })
        .await?;
    judged(common, outcome, vec![finding], |outcome| report::rolling(&title, &command, &turns, outcome))
}

/// Publishes a run that has more to hold than the usual invariants; whether all of it does.
fn judged(
    common: &Common,
    mut outcome: Outcome,
    more: Vec<checker::Finding>,
    report: impl FnOnce(&Outcome) -> String,
) -> Result<bool> {
    outcome.findings.extend(more);
    publish(common, &report(&outcome))?;
    Ok(!violated(&outcome.findings))
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

async fn memory(common: &Common, flood: Flood) -> Result<bool> {
    let Flood { answers, picture, rate } = flood;
    let (text, passed) = memory::run(&common.easel, memory::Size { answers, picture, rate }).await?;
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
