//! Statements that go together: what came of them is read when all have run.
//! A journey to SQLite's thread costs more than most statements do, so SQLite takes a whole script in one; Postgres, which
//! is asked with one statement at a time, takes the same statements one after the other.

use std::fmt::Write;

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Column, Either, Executor, PgConnection, Row, SqliteConnection};

use super::StoreError;
use super::backend::{Conn, Opening};

/// So many statements are prepared as one text; longer scripts are cut, so that few texts are prepared.
const TOGETHER: usize = 16;

/// What is bound to a place.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
    Bool(bool),
}

macro_rules! values {
    ($($from:ty => |$name:ident| $value:expr),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from($name: $from) -> Self {
                $value
            }
        })*
    };
}
values! {
    String => |text| Self::Text(Some(text)),
    &String => |text| Self::Text(Some(text.clone())),
    &str => |text| Self::Text(Some(text.to_owned())),
    Option<String> => |text| Self::Text(text),
    &Option<String> => |text| Self::Text(text.clone()),
    Option<&str> => |text| Self::Text(text.map(str::to_owned)),
    i64 => |number| Self::Int(Some(number)),
    Option<i64> => |number| Self::Int(number),
    bool => |truth| Self::Bool(truth),
}

/// What came of one statement.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Came {
    /// How many rows an `INSERT`, `UPDATE` or `DELETE` wrote.
    pub rows: u64,
    /// The whole numbers of the row it returned, the first if it returned several.
    pub returned: Option<Vec<i64>>,
}

struct Statement {
    sql: &'static str,
    values: Vec<Value>,
    must: bool,
}

/// Statements with what is bound to them, in order, and what came of those that have run.
#[derive(Default)]
pub(super) struct Script {
    next: Vec<Statement>,
    came: Vec<Came>,
}

/// Binds values to places of a query of either database.
macro_rules! bound {
    ($query:expr, $values:expr) => {
        $values.into_iter().fold($query, |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Int(number) => query.bind(number),
            Value::Bool(truth) => query.bind(truth),
        })
    };
}

impl Script {
    /// What `fill` adds.
    pub fn of(fill: impl FnOnce(&mut Self)) -> Self {
        let mut script = Self::default();
        fill(&mut script);
        script
    }

    /// One statement more; what follows is bound to it.
    pub fn add(&mut self, sql: &'static str) -> &mut Self {
        self.next.push(Statement { sql, values: Vec::new(), must: false });
        self
    }

    /// Binds the next place, `$1` first, of the last statement.
    pub fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        if let Some(last) = self.next.last_mut() {
            last.values.push(value.into());
        }
        self
    }

    /// The last statement must write a row, or all of it is [`StoreError::Stale`].
    pub fn must(&mut self) {
        if let Some(last) = self.next.last_mut() {
            last.must = true;
        }
    }

    /// How many statements there are, those that have run among them.
    pub fn len(&self) -> usize {
        self.came.len() + self.next.len()
    }

    /// What came of those that have run, in order.
    pub fn came(&self) -> &[Came] {
        &self.came
    }

    /// Runs those that have not run yet. After an error nothing of the transaction is to be kept.
    pub async fn run(&mut self, conn: &mut Conn<'_>) -> Result<(), StoreError> {
        let statements = std::mem::take(&mut self.next);
        let musts: Vec<bool> = statements.iter().map(|statement| statement.must).collect();
        let before = self.came.len();
        let ran = match conn {
            Conn::Sqlite(conn, opening) => in_one_journey(conn, opening, statements, &mut self.came).await,
            Conn::Postgres(conn) => one_by_one(conn, statements, &mut self.came).await,
        };
        // Behind a row that is another writer's by now, what follows may meet what that one has written.
        let stale = musts.iter().zip(&self.came[before..]).any(|(must, came)| *must && came.rows == 0);
        if stale { Err(StoreError::Stale) } else { Ok(ran?) }
    }
}

async fn one_by_one(
    conn: &mut PgConnection,
    statements: Vec<Statement>,
    all: &mut Vec<Came>,
) -> Result<(), sqlx::Error> {
    for Statement { sql, values, must } in statements {
        let mut came = Came::default();
        let mut answers = conn.fetch_many(bound!(sqlx::query(sql), values));
        while let Some(answer) = answers.try_next().await? {
            note(&mut came, answer.map_left(|done| done.rows_affected()))?;
        }
        drop(answers);
        let over = must && came.rows == 0;
        all.push(came);
        if over {
            break;
        }
    }
    Ok(())
}

async fn in_one_journey(
    conn: &mut SqliteConnection,
    opening: &mut Option<Opening>,
    mut statements: Vec<Statement>,
    all: &mut Vec<Came>,
) -> Result<(), sqlx::Error> {
    while !statements.is_empty() {
        let rest = statements.split_off(statements.len().min(TOGETHER));
        let opening = opening.take();
        let skipped = opening.map_or(0, |opening| opening.statements);
        let expected = skipped + statements.len();
        let mut text = opening.map_or_else(String::new, |opening| format!("{};", opening.text));
        let mut values = Vec::new();
        for statement in std::mem::replace(&mut statements, rest) {
            renumber(&mut text, statement.sql, values.len());
            text.push(';');
            values.extend(statement.values);
        }
        let (mut came, mut done) = (Came::default(), 0);
        let mut answers = conn.fetch_many(bound!(sqlx::query(AssertSqlSafe(text)), values));
        while let Some(answer) = answers.try_next().await? {
            let ends = answer.is_left();
            note(&mut came, answer.map_left(|done| done.rows_affected()))?;
            if ends {
                let came = std::mem::take(&mut came);
                done += 1;
                if done > skipped {
                    all.push(came);
                }
            }
        }
        // A thread that is gone ends the answers without an error.
        if done != expected {
            return Err(sqlx::Error::WorkerCrashed);
        }
    }
    Ok(())
}

fn note<R: Row>(came: &mut Came, answer: Either<u64, R>) -> Result<(), sqlx::Error>
where
    usize: sqlx::ColumnIndex<R>,
    for<'r> i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    match answer {
        Either::Left(rows) => came.rows = rows,
        Either::Right(row) if came.returned.is_none() => {
            came.returned = Some(
                row.columns().iter().map(|column| row.try_get(column.ordinal())).collect::<Result<_, _>>()?,
            );
        }
        Either::Right(_) => {}
    }
    Ok(())
}

/// Adds a statement to `text` with its places counted from `after`, as the values of the statements before it take the
/// first ones.
fn renumber(text: &mut String, sql: &str, after: usize) {
    let mut pieces = sql.split('$');
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (place, rest) = piece.split_at(digits);
        let place = place.parse::<usize>().map_or(0, |place| place + after);
        // Writing to a string cannot fail.
        let _ = write!(text, "${place}{rest}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_on() {
        let mut text = String::new();
        renumber(&mut text, "UPDATE t SET a = $2, b = '', c = CAST($10 AS BIGINT) WHERE id = $1", 0);
        assert_eq!(text, "UPDATE t SET a = $2, b = '', c = CAST($10 AS BIGINT) WHERE id = $1");
        text.clear();
        renumber(&mut text, "SELECT $1,$12", 19);
        assert_eq!(text, "SELECT $20,$31");
        text.clear();
        renumber(&mut text, "DELETE FROM t", 3);
        assert_eq!(text, "DELETE FROM t");
    }

    /// Longer than one journey, with values that differ from statement to statement, answers are each statement's own.
    #[tokio::test]
    async fn every_statement_has_its_own_answer() {
        use sqlx::Connection;

        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, well BOOLEAN)").await.unwrap();
        let mut opening = Some(Opening::of("BEGIN IMMEDIATE; SAVEPOINT job"));
        let mut conn = Conn::Sqlite(&mut conn, &mut opening);
        let mut script = Script::default();
        for id in 0..40_i64 {
            script.add("INSERT INTO t (id, name, well) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id, id * 2");
            script.bind(id % 30).bind(format!("n{id}")).bind(id % 2 == 0);
        }
        script.add("UPDATE t SET name = $2 WHERE id < $1").bind(5_i64).bind(None::<String>);
        script.add("DELETE FROM t WHERE id = $1").bind(77_i64);
        script.run(&mut conn).await.unwrap();
        let came = script.came();
        assert_eq!((came.len(), script.len()), (42, 42));
        for (id, came) in (0_i64..).zip(&came[..30]) {
            assert_eq!(*came, Came { rows: 1, returned: Some(vec![id, id * 2]) });
        }
        assert!(came[30..40].iter().all(|came| *came == Came::default()), "{came:?}");
        assert_eq!((came[40].rows, came[41].rows), (5, 0));
        assert!(opening.is_none());
    }

    /// A violation is one, unless a row that must be there was not: then another writer is ahead.
    #[tokio::test]
    async fn behind_a_row_that_is_not_there_nothing_counts() {
        use sqlx::Connection;

        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, version INTEGER); INSERT INTO t VALUES (1, 7)")
            .await
            .unwrap();
        for (version, stale) in [(6_i64, true), (7, false)] {
            let (mut script, mut opening) = (Script::default(), None);
            script.add("UPDATE t SET version = $1 WHERE version = $1").bind(version).must();
            script.add("INSERT INTO t (id, version) VALUES ($1, $2)").bind(1_i64).bind(1_i64);
            let error = script.run(&mut Conn::Sqlite(&mut conn, &mut opening)).await.unwrap_err();
            assert_eq!(matches!(error, StoreError::Stale), stale, "{error}");
        }
    }
}
