//! Steady load: a few callers at once, who submit, ask again with old keys, look, wait, call off and pry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::order::Order;

/// Callers at work.
pub struct Load {
    callers: JoinSet<()>,
    stop: CancellationToken,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    submitted: AtomicUsize,
    untidy: AtomicUsize,
}

/// What callers asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Tasks that they submitted, parts not counted.
    pub submitted: usize,
    /// Those whose answers were wrapped untidily.
    pub untidy: usize,
}

impl Load {
    /// Starts so many callers; `untidy` in a hundred of their orders are answered untidily, `webhook` is where their tasks are
    /// to be announced.
    pub fn start(caller: &Caller, count: usize, untidy: u8, webhook: Option<&str>) -> Self {
        let stop = CancellationToken::new();
        let counts = Arc::<Counts>::default();
        let mut callers = JoinSet::new();
        for _ in 0..count {
            let (caller, stop, counts) = (caller.clone(), stop.clone(), Arc::clone(&counts));
            let webhook = webhook.map(str::to_owned);
            callers.spawn(async move {
                let mut earlier: Vec<Order> = Vec::new();
                while !stop.is_cancelled() {
                    let order = Order::any(untidy);
                    counts.submitted.fetch_add(1, Ordering::Relaxed);
                    counts.untidy.fetch_add(usize::from(order.untidy), Ordering::Relaxed);
                    turn(&caller, order, &mut earlier, webhook.as_deref()).await;
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(fastrand::u64(50..400))) => {}
                        () = stop.cancelled() => {}
                    }
                }
                // Whoever lost an answer asks for it in the end.
                for order in &earlier {
                    caller.submit(order).await;
                }
            });
        }
        Self { callers, stop, counts }
    }

    /// Lets every caller finish what it is at; answers with what was asked for.
    pub async fn finish(mut self) -> anyhow::Result<Asked> {
        self.stop.cancel();
        while let Some(done) = self.callers.join_next().await {
            done?;
        }
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        Ok(Asked { submitted: count(&self.counts.submitted), untidy: count(&self.counts.untidy) })
    }
}

async fn turn(caller: &Caller, mut order: Order, earlier: &mut Vec<Order>, webhook: Option<&str>) {
    if let Some(url) = webhook {
        order = order.announced_at(url);
    }
    let Some(id) = caller.submit(&order).await else { return };
    match fastrand::u8(..10) {
        0 => caller.cancel(&id).await,
        1 => caller.pry(&id).await,
        2 => drop(caller.submit_once(&order).await),
        3 | 4 => drop(caller.look(&id, 1).await),
        5 => {
            drop(caller.end(&id, Duration::from_secs(5)).await);
            caller.cancel(&id).await;
            caller.look(&id, 0).await;
        }
        _ => {}
    }
    if let Some(order) = earlier.get(fastrand::usize(..earlier.len().max(1)))
        && fastrand::u8(..4) == 0
    {
        caller.submit_once(order).await;
    }
    if earlier.len() == 50 {
        earlier.swap_remove(fastrand::usize(..50));
    }
    earlier.push(order);
}
