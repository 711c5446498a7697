//! What a full database costs: a gateway with few ended tasks beside one with a million, asked in turns.

use std::path::Path;

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::client::Client;
use crate::figures::Table;
use crate::speed::{BODY, HOLD, How, LOOKED_AT, Match};
use crate::world::World;
use crate::wrk::{script, script_over};

/// Rows that follow a task, and go with it.
const TABLES: [&str; 5] = ["tasks", "attempts", "images", "ledger", "events"];
/// Copies in one statement.
const AT_ONCE: usize = 50_000;

/// Measures it and returns the table.
pub async fn run(easel: &Path, how: &How, few: usize, many: usize) -> Result<String> {
    let (small, small_ids) = full(easel, few).await?;
    let (large, large_ids) = full(easel, many).await?;
    let mib = std::fs::metadata(large.path("easel.db"))?.len() >> 20;
    let mut table = Table::new(&format!("SQLite with {few} and with {many} ended tasks ({mib} MiB)"));
    let list = ["/tasks?limit=50".to_owned(), "/tasks?status=succeeded&limit=50".to_owned()];
    let asks = [
        ("GET /tasks/{id}, for the first time", "", [Some(&small_ids[..]), Some(&large_ids[..])]),
        ("GET /tasks", "", [Some(&list[..]), Some(&list[..])]),
        ("durable accepts", "/generate", [None, None]),
    ];
    for (what, path, paths) in asks {
        let mut sides = Vec::new();
        for (world, paths) in [&small, &large].into_iter().zip(paths) {
            let file = world.path("ask.lua");
            match paths {
                Some(paths) => script_over(&file, paths)?,
                None => script(&file, BODY)?,
            }
            sides.push((format!("{}{path}", world.url()), file, world.process()?));
        }
        let (easel, floor) = (sides.pop().context("two sides")?, sides.pop().context("two sides")?);
        let score = Match { how, floor, easel }.play().await?;
        score.rates(&mut table, what, [&format!("{few} rows"), &format!("{many} rows")], (0.8, 0.95));
    }
    Ok(table.finish())
}

/// A gateway whose database has so many ended tasks, and the paths of some of them.
async fn full(easel: &Path, count: usize) -> Result<(World, Vec<String>)> {
    let mut world = World::open(easel).await?;
    world.configure(1, "", "")?;
    world.start().await?;
    let client = Client::of(&world)?;
    let id = client.submit("g", 0.0, None).await?;
    client.ended(&id).await?;
    world.kill()?;
    let url = format!("sqlite://{}", world.path("easel.db").display());
    let mut conn = SqliteConnection::connect(&url).await?;
    sqlx::query("PRAGMA synchronous = OFF").execute(&mut conn).await?;
    for from in (0..count).step_by(AT_ONCE) {
        for table in TABLES {
            let copy = copy(&mut conn, table, &id, from, count.min(from + AT_ONCE)).await?;
            sqlx::query(AssertSqlSafe(copy))
                .execute(&mut conn)
                .await
                .with_context(|| format!("copies of {table}"))?;
        }
    }
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await?;
    conn.close().await?;
    world.configure(1, "", HOLD)?;
    world.start().await?;
    let step = (count / LOOKED_AT).max(1);
    let paths =
        (0..count).step_by(step).take(LOOKED_AT).map(|n| format!("/tasks/{}{n:012}", &id[..id.len() - 12]));
    Ok((world, paths.collect()))
}

/// SQL that copies one task's rows, once for each number: ids end in it.
async fn copy(
    conn: &mut SqliteConnection,
    table: &str,
    task: &str,
    from: usize,
    to: usize,
) -> Result<String> {
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_table_info($1)").bind(table).fetch_all(conn).await?;
    let value = |name: &String| match name.as_str() {
        "id" | "task_id" if table != "events" || name == "task_id" => {
            format!("substr({name}, 1, length({name}) - 12) || printf('%012d', n)")
        }
        "token_hash" => format!("{name} || n"),
        _ => name.clone(),
    };
    let (names, values) = (columns.join(", "), columns.iter().map(value).collect::<Vec<_>>().join(", "));
    let whose = if table == "tasks" { "id" } else { "task_id" };
    Ok(format!(
        "WITH RECURSIVE numbers(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {to}) \
         INSERT INTO {table} ({names}) SELECT {values} FROM {table}, numbers WHERE {whose} = '{task}'"
    ))
}
