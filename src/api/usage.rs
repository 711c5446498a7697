//! `GET /usage`: counts and money, grouped by day, model, provider or key, as JSON or CSV.

use std::ops::Add;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::csv::{self, Format};
use super::json::StrictQuery;
use super::problem::{ApiError, Common};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::day::Day;
use crate::domain::key::{Key, Role};
use crate::domain::money::Usd;
use crate::store::{Grouping, Usage, UsageFilter};

/// The longest span, in days.
const MOST_DAYS: i64 = 400;
/// The usual one.
const USUAL_DAYS: i64 = 30;

/// What usage is grouped by.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum GroupBy {
    /// The day a task was accepted on, UTC.
    #[default]
    Day,
    /// The model.
    Model,
    /// The provider.
    Provider,
    /// The name of the key.
    Key,
}

/// What to add up, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AskUsage {
    /// By what; `day` unless said otherwise.
    #[param(inline)]
    group_by: Option<GroupBy>,
    /// Only tasks accepted on or after this day, or at or after this moment; 30 days ago unless said otherwise.
    #[param(value_type = Option<String>, example = "2026-11-01")]
    from: Option<String>,
    /// Only tasks accepted up to the end of this day, or before this moment; now unless said otherwise.
    #[param(value_type = Option<String>, example = "2026-11-30")]
    to: Option<String>,
    /// Only this tenant's; for admin keys, which see all of them otherwise.
    tenant: Option<String>,
    /// `json` or `csv`; without it the `Accept` header decides.
    #[param(inline)]
    format: Option<Format>,
}

/// A span of time to add up.
pub(super) struct Span {
    pub from: Millis,
    pub to: Millis,
}

impl Span {
    /// From days (whole ones) or moments.
    pub fn read(from: Option<&str>, to: Option<&str>, now: Millis) -> Result<Self, ApiError> {
        let bad = |name: &str| {
            let detail = format!("{name}: expected a day such as 2026-11-22, or a moment in RFC 3339");
            ApiError::new(Code::InvalidRequest, detail)
        };
        let read = |name: &str, text: &str, at: fn(Day) -> Millis| {
            let moment = text.parse::<Millis>().ok();
            moment.or_else(|| text.parse().ok().map(at)).ok_or_else(|| bad(name))
        };
        let to = to.map_or(Ok(Millis(now.0 + 1)), |text| read("to", text, Day::end))?;
        let usual = Day(Day::of(Millis(to.0 - 1)).0 - USUAL_DAYS).start();
        let from = from.map_or(Ok(usual), |text| read("from", text, Day::start))?;
        if from >= to || Day::of(to).0 - Day::of(from).0 > MOST_DAYS {
            let detail = format!("from must lie before to, by {MOST_DAYS} days at most");
            return Err(ApiError::new(Code::InvalidRequest, detail));
        }
        Ok(Self { from, to })
    }
}

/// What a group of tasks comes to. Money is in US dollars; a task's counts to the day it was accepted on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct UsageView {
    /// Tasks accepted.
    #[schema(example = 120)]
    tasks: i64,
    /// Of them, ended with pictures.
    #[schema(example = 112)]
    succeeded: i64,
    /// Ended without.
    #[schema(example = 5)]
    failed: i64,
    /// Called off.
    #[schema(example = 1)]
    canceled: i64,
    /// Pictures that came, late ones included; not those of tasks that were erased.
    #[schema(example = 130)]
    images: i64,
    /// By the catalogue, when they were accepted.
    estimated_usd: Usd,
    /// Set aside for tasks that have not ended.
    reserved_usd: Usd,
    /// Charged: what providers reported, and the catalogue's price where they said that they charged but not how much.
    settled_usd: Usd,
    /// What attempts may have cost at worst of which nobody can say whether they were charged.
    unresolved_usd: Usd,
    /// How many these are; `GET /admin/attempts?billing=unknown` lists them.
    #[schema(example = 1)]
    unresolved_attempts: i64,
    /// Upstream calls accepted without a known price: in none of the sums before they are charged.
    #[schema(example = 0)]
    unpriced: i64,
}

/// One group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageGroup {
    /// The day, model, provider or key.
    #[schema(example = "2026-11-22")]
    group: String,
    #[serde(flatten)]
    usage: UsageView,
}

/// Usage.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageReport {
    /// What it is grouped by.
    group_by: GroupBy,
    /// Tasks accepted at or after…
    from: Millis,
    /// …and before.
    to: Millis,
    /// Whose; `null`: everybody's.
    tenant: Option<String>,
    /// Group by group.
    data: Vec<UsageGroup>,
    /// All of them together.
    total: UsageView,
}

/// See what was used
///
/// Counts and money of tasks accepted in a span of time: the tenant's own, or for admin keys everybody's. As CSV with
/// `format=csv` or `Accept: text/csv`.
#[utoipa::path(
    get, path = "/usage", tag = "Usage",
    params(AskUsage),
    responses(
        (status = 200, description = "Usage", content((UsageReport = "application/json"), (String = "text/csv", example = "day,tasks,succeeded,failed,canceled,images,estimated_usd,reserved_usd,settled_usd,unresolved_usd,unresolved_attempts,unpriced\r\n2026-11-22,120,112,5,1,130,0.195,0,0.18,0.0015,1,0\r\n"))),
        (status = 403, description = "Another tenant's usage is for admin keys", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        Common
    )
)]
pub(super) async fn get_usage(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    headers: HeaderMap,
    StrictQuery(asked): StrictQuery<AskUsage>,
) -> Result<Response, ApiError> {
    let span = Span::read(asked.from.as_deref(), asked.to.as_deref(), api.clock.now())?;
    let tenant = match (key.role, asked.tenant) {
        (Role::Admin, asked) => asked,
        (Role::User, Some(other)) if other != key.tenant => {
            return Err(ApiError::new(Code::Forbidden, "tenant: another tenant's usage is for admin keys"));
        }
        (Role::User, _) => Some(key.tenant),
    };
    let group_by = asked.group_by.unwrap_or_default();
    let (by, name) = match group_by {
        GroupBy::Day => (Grouping::Day, "day"),
        GroupBy::Model => (Grouping::Model, "model"),
        GroupBy::Provider => (Grouping::Provider, "provider"),
        GroupBy::Key => (Grouping::Key, "key"),
    };
    let filter = UsageFilter { tenant, from: span.from, to: span.to, by };
    let groups = api.store.usage(&filter).await?;
    if csv::wanted(asked.format, &headers) {
        let head = [name].into_iter().chain(COLUMNS).collect::<Vec<_>>();
        let rows = groups.into_iter().map(|(group, usage)| UsageView::from(usage).cells(group));
        return Ok(csv::table(&format!("usage-by-{name}"), &head, rows));
    }
    let total = groups.values().copied().fold(Usage::default(), Add::add).into();
    let data = groups.into_iter().map(|(group, usage)| UsageGroup { group, usage: usage.into() }).collect();
    let report = UsageReport { group_by, from: span.from, to: span.to, tenant: filter.tenant, data, total };
    Ok(Json(report).into_response())
}

const COLUMNS: [&str; 11] = [
    "tasks",
    "succeeded",
    "failed",
    "canceled",
    "images",
    "estimated_usd",
    "reserved_usd",
    "settled_usd",
    "unresolved_usd",
    "unresolved_attempts",
    "unpriced",
];

impl UsageView {
    fn cells(&self, group: String) -> Vec<String> {
        let counts = [self.tasks, self.succeeded, self.failed, self.canceled, self.images];
        let money = [self.estimated_usd, self.reserved_usd, self.settled_usd, self.unresolved_usd];
        let mut cells = vec![group];
        cells.extend(counts.map(|count| count.to_string()));
        cells.extend(money.map(|usd| usd.to_string()));
        cells.extend([self.unresolved_attempts, self.unpriced].map(|count| count.to_string()));
        cells
    }
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            tasks: usage.tasks,
            succeeded: usage.succeeded,
            failed: usage.failed,
            canceled: usage.canceled,
            images: usage.images,
            estimated_usd: usage.estimated,
            reserved_usd: usage.reserved,
            settled_usd: usage.settled,
            unresolved_usd: usage.unresolved,
            unresolved_attempts: usage.unresolved_attempts,
            unpriced: usage.unpriced,
        }
    }
}
