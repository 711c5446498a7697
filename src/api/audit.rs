//! `GET /admin/audit`: who did what to the gateway, and who tried to.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::json::StrictQuery;
use super::page::{cursor, limit, page, read_cursor};
use super::problem::{AdminOnly, ApiError, Common};
use crate::domain::audit::{Actor, Entry, Outcome};
use crate::domain::key::Key;
use crate::store::AuditFilter;

impl Api {
    /// That a key's bearer did something, to be written with what it did.
    pub(super) fn done(&self, by: &Key, act: &str, subject: impl Into<String>) -> Entry {
        Entry::new(self.clock.as_ref(), actor(by), act, subject, Outcome::Done)
    }
}

/// A key as one who acts.
pub(super) fn actor(key: &Key) -> Actor {
    Actor { key: key.name.clone(), tenant: key.tenant.clone() }
}

/// Which entries, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAudit {
    /// Only this act.
    #[param(example = "key.revoke")]
    act: Option<String>,
    /// Only by the key of this name.
    key: Option<String>,
    /// Only to this subject.
    subject: Option<String>,
    /// How many, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of the audit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditPage {
    /// The entries, newest first.
    data: Vec<Entry>,
    /// Whether there are older ones.
    has_more: bool,
    /// Where the next page begins.
    next_cursor: Option<String>,
}

/// Read the audit
///
/// Every act of an admin (`key.create`, `key.rotate`, `key.revoke`, `config.reload`, `log.level`, `attempt.billing`,
/// `quarantine.read`, `quarantine.recover`, `provider.reset`), what tenants did to their webhooks' secrets and deliveries, and what was tried in vain: `tenant.cross` (the id of another
/// tenant's thing, which was answered like an unknown one) and `admin.refused`. Newest first. Entries are never changed, and
/// kept for `audit.keep_days`.
#[utoipa::path(
    get, path = "/admin/audit", tag = "Admin", params(ListAudit),
    responses((status = 200, description = "A page of the audit", body = AuditPage), AdminOnly, Common)
)]
pub(super) async fn list_audit(
    State(api): State<Api>,
    uri: Uri,
    StrictQuery(query): StrictQuery<ListAudit>,
) -> Result<Response, ApiError> {
    let limit = limit(query.limit)?;
    let filter = AuditFilter {
        act: query.act,
        key: query.key,
        subject: query.subject,
        cursor: query.cursor.as_deref().map(read_cursor).transpose()?,
    };
    let listed = api.store.audit_entries(filter, limit).await?;
    let next_cursor = listed.next.map(cursor);
    let body = AuditPage { data: listed.items, has_more: next_cursor.is_some(), next_cursor };
    Ok(page(&body, &uri, body.next_cursor.as_deref()))
}
