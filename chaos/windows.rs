//! Mode `windows`: a crash at every point of a task's life, with every provider, on each database; then the restart, the
//! caller's retry with its key, the end, and the comparison with the table.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use crate::checker::judge;
use crate::fleet::{PROVIDERS, Plan};
use crate::order::Order;
use crate::proxy::{Proxy, Spoil};
use crate::scenario::{PATIENCE, Stage, violations};
use crate::sink::Sink;
use crate::table::{Seen, expected, points};
use crate::world::World;

/// Cells at once: most of each one's time is a lease that runs out.
const AT_ONCE: usize = 6;

#[derive(Clone)]
struct Cell {
    easel: PathBuf,
    postgres: Option<String>,
    point: String,
    provider: &'static str,
}

/// Plays every cell; answers with the table and whether all of them are as they must be.
pub async fn run(easel: &Path, postgres: Option<&str>, only: &str) -> Result<(String, bool)> {
    let mut databases = vec![None];
    databases.extend(postgres.map(|url| Some(url.to_owned())));
    let mut cells = Vec::new();
    for database in databases {
        for point in points()?.into_iter().filter(|point| point.starts_with(only)) {
            for provider in PROVIDERS {
                cells.push(Cell {
                    easel: easel.to_owned(),
                    postgres: database.clone(),
                    point: point.clone(),
                    provider,
                });
            }
        }
    }
    if cells.is_empty() {
        bail!("no crash point begins with {only:?}");
    }
    let mut waiting = cells.into_iter().enumerate();
    let mut playing = JoinSet::new();
    let mut rows = Vec::new();
    loop {
        while playing.len() < AT_ONCE
            && let Some((at, cell)) = waiting.next()
        {
            playing.spawn(async move {
                let said = play(&cell).await.unwrap_or_else(|error| Err(format!("{error:#}")));
                (at, cell, said)
            });
        }
        match playing.join_next().await {
            Some(row) => rows.push(row?),
            None => break,
        }
    }
    rows.sort_by_key(|row| row.0);
    let failed = rows.iter().filter(|row| row.2.is_err()).count();
    let mut text = format!("## Crash windows: {} cells, {failed} not as they must be\n\n", rows.len());
    text += "| Killed at | Provider | Database | Seen after the restart |\n|---|---|---|---|\n";
    for (_, cell, said) in &rows {
        let database = if cell.postgres.is_some() { "Postgres" } else { "SQLite" };
        let said = match said {
            Ok(said) => said.clone(),
            Err(wrong) => format!("**WRONG**: {}", wrong.replace('\n', "; ")),
        };
        let _ = writeln!(text, "| {} | {} | {database} | {said} |", cell.point, cell.provider);
    }
    Ok((text, failed == 0))
}

/// `Ok(Err(…))` is a cell that is not as it must be.
async fn play(cell: &Cell) -> Result<Result<String, String>> {
    let Some(seen) = expected(&cell.point, cell.provider) else {
        return Ok(Err("the table does not know this point".to_owned()));
    };
    let mut plan = Plan::new(&cell.easel);
    plan.callbacks = matches!(seen, Seen::Rung | Seen::Late);
    plan.postgres.clone_from(&cell.postgres);
    let mut stage = Stage::set(plan).await?;
    // A stream needs time between its first link and its end, or both are read at once and no signal is heard between.
    let proxy = Proxy::start(stage.fleet.simulator(), Spoil::Trickled).await?;
    if cell.provider == "gpt_4o_image" {
        stage.fleet.reroute(proxy.url())?;
    }
    stage.start(None, &[("EASEL_CRASH", &cell.point)]).await?;
    let sink = Sink::start(None, false).await?;
    let order = match seen {
        Seen::Late => {
            let mut order = Order::new(cell.provider, 0.5, "reset_accepted");
            order.body["routing"]["on_unknown"] = serde_json::json!("fail");
            order
        }
        // Long enough for the bell to be rung between two polls.
        Seen::Rung => Order::new(cell.provider, 0.3, ""),
        Seen::Told => Order::new(cell.provider, 0.1, "").announced_at(sink.url()),
        _ => Order::new(cell.provider, 0.1, ""),
    };
    if let Seen::NotPassed(why) = seen {
        let task = stage.through(&order).await?;
        let alive = stage.fleet.gateway(0)?.ended(std::time::Duration::ZERO).await?.is_none();
        let sound = violations(&stage.judged().await?.1);
        return Ok(if alive && task["status"] == "succeeded" && sound.is_empty() {
            Ok(format!("never passed: {why}"))
        } else {
            Err(format!("must not pass here and stay alive: alive {alive}, {}, {sound:?}", task["status"]))
        });
    }
    // Some crashes come before the answer to this, some after it.
    let _ = stage.caller.submit_once(&order).await;
    let Some(status) = stage.fleet.gateway(0)?.ended(PATIENCE).await? else {
        return Ok(Err("the point was not passed".to_owned()));
    };
    if std::os::unix::process::ExitStatusExt::signal(&status) != Some(6) {
        bail!("the gateway ended by itself: {status}");
    }
    stage.start(None, &[]).await?;
    let mut task = stage.through(&order).await?;
    if seen == Seen::Late {
        task = stage.late(&order).await?;
    }
    let (mut world, _) = stage.judged().await?;
    if seen == Seen::Told {
        world.deliveries = Some(stage.told_twice(&sink).await?);
    }
    let mut wrong = violations(&judge(&world));
    wrong.extend(compare(seen, &task, &world).context("the end cannot be read")?);
    Ok(if wrong.is_empty() { Ok(describe(seen)) } else { Err(wrong.join("; ")) })
}

fn describe(seen: Seen) -> String {
    match seen {
        Seen::Once => "succeeded; 1 POST, 1 attempt".to_owned(),
        Seen::Unknown(posts) => {
            format!("failed: outcome_unknown, billed unknown; {posts} POST(s), 1 attempt, not sent again")
        }
        Seen::Again(posts) => format!("succeeded, billed no; {posts} POST(s), 2 attempts: paid by the hour"),
        Seen::Rung => "succeeded; 1 POST, 1 attempt; rung or polled".to_owned(),
        Seen::Late => "failed: outcome_unknown; 1 POST; the picture attached once, afterwards".to_owned(),
        Seen::Told => "succeeded; 1 POST; the end announced twice under one id".to_owned(),
        Seen::NotPassed(why) => why.to_owned(),
    }
}

/// What differs from the table.
fn compare(seen: Seen, task: &serde_json::Value, world: &World) -> Result<Vec<String>> {
    let (status, posts, attempts) = match seen {
        Seen::Once | Seen::Rung | Seen::Told => ("succeeded", 1, 1),
        Seen::Again(posts) => ("succeeded", posts, 2),
        Seen::Unknown(posts) => ("failed", posts, 1),
        Seen::Late => ("failed", 1, 1),
        Seen::NotPassed(_) => bail!("nothing to compare"),
    };
    let mut wrong = Vec::new();
    let mut want = |what: &str, is: String, must: String| {
        if is != must {
            wrong.push(format!("{what} is {is}, must be {must}"));
        }
    };
    want("status", task["status"].to_string(), format!("\"{status}\""));
    want("POSTs", world.receptions.len().to_string(), posts.to_string());
    want("attempts", world.rows.attempts.len().to_string(), attempts.to_string());
    want("tasks", world.rows.tasks.len().to_string(), "1".to_owned());
    if let Seen::Unknown(_) = seen {
        want("code", task["error"]["code"].to_string(), "\"outcome_unknown\"".to_owned());
        want("retryable", task["error"]["retryable"].to_string(), "false".to_owned());
        want("billed", task["cost"]["billed"].to_string(), "\"unknown\"".to_owned());
        want("attempt", world.rows.attempts[0].state.clone(), "lost".to_owned());
    } else {
        let last =
            world.rows.attempts.iter().max_by_key(|attempt| attempt.started_at).context("no attempt")?;
        want("attempt", last.state.clone(), "succeeded".to_owned());
        want("images", world.rows.images.len().to_string(), "1".to_owned());
    }
    Ok(wrong)
}
