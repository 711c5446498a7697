//! What an operator has found out about an attempt of unknown billing, at the provider's own account page or on its invoice,
//! entered into the books of the attempt, of its task and of the ledger at once.

use super::accept::Refusal;
use super::gather::add_up;
use super::{Engine, Inner};
use crate::domain::attempt::{Attempt, Billing, Verdict};
use crate::domain::audit::{Actor, Entry, Outcome};
use crate::domain::code::Code;
use crate::domain::id::AttemptId;
use crate::domain::ledger::EntryKind;
use crate::domain::task::Task;
use crate::store::{Change, StoreError};

impl Engine {
    /// Enters whether an attempt was charged, and how much when that is known better than by the catalogue, and into the
    /// audit who says so. The attempt as it is now: a mark that says what is known already changes nothing.
    pub async fn mark(&self, id: AttemptId, verdict: Verdict, who: Actor) -> Result<Attempt, Refusal> {
        loop {
            match self.inner.mark(id, &verdict, &who).await {
                Err(Refusal::Store(StoreError::Stale)) => {}
                marked => return marked,
            }
        }
    }
}

impl Inner {
    async fn mark(&self, id: AttemptId, verdict: &Verdict, who: &Actor) -> Result<Attempt, Refusal> {
        // The task first: whatever changes the attempt afterwards changes the task's version with it.
        let task = match self.store.attempt(id).await? {
            Some(attempt) => self.store.task(attempt.task).await?,
            None => None,
        };
        let (mut task, before) = task.zip(self.store.attempt(id).await?).ok_or(Refusal::NotFound)?;
        if !task.phase.terminal() {
            let detail = format!("{id} belongs to {}, which has not ended yet", task.id);
            return Err(Refusal::TooLate(Code::NotFinished, detail));
        }
        if before.billed == verdict.billed {
            return Ok(before);
        }
        if before.billed != Billing::Unknown {
            let detail =
                format!("{id} is known to be billed: {} ({})", before.billed.as_str(), before.evidence);
            return Err(Refusal::TooLate(Code::AlreadyFinished, detail));
        }
        let mut after = before.clone();
        let evidence = format!("{}; {}", verdict.evidence, before.evidence);
        let verdict = Verdict { evidence, ..verdict.clone() };
        after.judge(verdict.clone());
        let entries = task.rebook(&before, &after, EntryKind::Mark).into_iter().collect();
        let whole = self.whole(&task, &before, &after).await?;
        let act = "attempt.billing";
        let audit = Entry::new(self.clock.as_ref(), who.clone(), act, id.to_string(), Outcome::Done)
            .with("task", after.task.to_string())
            .with("billed", after.billed.as_str())
            .with("charged_usd", after.charged.map(|usd| usd.to_string()));
        let change = Change {
            verdict: Some((id, verdict)),
            entries,
            whole,
            audit: Some(audit),
            ..Change::of(Box::new(task))
        };
        self.store.save(change).await?;
        Ok(after)
    }

    /// The ended task that `part` is one of, with its parts' books added up anew. One that has not ended looks by itself.
    async fn whole(
        &self,
        part: &Task,
        before: &Attempt,
        after: &Attempt,
    ) -> Result<Option<Box<Task>>, StoreError> {
        let Some(id) = part.parent else { return Ok(None) };
        let Some(mut whole) = self.store.task(id).await?.filter(|whole| whole.phase.terminal()) else {
            return Ok(None);
        };
        let mut parts = self.store.parts(id).await?;
        for one in parts.iter_mut().filter(|one| one.id == part.id) {
            one.rebook(before, after, EntryKind::Mark);
        }
        add_up(&mut whole, &parts);
        Ok(Some(Box::new(whole)))
    }
}
