//! Callbacks of providers. One is a doorbell, not a letter: it makes a task due and may name a job; the truth comes from
//! asking the provider.

use serde_json::Value;

use super::{Engine, Inner};
use crate::chaos::{crash, planted};
use crate::domain::id::TaskId;
use crate::domain::secret::{same, sha256_hex};
use crate::store::StoreError;

impl Engine {
    /// Takes note of a callback to `provider` under `token`; `header` reads the callback's headers. Whether there is such a
    /// bell: a wrong token, provider or secret is as good as none.
    pub async fn ring<'h>(
        &self,
        provider: &str,
        token: &str,
        header: impl Fn(&str) -> Option<&'h [u8]> + Send,
        body: &[u8],
    ) -> Result<bool, StoreError> {
        let inner = &self.inner;
        let Some(lane) = inner.lane(provider) else { return Ok(false) };
        let Some(attempt) = inner.store.attempt_by_token(&sha256_hex(token.as_bytes())).await? else {
            return Ok(false);
        };
        let secret = inner.links.hook_secret(token);
        let knows = lane
            .provider
            .secret_header()
            .is_none_or(|name| header(name).is_some_and(|given| same(given, secret.as_bytes())));
        if attempt.provider != provider || !knows {
            return Ok(false);
        }
        if planted("dropped_late_callback") && attempt.finished_at.is_some() {
            return Ok(true);
        }
        let named = serde_json::from_slice::<Value>(body).ok().and_then(|body| lane.provider.named(&body));
        crash("callback.received");
        let held = || inner.held().contains_key(&attempt.task);
        let before = held();
        inner.store.knock(attempt.id, named, (!before).then_some(attempt.task)).await?;
        crash("callback.committed");
        // A worker that has the task by now is told after the row says why.
        if before || held() {
            inner.make_due(attempt.task).await?;
        }
        tracing::debug!(task.id = %attempt.task, attempt.id = %attempt.id, provider.id = provider, "a provider rang");
        Ok(true)
    }
}

impl Inner {
    /// Makes a task that waits for its provider due now, or once the worker that has it lets go of it.
    pub(super) async fn make_due(&self, id: TaskId) -> Result<(), StoreError> {
        if let Some(held) = self.held().get_mut(&id) {
            held.again = true;
            return Ok(());
        }
        self.store.wake(id).await
    }
}
