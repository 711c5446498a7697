//! Calls tasks off. What has not been sent costs nothing to call off; a provider at work is asked to stop where it can be.

use super::gather::add_up;
use super::{Engine, Inner, Refusal};
use crate::chaos::planted;
use crate::domain::code::Code;
use crate::domain::id::TaskId;
use crate::domain::task::{Event, Phase, Stopping, Task};
use crate::store::{Change, StoreError};

impl Engine {
    /// Calls a task off for its tenant. A task in parts loses those that have not been sent; with none left it is canceled.
    pub async fn cancel(&self, tenant: &str, id: TaskId) -> Result<Task, Refusal> {
        let inner = &self.inner;
        let task = inner.store.task(id).await?.filter(|task| task.tenant == tenant && task.parent.is_none());
        let task = task.ok_or(Refusal::NotFound)?;
        if task.phase != Phase::Gathering {
            return inner.cancel_one(id).await;
        }
        let mut left = 0;
        let mut refused = None;
        for part in inner.store.parts(id).await? {
            match inner.cancel_one(part.id).await {
                Ok(_) => {}
                Err(Refusal::TooLate(code, detail)) => {
                    left += 1;
                    refused = Some(Refusal::TooLate(code, detail));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(refused) = refused.filter(|_| left == task.state.parts) {
            return Err(refused);
        }
        // It is over once its last part is: that part rings, and what was paid for is not lost sight of.
        if inner.store.parts(id).await?.iter().all(|part| part.phase == Phase::Canceled) {
            match inner.cancel_one(id).await {
                Err(Refusal::TooLate(..)) => {}
                canceled => return canceled,
            }
        }
        inner.store.task(id).await?.ok_or(Refusal::NotFound)
    }
}

impl Inner {
    async fn cancel_one(&self, id: TaskId) -> Result<Task, Refusal> {
        // A worker may be claiming the task at this very moment: then its next phase decides.
        for _ in 0..5 {
            let mut task = self.store.task(id).await?.ok_or(Refusal::NotFound)?;
            if planted("terminal_overwrite") && task.phase.terminal() {
                task.phase = Phase::Queued;
            }
            match task.phase {
                Phase::Queued => {}
                Phase::Gathering => add_up(&mut task, &self.store.parts(id).await?),
                // Asked, the provider may agree; what becomes of the task is known when it has answered.
                Phase::Waiting if task.state.cancels => {
                    task.state.stopping = Some(Stopping::Wanted);
                    let change = Change::of(Box::new(task));
                    match self.store.save(change).await {
                        Err(StoreError::Stale) => continue,
                        saved => {
                            self.make_due(id).await?;
                            return Ok(*saved?);
                        }
                    }
                }
                phase if phase.terminal() => {
                    let detail = format!("{id} is {}", phase.as_str());
                    return Err(Refusal::TooLate(Code::AlreadyFinished, detail));
                }
                _ => {
                    let detail = format!("{id} is already at a provider, which offers no way back");
                    return Err(Refusal::TooLate(Code::NotCancelable, detail));
                }
            }
            let told = task.apply(Event::Cancel, self.clock.now());
            let told = told.map_err(|illegal| Refusal::TooLate(Code::NotCancelable, illegal.to_string()))?;
            let change = Change { notices: told.into_iter().collect(), ..Change::of(Box::new(task)) };
            match self.store.save(change).await {
                Err(StoreError::Stale) => {}
                saved => {
                    let task = *saved?;
                    self.saved(&task);
                    return Ok(task);
                }
            }
        }
        Err(Refusal::TooLate(Code::NotCancelable, format!("{id} is just being sent to a provider")))
    }
}
