//! `GET /models`: the catalogue, told fully enough to draw a form from it.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa::ToSchema;

use super::Api;
use super::problem::{ApiError, Common};
use crate::domain::catalog::{Offer, Price};
use crate::domain::param::Param;
use crate::domain::request::Operation;
use crate::engine::{Catalog, Entry};

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelView {
    /// What callers name it by.
    id: String,
    /// The model it stands for, when it is an operator's alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    alias_of: Option<String>,
    /// Everything it can do by any route.
    operations: BTreeSet<Operation>,
    /// Where it is served, in the operator's order.
    routes: Vec<RouteView>,
}

/// A model at one provider.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RouteView {
    /// Provider id.
    provider: String,
    /// The model's name there; `provider/provider_model` pins this route.
    provider_model: String,
    /// What it can do, with every parameter's type and range.
    #[schema(value_type = Vec<Offer>)]
    offers: Vec<Arc<Offer>>,
    /// What a call costs; `null` when no price is known.
    price: Option<Price>,
    /// Options of this provider alone, for `provider_options`.
    #[schema(value_type = Object)]
    options: BTreeMap<String, Param>,
}

/// The catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    /// The models.
    data: Vec<ModelView>,
}

/// List models
///
/// Every model that a configured provider offers, with its routes, prices and typed parameters.
#[utoipa::path(
    get, path = "/models", tag = "Catalogue",
    responses((status = 200, description = "The catalogue", body = Models), Common)
)]
pub(super) async fn list_models(State(api): State<Api>) -> Json<Models> {
    Json(Models { data: models(&api.engine.catalog()) })
}

/// Read one model
#[utoipa::path(
    get, path = "/models/{id}", tag = "Catalogue",
    params(("id" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The model", body = ModelView), Common)
)]
pub(super) async fn get_model(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ModelView>, ApiError> {
    let model = models(&api.engine.catalog()).into_iter().find(|model| model.id == id);
    model.map(Json).ok_or_else(ApiError::not_found)
}

fn models(catalog: &Catalog) -> Vec<ModelView> {
    let mut models: Vec<ModelView> = Vec::new();
    for entry in &catalog.entries {
        let at = models.iter().position(|model| model.id == entry.route.model).unwrap_or_else(|| {
            models.push(ModelView {
                id: entry.route.model.clone(),
                alias_of: None,
                operations: BTreeSet::new(),
                routes: Vec::new(),
            });
            models.len() - 1
        });
        models[at].operations.extend(entry.route.offers.iter().map(|offer| offer.operation));
        models[at].routes.push(route(entry));
    }
    for (name, alias) in &catalog.aliases {
        let routes: Vec<_> =
            catalog.entries.iter().filter(|entry| entry.route.model == alias.model).collect();
        models.push(ModelView {
            id: name.clone(),
            alias_of: Some(alias.model.clone()),
            operations: routes
                .iter()
                .flat_map(|entry| &entry.route.offers)
                .map(|offer| offer.operation)
                .collect(),
            routes: routes.into_iter().map(route).collect(),
        });
    }
    models
}

fn route(entry: &Entry) -> RouteView {
    RouteView {
        provider: entry.provider.clone(),
        provider_model: entry.route.provider_model.clone(),
        offers: entry.route.offers.clone(),
        price: entry.route.price.clone(),
        options: entry.route.options.clone(),
    }
}
