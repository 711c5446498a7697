//! Floor 4: HTTP in. One file per resource, each with its request, its answer, its documentation and its handler;
//! `routes!` mounts and documents in one line. Every path needs a key but the few that `auth.rs` names.

mod allowance;
mod attempts;
mod audit;
mod auth;
mod billing;
mod cancel;
mod csv;
mod deliveries;
mod docs;
mod entrance;
mod erase;
mod events;
mod feed;
mod files;
mod generate;
mod guard;
mod guesses;
mod health;
mod hooks;
mod image;
mod inline;
mod json;
mod keyring;
mod keys;
mod log;
mod loops;
pub mod metrics;
mod models;
mod named;
mod page;
mod picture;
mod problem;
mod providers;
mod quarantine;
mod reload;
mod request_id;
mod shed;
mod spend;
mod task;
mod tasks;
mod tries;
mod usage;
mod wait;
mod webhooks;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use feed::Feeds;
pub use guard::Guard;
pub use keyring::Keys;
pub use reload::{Reload, Reloaded};
pub use shed::Shed;

use crate::blobs::Blobs;
use crate::domain::clock::Clock;
use crate::domain::link::Links;
use crate::engine::Engine;
use crate::store::Store;
use crate::trace::Traces;

/// What handlers work with: one pointer, because every request takes a copy.
#[derive(Clone)]
pub struct Api(Arc<ApiState>);

impl Deref for Api {
    type Target = ApiState;
    fn deref(&self) -> &ApiState {
        &self.0
    }
}

impl From<ApiState> for Api {
    fn from(state: ApiState) -> Self {
        Self(Arc::new(state))
    }
}

/// All that handlers work with.
pub struct ApiState {
    /// Takes tasks in.
    pub engine: Engine,
    /// Reads rows.
    pub store: Store,
    /// Reads pictures.
    pub blobs: Blobs,
    /// Makes addresses.
    pub links: Links,
    /// Makes spans.
    pub traces: Traces,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who may come in.
    pub keys: Keys,
    /// How long a managed key's secret opens beside its successor.
    pub key_overlap: Duration,
    /// Reads the configuration again.
    pub reload: Reload,
    /// The most bytes of a JSON body.
    pub max_json: usize,
    /// How long a body may take to arrive.
    pub body_within: Duration,
    /// Shared by all who follow the same task.
    pub feeds: Feeds,
    /// How long a stream may be silent.
    pub heartbeat: Duration,
    /// Which requests are for us.
    pub guard: Guard,
    /// When load is shed.
    pub shed: Shed,
    /// Where figures are shown.
    pub scrape: metrics::Scrape,
    /// Changes the log level.
    pub set_level: fn(&str) -> Result<(), String>,
    /// Cancelled when the process is to stop: waiting callers are answered with what there is.
    pub closing: CancellationToken,
}

impl FromRef<Api> for Keys {
    fn from_ref(api: &Api) -> Self {
        api.keys.clone()
    }
}

/// Every documented endpoint.
fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(docs::about())
        .routes(routes!(generate::generate))
        .routes(routes!(generate::dry_run))
        .routes(routes!(tasks::list_tasks))
        .routes(routes!(task::get_task, erase::erase_task))
        .routes(routes!(cancel::cancel_task))
        .routes(routes!(events::follow_task))
        .routes(routes!(attempts::list_attempts))
        .routes(routes!(image::get_image))
        .routes(routes!(files::upload_file))
        .routes(routes!(files::get_file, files::delete_file))
        .routes(routes!(files::get_content))
        .routes(routes!(webhooks::list_webhooks, webhooks::register_webhook))
        .routes(routes!(webhooks::get_secret))
        .routes(routes!(webhooks::rotate_secret))
        .routes(routes!(webhooks::get_webhook, webhooks::delete_webhook))
        .routes(routes!(webhooks::test_webhook))
        .routes(routes!(webhooks::rotate_webhook))
        .routes(routes!(deliveries::list_deliveries))
        .routes(routes!(deliveries::list_all_deliveries))
        .routes(routes!(deliveries::redeliver))
        .routes(routes!(models::list_models))
        .routes(routes!(models::get_model))
        .routes(routes!(providers::list_providers))
        .routes(routes!(providers::reset_provider))
        .routes(routes!(usage::get_usage))
        .routes(routes!(spend::get_spend))
        .routes(routes!(billing::list_judged))
        .routes(routes!(billing::judge))
        .routes(routes!(quarantine::list_quarantine))
        .routes(routes!(quarantine::recover_all_quarantined))
        .routes(routes!(quarantine::get_quarantined))
        .routes(routes!(quarantine::get_quarantined_content))
        .routes(routes!(quarantine::recover_quarantined))
        .routes(routes!(hooks::ring))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(keys::rotate_key))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(audit::list_audit))
        .routes(routes!(reload::reload))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::get_metrics))
        .routes(routes!(log::set_log_level))
}

/// The OpenAPI document.
pub fn openapi() -> OpenApi {
    let (_, document) = documented().split_for_parts();
    document
}

/// The whole HTTP interface.
pub fn router(api: Api) -> Router {
    let (router, document) = documented().split_for_parts();
    router
        .merge(docs::pages(document))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), entrance::enter))
        .with_state(api)
}
