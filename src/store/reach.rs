//! Postgres as this process reaches it: hands out connections, notices when the server is away, and says so at once to
//! whoever asks, instead of letting everybody stand in the pool's line until their patience ends. While it is away one
//! knock at a time finds out when it is back.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::{Connection, PgConnection, Postgres};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who waits longer than this for a connection looks whether anybody is there at all.
const SOON: Duration = Duration::from_millis(200);
/// And not oftener than this, all who wait together.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A server that says nothing for so long is away. One that is gone refuses at once; short of that, a process that has its
/// hands full is slow to hear an answer, and must not take its own slowness for an outage.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How often one that is away is knocked at.
const KNOCK_EVERY: Duration = Duration::from_millis(200);

/// A pool of connections to a server that may be away.
#[derive(Clone)]
pub(super) struct Pool {
    pool: PgPool,
    door: Arc<Door>,
}

struct Door {
    /// Whether the server is away, as far as is known.
    away: watch::Sender<bool>,
    /// Held by the one who looks; when the server answered last.
    looking: Mutex<Option<Instant>>,
    stop: CancellationToken,
    knocking: TaskTracker,
}

/// The pool itself, for what may wait.
impl Deref for Pool {
    type Target = PgPool;
    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

impl Pool {
    /// Watches over a pool.
    pub fn of(pool: PgPool) -> Self {
        let (stop, knocking) = (CancellationToken::new(), TaskTracker::new());
        let door = Door { away: watch::Sender::new(false), looking: Mutex::default(), stop, knocking };
        Self { pool, door: Arc::new(door) }
    }

    /// A connection that answers; an error at once while the server is away.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        if *self.door.away.borrow() {
            return Err(gone());
        }
        tokio::select! {
            taken = self.pool.acquire() => taken,
            () = self.found_away() => Err(gone()),
        }
    }

    /// Answers once the server turns out to be away.
    async fn found_away(&self) {
        let mut away = self.door.away.subscribe();
        loop {
            // Long waits are the pool's when it is busy: then the server answers, and the wait goes on.
            if let Ok(told) = tokio::time::timeout(SOON, away.wait_for(|away| *away)).await {
                drop(told);
                return;
            }
            if let Ok(mut answered) = self.door.looking.try_lock()
                // A server with its hands full is not asked by all who wait whether it is there.
                && answered.is_none_or(|at| at.elapsed() > LOOK_EVERY)
            {
                // Boxed: everybody who takes a connection carries this, and hardly anybody gets here.
                if !Box::pin(self.answers()).await {
                    self.leave();
                    return;
                }
                *answered = Some(Instant::now());
            }
        }
    }

    /// Whether anybody is there. A server that refuses for want of room is.
    async fn answers(&self) -> bool {
        let options = self.pool.connect_options();
        match tokio::time::timeout(ANSWERS_WITHIN, PgConnection::connect_with(&options)).await {
            Ok(Ok(conn)) => {
                let _ = conn.close().await;
                true
            }
            // Starting, stopping and recovering are the class 57P.
            Ok(Err(sqlx::Error::Database(error))) => {
                !error.code().is_some_and(|code| code.starts_with("57P"))
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// From now on everybody is told at once, until the server answers again.
    fn leave(&self) {
        if self.door.away.send_replace(true) {
            return;
        }
        tracing::error!("the database is away; nothing is taken in until it answers");
        let this = self.clone();
        self.door.knocking.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(KNOCK_EVERY) => {}
                    () = this.door.stop.cancelled() => return,
                }
                if this.answers().await {
                    tracing::info!("the database is back");
                    this.door.away.send_replace(false);
                    return;
                }
            }
        });
    }

    /// Stops knocking and closes every connection.
    pub async fn close(&self) {
        self.door.stop.cancel();
        self.door.knocking.close();
        self.pool.close().await;
        self.door.knocking.wait().await;
    }
}

fn gone() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, "the database server is away"))
}
