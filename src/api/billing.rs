//! `/admin/attempts`: what nobody could say about the billing of attempts, and what an operator has found out.

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::attempts::AttemptView;
use super::audit::actor;
use super::json::{StrictJson, StrictQuery};
use super::page::{cursor, limit, page, read_cursor};
use super::problem::{AdminOnly, ApiError, Common, WithBody};
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::code::Code;
use crate::domain::id::TaskId;
use crate::domain::key::Key;
use crate::domain::money::Usd;
use crate::domain::validate::{FieldCode, FieldError};

/// Which attempts, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AskAttempts {
    /// What is known of their billing; `unknown` unless said otherwise.
    #[param(inline)]
    billing: Option<Billing>,
    /// How many, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// An attempt with whose it was.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JudgedAttempt {
    /// The task it was for.
    task_id: TaskId,
    /// Whose task.
    #[schema(example = "default")]
    tenant: String,
    /// The name of the key it came with.
    #[schema(example = "ci")]
    key: String,
    #[serde(flatten)]
    attempt: AttemptView,
}

/// A page of attempts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JudgedPage {
    /// Newest first.
    data: Vec<JudgedAttempt>,
    /// Whether there are older ones.
    has_more: bool,
    /// Where the next page begins.
    next_cursor: Option<String>,
}

/// List attempts by their billing
///
/// Attempts that are over, of all tenants, newest first: those of which nobody can say whether they were charged, or others.
/// For admin keys.
#[utoipa::path(
    get, path = "/admin/attempts", tag = "Usage",
    params(AskAttempts),
    responses(
        (status = 200, description = "A page of attempts", body = JudgedPage),
        AdminOnly,
        Common
    )
)]
pub(super) async fn list_judged(
    State(api): State<Api>,
    uri: Uri,
    StrictQuery(asked): StrictQuery<AskAttempts>,
) -> Result<Response, ApiError> {
    let from = asked.cursor.as_deref().map(read_cursor).transpose()?;
    let billing = asked.billing.unwrap_or(Billing::Unknown);
    let listed = api.store.judged(billing, from, limit(asked.limit)?).await?;
    let next_cursor = listed.next.map(cursor);
    let data = listed.items.into_iter().map(|one| JudgedAttempt {
        task_id: one.task,
        tenant: one.tenant,
        key: one.key,
        attempt: one.attempt.into(),
    });
    let body = JudgedPage { data: data.collect(), has_more: next_cursor.is_some(), next_cursor };
    Ok(page(&body, &uri, body.next_cursor.as_deref()))
}

/// Whether it was charged.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Billed {
    /// It was.
    Yes,
    /// It was not.
    No,
}

/// What was found out about an attempt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"billed": "no"}))]
pub(super) struct Finding {
    /// Whether it was charged.
    billed: Billed,
    /// How much was charged, when that is known better than by the attempt's `possible_charge_usd`.
    charged_usd: Option<Usd>,
}

/// Say whether an attempt was charged
///
/// For an attempt of unknown billing whose task has ended. Corrects the attempt, its task's cost and the ledger at once; saying
/// it again changes nothing. What the provider itself says later still counts. For admin keys.
#[utoipa::path(
    post, path = "/admin/attempts/{id}/billing", tag = "Usage",
    params(("id" = String, Path, description = "The attempt's id")),
    request_body = Finding,
    responses(
        (status = 200, description = "The attempt as it is now", body = AttemptView),
        (status = 409, description = "Its task has not ended, or its billing is known to be otherwise", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        AdminOnly, WithBody, Common
    )
)]
pub(super) async fn judge(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    Path(id): Path<String>,
    StrictJson(finding): StrictJson<Finding>,
) -> Result<Json<AttemptView>, ApiError> {
    let id = id.parse().map_err(|_| ApiError::not_found())?;
    let billed = match (finding.billed, finding.charged_usd) {
        (Billed::No, None) => Billing::No,
        (Billed::Yes, charged) if charged.is_none_or(|usd| usd > Usd::ZERO) => Billing::Yes,
        _ => {
            let detail = "more than 0, and only for what was charged";
            let fault = FieldError::new("/charged_usd", FieldCode::InvalidValue, detail);
            return Err(ApiError::fields(Code::ValidationFailed, vec![fault]));
        }
    };
    let evidence = format!("said by {}", key.name);
    let verdict = Verdict { charged: finding.charged_usd, ..Verdict::new(billed, evidence) };
    Ok(Json(api.engine.mark(id, verdict, actor(&key)).await?.into()))
}
