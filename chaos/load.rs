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
    submitted: Arc<AtomicUsize>,
}

impl Load {
    /// Starts so many callers; `webhook` is where their tasks are to be announced.
    pub fn start(caller: &Caller, count: usize, webhook: Option<&str>) -> Self {
        let stop = CancellationToken::new();
        let submitted = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        for _ in 0..count {
            let (caller, stop, submitted) = (caller.clone(), stop.clone(), Arc::clone(&submitted));
            let webhook = webhook.map(str::to_owned);
            callers.spawn(async move {
                let mut earlier: Vec<Order> = Vec::new();
                while !stop.is_cancelled() {
                    turn(&caller, &mut earlier, webhook.as_deref()).await;
                    submitted.fetch_add(1, Ordering::Relaxed);
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
        Self { callers, stop, submitted }
    }

    /// Lets every caller finish what it is at; answers with the number of tasks.
    pub async fn finish(mut self) -> anyhow::Result<usize> {
        self.stop.cancel();
        while let Some(done) = self.callers.join_next().await {
            done?;
        }
        Ok(self.submitted.load(Ordering::Relaxed))
    }
}

async fn turn(caller: &Caller, earlier: &mut Vec<Order>, webhook: Option<&str>) {
    let mut order = Order::any();
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
