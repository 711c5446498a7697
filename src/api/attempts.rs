//! `GET /tasks/{id}/attempts`: every try at a provider, its reason and its billing verdict.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::{ApiError, Common};
use super::quarantine::links;
use crate::domain::attempt::{Attempt, AttemptState, Billing, ProviderUnits};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::id::AttemptId;
use crate::domain::key::{Key, Role};
use crate::domain::money::Usd;
use crate::domain::task::ProviderWords;
use crate::engine::Caller;

/// A try at a provider.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AttemptView {
    /// Its id.
    id: AttemptId,
    /// 1 for the task's first.
    number: u32,
    /// Provider id.
    provider: String,
    /// The model's name there.
    provider_model: String,
    /// Why this route was taken.
    reason: String,
    /// How far it has come.
    state: AttemptState,
    /// Whether it was charged.
    billed: Billing,
    /// How that is known.
    evidence: String,
    /// What it may cost at most; `null` when no price is known.
    possible_charge_usd: Option<Usd>,
    /// What it did cost; `null` while that is not known.
    charged_usd: Option<Usd>,
    /// The same in the provider's units.
    provider_units: Option<ProviderUnits>,
    /// The code of what went wrong.
    error: Option<Code>,
    /// What went wrong, in the provider's words.
    provider_words: Option<ProviderWords>,
    /// Result links that are not resolved, without credentials; for admin keys alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    result_links: Vec<String>,
    /// When its intent was written.
    started_at: Millis,
    /// When the provider was done with it.
    finished_at: Option<Millis>,
}

/// A task's attempts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Attempts {
    /// First to last.
    data: Vec<AttemptView>,
}

/// List a task's attempts
///
/// Every try at a provider, first to last, with what is known of its billing and how.
#[utoipa::path(
    get, path = "/tasks/{id}/attempts", tag = "Tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses((status = 200, description = "The attempts", body = Attempts), Common)
)]
pub(super) async fn list_attempts(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(key): Extension<Key>,
    Path(id): Path<String>,
) -> Result<Json<Attempts>, ApiError> {
    let task = api.task_of(&caller, &id).await?;
    let attempts = api.store.attempts(task.id).await?;
    let admin = key.role == Role::Admin;
    let view = |attempt: Attempt| {
        let in_hand = task.state.attempt == Some(attempt.id);
        let outputs = if in_hand {
            [task.state.outputs.as_slice(), &attempt.made].concat()
        } else {
            attempt.made.clone()
        };
        let result_links = if admin { links(&outputs) } else { Vec::new() };
        AttemptView { result_links, ..attempt.into() }
    };
    Ok(Json(Attempts { data: attempts.into_iter().map(view).collect() }))
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let failure = attempt.failure;
        Self {
            id: attempt.id,
            number: attempt.number,
            provider: attempt.provider,
            provider_model: attempt.provider_model,
            reason: attempt.reason,
            state: attempt.state,
            billed: attempt.billed,
            evidence: attempt.evidence,
            possible_charge_usd: attempt.possible_charge,
            charged_usd: attempt.charged,
            provider_units: attempt.units,
            error: failure.as_ref().map(|failure| failure.code),
            provider_words: failure.and_then(|failure| failure.provider),
            result_links: Vec::new(),
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
        }
    }
}
