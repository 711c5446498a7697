//! Reads of single rows, gathered: what is asked for while one question is on its way goes into the next. A journey to the
//! database costs more than finding a row does, so thousands who look at their tasks share journeys as writers share
//! commits. Nobody waits for company, and nobody is answered by a question that was on its way before he asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;
use sqlx::query::QueryAs;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::StoreError;
use super::backend::{Db, on};

/// How many rows are asked for together.
pub(super) const TOGETHER: usize = 64;
/// A question that a silent server took with it is given up after so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many questions are on their way at once.
const AT_ONCE: usize = 2;

type Answer<V> = Result<Option<V>, StoreError>;
type Read<V> = for<'d> fn(&'d Db, Vec<String>) -> BoxFuture<'d, Result<HashMap<String, V>, StoreError>>;

/// Reads what belongs to single ids.
pub(super) struct Gather<V> {
    read: Read<V>,
    waiting: Mutex<Waiting<V>>,
    running: TaskTracker,
}

struct Waiting<V> {
    asks: Vec<(String, oneshot::Sender<Answer<V>>)>,
    reading: usize,
}

impl<V: Clone + Send + 'static> Gather<V> {
    /// Reads by `read`, which finds what belongs to at most [`TOGETHER`] ids.
    pub fn by(read: Read<V>) -> Arc<Self> {
        Arc::new(Self {
            read,
            waiting: Mutex::new(Waiting { asks: Vec::new(), reading: 0 }),
            running: TaskTracker::new(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<V>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what was asked is answered.
    pub async fn close(&self) {
        self.running.close();
        self.running.wait().await;
    }

    /// What belongs to an id.
    pub async fn one(self: &Arc<Self>, db: &Db, id: String) -> Answer<V> {
        let _operation = db.load().begin();
        let (answer, answered) = oneshot::channel();
        let start = {
            let mut waiting = self.waiting();
            waiting.asks.push((id, answer));
            let start = waiting.reading < AT_ONCE;
            waiting.reading += usize::from(start);
            start
        };
        if start {
            // On its own: whoever asked may hang up, and others wait for the same answer.
            self.running.spawn(Reading { gather: Arc::clone(self), over: false }.on(db.clone()));
        }
        answered.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }
}

/// One who reads until nobody waits.
struct Reading<V: Clone + Send + 'static> {
    gather: Arc<Gather<V>>,
    over: bool,
}

impl<V: Clone + Send + 'static> Reading<V> {
    async fn on(mut self, db: Db) {
        loop {
            let mut asks: Vec<_> = {
                let mut waiting = self.gather.waiting();
                // Whoever has hung up asks no more.
                waiting.asks.retain(|(_, answer)| !answer.is_closed());
                if waiting.asks.is_empty() {
                    // In the same breath: who asks from now on starts another.
                    waiting.reading -= 1;
                    self.over = true;
                    return;
                }
                let many = waiting.asks.len().min(TOGETHER);
                waiting.asks.drain(..many).collect()
            };
            let ids = asks.iter().map(|(id, _)| id.clone()).collect();
            let found = tokio::time::timeout(PATIENCE, (self.gather.read)(&db, ids)).await;
            let found = found.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into()));
            if matches!(found, Err(StoreError::Unavailable(_))) {
                // All who wait would wait in turn for the same answer.
                asks.append(&mut self.gather.waiting().asks);
            }
            for (id, answer) in asks {
                // Whoever asked may be gone.
                let _ = answer.send(match &found {
                    Ok(found) => Ok(found.get(&id).cloned()),
                    Err(StoreError::Unavailable(error)) => Err(StoreError::Unavailable(Arc::clone(error))),
                    Err(error) => Err(StoreError::Unreadable(error.to_string())),
                });
            }
        }
    }
}

impl<V: Clone + Send + 'static> Drop for Reading<V> {
    fn drop(&mut self) {
        if !self.over {
            let mut waiting = self.gather.waiting();
            waiting.reading -= 1;
            // Dropped, they are told; nobody else would.
            waiting.asks.clear();
        }
    }
}

/// The rows that `sql` finds for at most [`TOGETHER`] ids, which go where it says `{ids}`. `{place}` is for a row's number
/// in its table, on SQLite.
pub(super) async fn rows<R>(db: &Db, sql: &str, ids: Vec<String>) -> Result<Vec<R>, StoreError>
where
    R: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let (places, ids) = places(ids);
    let mut reader = db.reader().await?;
    let mut conn = reader.conn();
    let place = conn.pick("rowid AS place, ", "");
    let sql = sql.replace("{ids}", &places).replace("{place}", place);
    Ok(on!(&mut conn, c => {
        let query = sqlx::query_as(AssertSqlSafe(sql));
        ids.into_iter().fold(query, QueryAs::bind).fetch_all(c).await
    })?)
}

/// `$1,$2,…` for these ids, and the ids filled up with ones that nothing has: of a few lengths only, so that few texts are
/// prepared.
fn places(mut ids: Vec<String>) -> (String, Vec<String>) {
    let length = [1, 8, TOGETHER].into_iter().find(|length| ids.len() <= *length).unwrap_or(ids.len());
    ids.resize(length, String::new());
    let places: Vec<String> = (1..=length).map(|place| format!("${place}")).collect();
    (places.join(","), ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::pending;

    use futures_util::future::join_all;

    use crate::store::backend::Exclusive;

    async fn database() -> (Db, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/gather.db", folder.path().display());
        (Db::open(&url, Exclusive::Yes, true).await.unwrap(), folder)
    }

    /// Many who ask at once are each answered with their own, whether there is anything or not.
    #[tokio::test]
    async fn each_has_its_own_answer() {
        let (db, _folder) = database().await;
        let gather = Gather::by(|_, ids| {
            Box::pin(async move {
                assert!(ids.len() <= TOGETHER);
                tokio::task::yield_now().await;
                Ok(ids.into_iter().filter(|id| id.ends_with('7')).map(|id| (id.clone(), id)).collect())
            })
        });
        let asks = (0..500).map(|n| gather.one(&db, format!("id-{}", n % 250)));
        for (n, answer) in join_all(asks).await.into_iter().enumerate() {
            let id = format!("id-{}", n % 250);
            assert_eq!(answer.unwrap(), id.ends_with('7').then_some(id));
        }
    }

    /// A server that takes questions and never answers holds up those who asked it, and nobody for ever.
    #[tokio::test]
    async fn a_question_without_an_answer_is_given_up() {
        let (db, _folder) = database().await;
        let gather: Arc<Gather<String>> = Gather::by(|_, ids| {
            Box::pin(async move {
                if ids.contains(&"silent".to_owned()) { pending().await } else { Ok(HashMap::new()) }
            })
        });
        tokio::time::pause();
        for _ in 0..2 {
            let asks = (0..3 * TOGETHER).map(|_| gather.one(&db, "silent".to_owned()));
            for answer in join_all(asks).await {
                assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
            }
            assert_eq!(gather.one(&db, "well".to_owned()).await.unwrap(), None);
        }
    }

    /// A read that panics is an error for those who asked, and the next ask is read.
    #[tokio::test]
    async fn a_panic_leaves_nobody_waiting() {
        let (db, _folder) = database().await;
        let gather: Arc<Gather<String>> = Gather::by(|_, ids| {
            Box::pin(async move {
                assert!(ids.iter().all(|id| id != "bad"));
                Ok(HashMap::new())
            })
        });
        for _ in 0..3 {
            let asks = (0..200).map(|_| gather.one(&db, "bad".to_owned()));
            assert!(join_all(asks).await.iter().all(Result::is_err));
        }
        assert_eq!(gather.one(&db, "well".to_owned()).await.unwrap(), None);
    }

    #[test]
    fn there_are_few_lengths() {
        for (asked, length) in [(1, 1), (2, 8), (8, 8), (9, 64), (64, 64)] {
            let (places, ids) = places(vec!["id".to_owned(); asked]);
            assert_eq!((ids.len(), places.split(',').count()), (length, length));
            assert!(places.ends_with(&format!("${length}")), "{places}");
        }
    }
}
