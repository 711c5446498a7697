//! What SQLite makes of the queries that must not grow with the table: asked of the database itself.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::accept::INSERT;
use super::claim::{FIRST, LATE, OWING, TO_POLL, TO_SAVE};
use super::deliveries::due;
use super::lanes::{AT_WORK, IN_FLIGHT};
use super::list::list;
use super::places::OPEN;
use super::queue::{AHEAD, OPEN_TASKS};
use super::schema::migrated;

async fn database() -> SqliteConnection {
    let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrated(&mut conn).await;
    conn
}

/// How SQLite would go about it.
async fn plan(conn: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let steps: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(conn).await.unwrap();
    steps.into_iter().map(|(.., step)| step).collect()
}

/// Claims, places and lists go by their indexes, and sort nothing but equals.
#[tokio::test]
async fn what_is_asked_all_the_time_goes_by_an_index() {
    let mut conn = database().await;
    for (sql, index) in [
        (OWING.to_owned(), "tasks_to_poll"),
        (OWING.to_owned(), "tasks_to_save"),
        (OWING.to_owned(), "tasks_queued_later"),
        (OWING.to_owned(), "tasks_queued_until"),
        (OWING.to_owned(), "attempts_to_look_for"),
        (LATE[0].to_owned(), "tasks_queued_until"),
        (TO_POLL[0].to_owned(), "tasks_to_poll"),
        (TO_SAVE[0].to_owned(), "tasks_to_save"),
        (FIRST[0].to_owned(), "tasks_line"),
        (AHEAD.replace("{ids}", "$1"), "tasks_line"),
        (due(2), "deliveries_owed"),
        (due(2), "deliveries_in_line"),
        (list(0), "tasks_by_tenant"),
        (list(2), "sqlite_autoindex_task_labels_1"),
    ] {
        let steps = plan(&mut conn, &sql).await;
        let by = format!("INDEX {index} ");
        assert!(steps.iter().any(|step| step.contains(&by)), "{sql}: {steps:?}");
        let slow = |step: &&String| {
            step.starts_with("SCAN tasks")
                || step.starts_with("SCAN d ")
                || (step.contains("TEMP B-TREE") && !step.contains("LAST TERM"))
        };
        assert_eq!(steps.iter().find(slow), None, "{sql}: {steps:?}");
    }
}

/// Hundreds of tasks may be open, at their provider or in hand at the front of a line: no accept and no submission looks at
/// the row of each.
#[tokio::test]
async fn what_is_counted_all_the_time_is_counted_in_the_index() {
    let mut conn = database().await;
    for (sql, index) in [
        (INSERT, "tasks_line"),
        (IN_FLIGHT, "tasks_at_provider"),
        (AT_WORK, "tasks_at_provider"),
        (OPEN_TASKS, "tasks_open_of_tenant"),
        (OPEN, "tasks_open_of_key"),
    ] {
        let steps = plan(&mut conn, sql).await;
        let by = format!("COVERING INDEX {index} ");
        assert!(steps.iter().any(|step| format!("{step} ").contains(&by)), "{sql}: {steps:?}");
    }
}

/// `.cargo/config.toml` says how SQLite is built; without that each execution costs a preparation.
#[tokio::test]
async fn statements_are_prepared_once() {
    let options: Vec<String> =
        sqlx::query_scalar("PRAGMA compile_options").fetch_all(&mut database().await).await.unwrap();
    assert!(options.iter().any(|option| option == "ENABLE_QPSG"), "{options:?}");
}
