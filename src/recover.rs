//! `easel recover`: what lies in quarantine, interpreted again from the machine that holds the configuration. It works on the
//! store itself, so it needs no key and no running gateway; one that runs brings the images to their tasks.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use crate::app::{App, Surroundings};
use crate::config::Config;
use crate::domain::audit::Actor;
use crate::domain::id::QuarantineId;
use crate::domain::quarantine::{QuarantineItem, QuarantineState};
use crate::engine::{Refusal, Supplied};
use crate::store::{Exclusive, QuarantineFilter, StoreError};

/// Items of a page.
const PAGE: usize = 100;

/// What is to be recovered, and with what.
#[derive(Debug, Args)]
pub struct Recover {
    /// The item's id, as `--list` or GET /admin/quarantine shows it
    #[arg(required_unless_present_any = ["all", "list"])]
    id: Option<String>,
    /// Read every open item again, as after an upgrade
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// Show the open items and change nothing
    #[arg(long, conflicts_with_all = ["id", "all"])]
    list: bool,
    /// A link to the image in place of what is kept; fetched as results of the provider are
    #[arg(long, requires = "id", conflicts_with = "file")]
    url: Option<String>,
    /// A file with the image in place of what is kept
    #[arg(long, requires = "id")]
    file: Option<PathBuf>,
}

/// Does it, and says what came of it to `out`; an error when an item gave no image.
pub async fn run(
    asked: Recover,
    config: &Config,
    around: Surroundings,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    // Beside a gateway that runs nothing is migrated under its hands.
    let app = App::open_beside(config, address, around, Exclusive::No).await?;
    let done = recover(asked, &app, out).await;
    app.close().await;
    done
}

async fn recover(asked: Recover, app: &App, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    if asked.list {
        for item in open_items(app).await? {
            let QuarantineItem { id, task, provider, bytes, detail, .. } = item;
            writeln!(out, "{id}  {task}  {provider}  {bytes} bytes  {}", detail.reason)?;
        }
        return Ok(());
    }
    let supplied = match (asked.url, asked.file) {
        (Some(url), _) => Supplied::Link(url),
        (None, Some(file)) => {
            let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
            Supplied::File(bytes.into())
        }
        (None, None) => Supplied::Nothing,
    };
    if let Some(id) = asked.id {
        let id: QuarantineId = id.parse().map_err(|_| anyhow::anyhow!("{id:?} is not the id of an item"))?;
        return match app.engine.recover(id, supplied, Actor::operator("command-line")).await {
            Ok(recovered) => Ok(writeln!(out, "{id}: {} image(s) for {}", recovered.images, recovered.task)?),
            Err(Refusal::NotFound) => bail!("{id}: there is no such item"),
            Err(refusal) => bail!("{id}: {refusal}"),
        };
    }
    let (mut gave, mut gave_none) = (0, 0);
    for item in open_items(app).await? {
        match app.engine.recover(item.id, Supplied::Nothing, Actor::operator("command-line")).await {
            Ok(recovered) => {
                gave += 1;
                writeln!(out, "{}: {} image(s) for {}", item.id, recovered.images, recovered.task)?;
            }
            // A row that cannot be read holds up no other item.
            Err(Refusal::Store(error)) if !matches!(error, StoreError::Unreadable(_)) => {
                return Err(error.into());
            }
            Err(refusal) => {
                gave_none += 1;
                writeln!(out, "{}: {refusal}", item.id)?;
            }
        }
    }
    writeln!(out, "{gave} item(s) gave images, {gave_none} gave none.")?;
    Ok(())
}

/// Every open item, oldest last.
async fn open_items(app: &App) -> anyhow::Result<Vec<QuarantineItem>> {
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let filter = QuarantineFilter { state: Some(QuarantineState::Open), task: None, cursor };
        let page = app.store.quarantine(filter, PAGE).await?;
        items.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(items);
        }
    }
}
