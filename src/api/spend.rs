//! `GET /admin/spend`: what the whole gateway spent, day by day.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::json::StrictQuery;
use super::problem::{AdminOnly, ApiError, Common};
use super::usage::Span;
use crate::domain::money::Usd;
use crate::store::{Grouping, UsageFilter};

/// Which days.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AskSpend {
    /// From this day on; 30 days ago unless said otherwise.
    #[param(value_type = Option<String>, example = "2026-11-01")]
    from: Option<String>,
    /// Up to the end of this day; today unless said otherwise.
    #[param(value_type = Option<String>, example = "2026-11-30")]
    to: Option<String>,
    /// Only this tenant's.
    tenant: Option<String>,
}

/// A day's money, in US dollars. A task's money counts to the day it was accepted on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DaySpend {
    /// The day, UTC.
    #[schema(example = "2026-11-22")]
    day: String,
    /// Tasks accepted.
    #[schema(example = 120)]
    tasks: i64,
    /// By the catalogue, when they were accepted.
    estimated_usd: Usd,
    /// Set aside for those that have not ended.
    reserved_usd: Usd,
    /// Charged, by the providers' word; by the catalogue where they said that they charged but not how much.
    provider_reported_usd: Usd,
    /// What attempts may have cost at worst of which nobody can say whether they were charged.
    unresolved_usd: Usd,
    /// How many these are.
    #[schema(example = 1)]
    unresolved_attempts: i64,
}

/// The days on which there was anything.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Spend {
    /// In order.
    data: Vec<DaySpend>,
}

/// See what is spent
///
/// Day by day over all tenants: estimated, reserved, reported by providers, unresolved. For admin keys.
#[utoipa::path(
    get, path = "/admin/spend", tag = "Usage",
    params(AskSpend),
    responses(
        (status = 200, description = "The days", body = Spend),
        AdminOnly,
        Common
    )
)]
pub(super) async fn get_spend(
    State(api): State<Api>,
    StrictQuery(asked): StrictQuery<AskSpend>,
) -> Result<Json<Spend>, ApiError> {
    let span = Span::read(asked.from.as_deref(), asked.to.as_deref(), api.clock.now())?;
    let filter = UsageFilter { tenant: asked.tenant, from: span.from, to: span.to, by: Grouping::Day };
    let days = api.store.usage(&filter).await?.into_iter().map(|(day, usage)| DaySpend {
        day,
        tasks: usage.tasks,
        estimated_usd: usage.estimated,
        reserved_usd: usage.reserved,
        provider_reported_usd: usage.settled,
        unresolved_usd: usage.unresolved,
        unresolved_attempts: usage.unresolved_attempts,
    });
    Ok(Json(Spend { data: days.collect() }))
}
