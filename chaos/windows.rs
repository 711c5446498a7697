//! Mode `windows`: a crash at every point of a task's life, with every provider, on each database; then the restart, the
//! caller's retry with its key, the end, and the comparison with the table.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::checker::judge;
use crate::fleet::{PROVIDERS, Plan};
use crate::order::Order;
use crate::proxy::{Proxy, Spoil};
use crate::scenario::{PATIENCE, Stage, violations};
use crate::sink::Sink;
use crate::table::{SUCCEEDED, Seen, expected, no_picture, points};
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
    let in_vain = matches!(seen, Seen::Quarantined(_) | Seen::Recovered(_));
    // A stream needs time between its first link and its end, or both are read at once and no signal is heard between.
    let spoil = if in_vain { Spoil::Recorded } else { Spoil::Trickled };
    let proxy = Proxy::start(stage.fleet.simulator(), spoil).await?;
    if in_vain || cell.provider == "gpt_4o_image" {
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
        Seen::Quarantined(_) | Seen::Recovered(_) => {
            Order::new(cell.provider, 0.1, no_picture(cell.provider))
        }
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
    if let Seen::Recovered(_) = seen {
        stage.through(&order).await?;
        let item = stage.in_quarantine().await?;
        // The gateway dies before it can answer.
        let _ = stage.caller.recover(&item, &supplied()).await;
    } else {
        // Some crashes come before the answer to this, some after it.
        let _ = stage.caller.submit_once(&order).await;
    }
    let Some(status) = stage.fleet.gateway(0)?.ended(PATIENCE).await? else {
        return Ok(Err("the point was not passed".to_owned()));
    };
    if std::os::unix::process::ExitStatusExt::signal(&status) != Some(6) {
        bail!("the gateway ended by itself: {status}");
    }
    stage.start(None, &[]).await?;
    let mut task = stage.through(&order).await?;
    if matches!(seen, Seen::Late | Seen::Recovered(_)) {
        task = stage.late(&order).await?;
    }
    let (mut world, _) = stage.judged().await?;
    if seen == Seen::Told {
        world.deliveries = Some(stage.told_twice(&sink).await?);
    }
    let mut wrong = violations(&judge(&world));
    wrong.extend(compare(seen, &task, &world).context("the end cannot be read")?);
    if in_vain {
        wrong.extend(kept_as_it_came(seen, &world, &proxy.answers()));
    }
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
        Seen::Quarantined(end) => format!("{}; the answer in quarantine once, as it came", in_vain(end)),
        Seen::Recovered(end) => format!("{}; recovered: a picture attached once, afterwards", in_vain(end)),
        Seen::NotPassed(why) => why.to_owned(),
    }
}

fn in_vain(end: &str) -> String {
    if end == SUCCEEDED {
        return "succeeded; 2 POSTs, 2 attempts: paid by the hour".to_owned();
    }
    format!("failed: {end}; 1 POST, 1 attempt")
}

/// The picture that an operator supplies.
fn supplied() -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([200, 120, 40]));
    picture.write_to(&mut file, image::ImageFormat::Png).expect("a picture can be written");
    file.into_inner()
}

/// What is wrong with the one item of quarantine, and with what was recovered from it.
fn kept_as_it_came(seen: Seen, world: &World, answers: &[Vec<u8>]) -> Vec<String> {
    let [item] = world.rows.quarantined.as_slice() else {
        return vec![format!("{} items are in quarantine, must be 1", world.rows.quarantined.len())];
    };
    let mut wrong = Vec::new();
    let sha256 = |bytes: &Vec<u8>| hex::encode(Sha256::digest(bytes));
    if !answers.iter().any(|answer| !answer.is_empty() && sha256(answer) == item.sha256) {
        wrong.push("what is in quarantine is not what the provider answered".to_owned());
    }
    let state = if let Seen::Recovered(_) = seen { "recovered" } else { "open" };
    if item.state != state {
        wrong.push(format!("the item is {}, must be {state}", item.state));
    }
    let supplied = sha256(&supplied());
    let recovered = world.rows.images.iter().filter(|image| image.sha256 == supplied).count();
    if recovered != usize::from(matches!(seen, Seen::Recovered(_))) {
        wrong.push(format!("what the operator supplied is there {recovered} times"));
    }
    wrong
}

/// What differs from the table.
fn compare(seen: Seen, task: &serde_json::Value, world: &World) -> Result<Vec<String>> {
    let (status, posts, attempts) = match seen {
        Seen::Once | Seen::Rung | Seen::Told => ("succeeded", 1, 1),
        Seen::Again(posts) => ("succeeded", posts, 2),
        Seen::Unknown(posts) => ("failed", posts, 1),
        Seen::Quarantined(SUCCEEDED) | Seen::Recovered(SUCCEEDED) => ("succeeded", 2, 2),
        Seen::Late | Seen::Quarantined(_) | Seen::Recovered(_) => ("failed", 1, 1),
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
    } else if let Seen::Quarantined(end) | Seen::Recovered(end) = seen {
        let code = task["error"]["code"].as_str().unwrap_or(SUCCEEDED).to_owned();
        want("code", code, end.to_owned());
        let images = usize::from(end == SUCCEEDED) + usize::from(matches!(seen, Seen::Recovered(_)));
        want("images", world.rows.images.len().to_string(), images.to_string());
    } else {
        let last =
            world.rows.attempts.iter().max_by_key(|attempt| attempt.started_at).context("no attempt")?;
        want("attempt", last.state.clone(), "succeeded".to_owned());
        want("images", world.rows.images.len().to_string(), "1".to_owned());
    }
    Ok(wrong)
}
