//! Statements that go together: each runs whatever became of those before it, and all that came of them is read afterwards.
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
    /// How many rows it wrote.
    pub rows: u64,
    /// The whole numbers of the row it returned, the first if it returned several.
    pub returned: Option<Vec<i64>>,
}

struct Statement {
    sql: &'static str,
    values: Vec<Value>,
}

/// Statements with what is bound to them, in order.
#[derive(Default)]
pub(super) struct Script(Vec<Statement>);

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
    /// One statement more; what follows is bound to it.
    pub fn add(&mut self, sql: &'static str) -> &mut Self {
        self.0.push(Statement { sql, values: Vec::new() });
        self
    }

    /// Binds the next place, `$1` first, of the last statement.
    pub fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        if let Some(last) = self.0.last_mut() {
            last.values.push(value.into());
        }
        self
    }

    /// How many statements there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Runs them, and tells for each what came of it. An error of one ends it: then nothing of the transaction is to be kept.
    pub async fn run(&mut self, conn: &mut Conn<'_>) -> Result<Vec<Came>, StoreError> {
        let statements = std::mem::take(&mut self.0);
        Ok(match conn {
            Conn::Sqlite(conn, opening) => in_one_journey(conn, opening, statements).await?,
            Conn::Postgres(conn) => one_by_one(conn, statements).await?,
        })
    }
}

async fn one_by_one(conn: &mut PgConnection, statements: Vec<Statement>) -> Result<Vec<Came>, sqlx::Error> {
    let mut all = Vec::with_capacity(statements.len());
    for Statement { sql, values } in statements {
        let mut came = Came::default();
        let mut answers = conn.fetch_many(bound!(sqlx::query(sql), values));
        while let Some(answer) = answers.try_next().await? {
            note(&mut came, answer.map_left(|done| done.rows_affected()))?;
        }
        drop(answers);
        all.push(came);
    }
    Ok(all)
}

async fn in_one_journey(
    conn: &mut SqliteConnection,
    opening: &mut Option<Opening>,
    mut statements: Vec<Statement>,
) -> Result<Vec<Came>, sqlx::Error> {
    let mut all = Vec::with_capacity(statements.len());
    while !statements.is_empty() {
        let rest = statements.split_off(statements.len().min(TOGETHER));
        let opening = opening.take();
        let skipped = opening.map_or(0, |opening| opening.statements);
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
    }
    Ok(all)
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
        let came = script.run(&mut conn).await.unwrap();
        assert_eq!((came.len(), script.len()), (42, 0));
        for (id, came) in (0_i64..).zip(&came[..30]) {
            assert_eq!(*came, Came { rows: 1, returned: Some(vec![id, id * 2]) });
        }
        assert!(came[30..40].iter().all(|came| *came == Came::default()), "{came:?}");
        assert_eq!((came[40].rows, came[41].rows), (5, 0));
        assert!(opening.is_none());
    }
}
