//! Mode `network`: every way in which an answer to a paid POST can be lost or spoiled on its way, with every provider. The
//! provider receives one POST, whatever comes back, and the books stay right.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::fleet::{PROVIDERS, Plan};
use crate::order::Order;
use crate::proxy::{Proxy, Spoil};
use crate::scenario::{Stage, violations};

const AT_ONCE: usize = 6;

/// What is done to the answer, and how the task must end where that does not depend on how much of it came.
const SPOILS: [(Spoil, &str, Option<&str>); 8] = [
    (Spoil::Nothing, "nothing", Some("succeeded")),
    (Spoil::Late(Duration::from_secs(1)), "a second late", Some("succeeded")),
    (Spoil::ResetMidBody, "reset before its last 10 bytes", None),
    (Spoil::Cut, "ends 10 bytes early", None),
    (Spoil::HalfOpen, "never comes, the connection stays open", Some("outcome_unknown")),
    (Spoil::BadGateway, "502 instead", Some("outcome_unknown")),
    (Spoil::Redirect, "307 to another address instead", Some("not succeeded")),
    (Spoil::Refuse, "reset instead, nothing forwarded", Some("outcome_unknown")),
];

/// Plays every cell; answers with the table and whether all of them are as they must be.
pub async fn run(easel: &Path) -> Result<(String, bool)> {
    let cells = SPOILS.into_iter().flat_map(|spoil| PROVIDERS.map(|provider| (spoil, provider)));
    let mut waiting = cells.enumerate();
    let mut playing = JoinSet::new();
    let mut rows = Vec::new();
    loop {
        while playing.len() < AT_ONCE
            && let Some((at, (spoil, provider))) = waiting.next()
        {
            let easel = easel.to_owned();
            playing.spawn(async move {
                let said = play(&easel, spoil.0, spoil.2, provider).await;
                (at, spoil.1, provider, said.unwrap_or_else(|error| Err(format!("{error:#}"))))
            });
        }
        match playing.join_next().await {
            Some(row) => rows.push(row?),
            None => break,
        }
    }
    rows.sort_by_key(|row| row.0);
    let failed = rows.iter().filter(|row| row.3.is_err()).count();
    let mut text = format!("## Spoiled answers: {} cells, {failed} not as they must be\n\n", rows.len());
    text += "| The answer | Provider | Seen |\n|---|---|---|\n";
    for (_, spoil, provider, said) in &rows {
        let said = match said {
            Ok(said) => said.clone(),
            Err(wrong) => format!("**WRONG**: {}", wrong.replace('\n', "; ")),
        };
        let _ = writeln!(text, "| {spoil} | {provider} | {said} |");
    }
    Ok((text, failed == 0))
}

/// `Ok(Err(…))` is a cell that is not as it must be.
async fn play(
    easel: &Path,
    spoil: Spoil,
    must: Option<&str>,
    provider: &str,
) -> Result<Result<String, String>> {
    let mut stage = Stage::set(Plan::new(easel)).await?;
    let proxy = Proxy::start(stage.fleet.simulator(), spoil).await?;
    stage.fleet.reroute(proxy.url())?;
    stage.start(None, &[]).await?;
    let task = stage.through(&Order::new(provider, 0.2, "")).await?;
    let (world, findings) = stage.judged().await?;
    let mut wrong = violations(&findings);
    let status = task["status"].as_str().context("no status")?;
    let end = task["error"]["code"].as_str().unwrap_or(status);
    let as_must = match must {
        Some("not succeeded") => status == "failed",
        Some(must) => must == end,
        None => true,
    };
    if !as_must {
        wrong.push(format!("ended as {end}, must be {must:?}"));
    }
    let posts = proxy.received();
    // A server paid by the hour is sent a call of unknown outcome once more, and no further.
    let allowed = if provider == "imagepipeline" { 2 } else { 1 };
    if posts.is_empty() || posts.len() > allowed {
        wrong.push(format!("{} POSTs: {posts:?}", posts.len()));
    }
    let said = format!("{end}; {} POST(s), {} at the provider", posts.len(), world.receptions.len());
    Ok(if wrong.is_empty() { Ok(said) } else { Err(wrong.join("; ")) })
}
