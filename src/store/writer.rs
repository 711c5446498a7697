//! Group commit for SQLite: one writer takes all work that waits into one transaction and answers after its commit, so
//! that an honest fsync is shared instead of skipped. A lone job is never delayed: nothing waits for company.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use sqlx::{Executor, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::StoreError;
use super::backend::{Conn, Opening};
use super::known::Known;
use super::tasks::Look;
use crate::domain::meter;

/// How many jobs may share a commit.
const BATCH: usize = 64;
/// How many may wait; beyond that callers wait for a place.
const WAITING: usize = 1024;

/// What became of one job inside the transaction.
enum Inside {
    /// Its rows are to be kept.
    Keep,
    /// It changed its mind; its rows are undone and the others kept.
    Undo,
    /// The database failed under it: nothing in this transaction can be trusted.
    Broken(Arc<sqlx::Error>),
}

type Reply = Box<dyn FnOnce(Result<(), Arc<sqlx::Error>>, usize) + Send>;
type Job = Box<dyn for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, (Inside, Reply)> + Send>;

/// The one writer of a SQLite database.
pub(super) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    running: TaskTracker,
}

impl Writer {
    pub fn start(conn: SqliteConnection, known: Arc<Known<Arc<Look>>>) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let running = TaskTracker::new();
        running.spawn(serve(conn, waiting, known));
        running.close();
        Self { jobs: Mutex::new(Some(jobs)), running }
    }

    /// Runs `work` in a transaction, shared or not, and answers once it is on disk. Also with how many jobs were in it.
    pub async fn run<T, F>(&self, work: F) -> Result<(Result<T, StoreError>, usize), StoreError>
    where
        F: for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            let working = work(conn);
            Box::pin(async move {
                let done = working.await;
                let inside = match &done {
                    Ok(_) => Inside::Keep,
                    Err(StoreError::Unavailable(error)) => Inside::Broken(Arc::clone(error)),
                    Err(_) => Inside::Undo,
                };
                let reply: Reply = Box::new(move |committed, jobs| {
                    let done = match committed {
                        Ok(()) => done,
                        Err(error) => Err(StoreError::Unavailable(error)),
                    };
                    // The caller may be gone; the commit stands all the same.
                    let _ = answer.send((done, jobs));
                });
                (inside, reply)
            })
        });
        let closed = || StoreError::from(sqlx::Error::PoolClosed);
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)?;
        jobs.send(job).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())
    }

    /// Finishes what waits and stops.
    pub async fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.running.wait().await;
    }
}

async fn serve(mut conn: SqliteConnection, mut waiting: mpsc::Receiver<Job>, known: Arc<Known<Arc<Look>>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let jobs = batch.len();
        metrics::histogram!(meter::STORE_BATCH).record(u32::try_from(jobs).unwrap_or(u32::MAX));
        let mut replies = Vec::with_capacity(batch.len());
        let committed = commit(&mut conn, &mut batch, &mut replies).await.map_err(|error| {
            tracing::error!(%error, jobs = replies.len(), "a transaction was lost; its callers are told");
            error
        });
        if committed.is_err() {
            // SQLite has rolled back by itself after some errors; then there is nothing to undo.
            let _ = conn.execute("ROLLBACK").await;
        }
        known.settled();
        for reply in replies {
            reply(committed.clone(), jobs);
        }
        // After an error jobs may be left that never ran: dropping them tells their callers.
        batch.clear();
    }
}

/// One transaction for all of `batch`. Jobs that change their mind are undone one by one behind savepoints. What opens the
/// transaction and a job's savepoint travels with the job's first statement.
async fn commit(
    conn: &mut SqliteConnection,
    batch: &mut Vec<Job>,
    replies: &mut Vec<Reply>,
) -> Result<(), Arc<sqlx::Error>> {
    let shared = batch.len() > 1;
    let first = if shared { "BEGIN IMMEDIATE; SAVEPOINT job" } else { "BEGIN IMMEDIATE" };
    let mut opening = Some(Opening::of(first));
    let (mut open, mut undone) = (false, false);
    for job in batch.drain(..) {
        let (inside, reply) = job(Conn::Sqlite(conn, &mut opening)).await;
        replies.push(reply);
        // A job that asked nothing leaves it to the next.
        let ran = opening.is_none();
        open |= ran;
        match inside {
            Inside::Broken(error) => return Err(error),
            _ if !ran => {}
            Inside::Keep if !shared => {}
            Inside::Undo if !shared => undone = true,
            // The commit releases the last one.
            Inside::Keep => opening = Some(Opening::of("RELEASE job; SAVEPOINT job")),
            Inside::Undo => {
                conn.execute("ROLLBACK TO job").await?;
                opening = Some(Opening::of("RELEASE job; SAVEPOINT job"));
            }
        }
    }
    if open {
        conn.execute(if undone { "ROLLBACK" } else { "COMMIT" }).await?;
    }
    Ok(())
}
