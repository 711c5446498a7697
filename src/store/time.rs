//! Whose clock counts where several gateways share a database: the database's. Each process asks it for the time at its
//! start and ever again, and its own clock follows; so leases, deadlines and wake-ups of all replicas are by one clock,
//! whatever their machines' clocks say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::StoreError;
use crate::domain::clock::{Clock, Millis};

/// Between two machines' quartzes this is less than a millisecond.
const ASK_EVERY: Duration = Duration::from_secs(15);
/// An answer this soon after half its way is as good as any; else it is asked again, so often at most. The first question
/// of a busy start can take a long way one way only.
const NEAR: Duration = Duration::from_millis(1);
const ASKS: usize = 5;
/// Beyond this somebody should look after the machine's clock.
const STRANGE: i64 = 1_000;

/// Asks the database for the time, a few times if the way is long, and believes the quickest answer.
pub(super) async fn ask(pool: &PgPool, clock: &Arc<dyn Clock>) -> Result<(), StoreError> {
    const SQL: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
    // The connection is there before the question, so that opening one is not taken for the way.
    let mut conn = pool.acquire().await?;
    let mut best: Option<(Duration, Millis, i64)> = None;
    for _ in 0..ASKS {
        let (before, asked) = (clock.now(), Instant::now());
        let theirs: i64 = sqlx::query_scalar(SQL).fetch_one(&mut *conn).await?;
        // On average the answer was made halfway; the shorter the way, the nearer that is to the truth.
        let halfway = asked.elapsed() / 2;
        if best.is_none_or(|(other, ..)| halfway < other) {
            best = Some((halfway, before + halfway, theirs));
        }
        if halfway < NEAR {
            break;
        }
    }
    let Some((halfway, ours, theirs)) = best else { return Ok(()) };
    let off = theirs - ours.0;
    if off.abs() > STRANGE {
        tracing::warn!(off_ms = off, "this machine's clock and the database's differ; the database's counts");
    }
    clock.follow(Millis(theirs), ours, halfway + Duration::from_millis(1));
    Ok(())
}

/// Asks it ever again until told to stop.
pub(super) async fn keep(pool: PgPool, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = ask(&pool, &clock).await {
            tracing::debug!(%error, "cannot ask the database for the time; asking again");
        }
    }
}
