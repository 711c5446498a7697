//! A task divided into parts: once all of them have ended, their pictures and their bills are its own.

use super::Inner;
use super::save::Step;
use crate::domain::attempt::Billing;
use crate::domain::image::StoredImage;
use crate::domain::money::Usd;
use crate::domain::task::{Event, Failure, Output, Phase, Source, Task};
use crate::trace;

impl Inner {
    /// Looks at the parts; the last one to end rings again. One that ends during the look has moved the task's version:
    /// then the sums are of yesterday, nothing of them is saved, and the look is taken anew.
    pub(super) async fn gather(&self, task: Box<Task>) {
        let id = task.id;
        // Each part ends once, and each end can spoil one look.
        let looks = task.state.parts + 1;
        let mut next = Some(task);
        for _ in 0..looks {
            let Some(task) = next.take() else { return };
            if self.look(task).await {
                return;
            }
            let now = self.store.task(id).await.ok().flatten();
            next = now.filter(|now| now.phase == Phase::Gathering).map(Box::new);
        }
    }

    /// Takes one look; whether it could be saved.
    async fn look(&self, mut task: Box<Task>) -> bool {
        let Some((parts, images)) = self.look_at_parts(&task).await else { return true };
        let ended = parts.iter().filter(|part| part.phase.terminal()).count();
        add_up(&mut task, &parts);
        if ended < parts.len() {
            #[expect(clippy::cast_precision_loss, reason = "ten at most")]
            let progress = (ended > 0).then(|| ended as f32 / parts.len() as f32);
            let step = Step { wake_at: None, ..Step::new(Event::Stay(progress), self.clock.now()) };
            return self.save(task, step).await.is_some();
        }
        let outputs: Vec<Output> =
            images.into_iter().map(|image| Output::new(Source::Blob(image.sha256), image.kind)).collect();
        let now = self.clock.now();
        if outputs.is_empty() {
            let failed = parts.iter().find_map(|part| part.state.failure.clone());
            let event = match failed {
                Some(failure) => Event::Fail(Failure { billed: task.billed(), ..failure }),
                None => Event::Cancel,
            };
            return self.save(task, Step::new(event, now)).await.is_some();
        }
        let produced = self.save(task, Step::leased(Event::Produce(outputs))).await;
        match produced {
            Some(task) => {
                trace::span("task.save").around(self.bring(task)).await;
                true
            }
            None => false,
        }
    }

    async fn look_at_parts(&self, task: &Task) -> Option<(Vec<Task>, Vec<StoredImage>)> {
        let looking = async {
            let parts = self.store.parts(task.id).await?;
            let mut images = Vec::new();
            for part in parts.iter().filter(|part| part.phase == Phase::Succeeded) {
                images.extend(self.store.images(part.id).await?.into_iter().filter(|image| !image.late));
            }
            Ok::<_, crate::store::StoreError>((parts, images))
        };
        match looking.await {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::error!(task.id = %task.id, %error, "cannot look at a task's parts; trying again when the lease ends");
                None
            }
        }
    }
}

/// The parts' bills are the task's.
pub(super) fn add_up(task: &mut Task, parts: &[Task]) {
    let sum = |of: fn(&Task) -> Usd| parts.iter().map(of).sum();
    task.state.cost.reserved = sum(|part| part.state.cost.reserved);
    task.state.cost.settled = sum(|part| part.state.cost.settled);
    task.state.cost.unresolved = sum(|part| part.state.cost.unresolved);
    let any = |billed: Billing| parts.iter().any(|part| part.state.billed == Some(billed));
    task.state.billed = [Billing::Yes, Billing::Unknown, Billing::No].into_iter().find(|billed| any(*billed));
    // What the parts' attempts cost is in their own books.
    task.state.booked = true;
}
