//! What providers offer, as data: [`Route`]s (a model at a provider), each [`Offer`]'s parameters, and [`Price`]s.
//! Read from every provider's `catalog.toml`. Applying it to a request is `fit.rs`, choosing among routes the engine's.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::money::Usd;
use super::param::{Carrier, Param, ParamName, Rule};
use super::request::{GenerateRequest, Operation, Quality};
use super::size::Size;

/// Parameter descriptors by name.
pub type Params = BTreeMap<ParamName, Param>;

/// One model at one provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The adapter that serves it.
    pub kind: String,
    /// The model's public name, shared by all its routes.
    pub model: String,
    /// The model's name at the provider.
    pub provider_model: String,
    /// What a call costs; `None` when nobody knows.
    pub price: Option<Price>,
    /// The operation taken when images are given and none is named.
    pub image_operation: Option<Operation>,
    /// What it can do; the first that fits a request is taken.
    pub offers: Vec<Arc<Offer>>,
    /// Options of this provider alone, by name.
    pub options: BTreeMap<String, Param>,
}

/// One operation of a route in one of the provider's forms.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Offer {
    /// The operation.
    pub operation: Operation,
    /// The provider's word for it: a task type, an endpoint.
    pub form: String,
    /// What it understands, by parameter name.
    #[schema(value_type = Object)]
    pub params: Params,
    /// Conditions across parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<CrossRule>,
}

impl Offer {
    /// How the images of a parameter travel, the preferred way first; empty when it takes none.
    pub fn carriers(&self, name: ParamName) -> &[Carrier] {
        match self.params.get(&name).map(|param| &param.rule) {
            Some(Rule::Images { carriers, .. } | Rule::Names { carriers, .. }) => carriers,
            _ => &[],
        }
    }

    /// The most pictures one upstream call may ask for.
    pub fn most_per_call(&self) -> u32 {
        match self.params.get(&ParamName::N).map(|param| &param.rule) {
            Some(Rule::Integer { max, .. }) => u32::try_from(*max).unwrap_or(1).max(1),
            _ => 1,
        }
    }
}

/// When one parameter has one of some values, another must have one of some others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CrossRule {
    /// JSON pointer to the parameter that triggers the rule.
    pub when: String,
    /// Its triggering values.
    pub is: Vec<String>,
    /// JSON pointer to the parameter that is then bound.
    pub then: String,
    /// The values it may have.
    pub one_of: Vec<String>,
    /// Why, in words for the caller.
    pub because: String,
}

/// What one upstream call costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Dollars per picture, when it is the same for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_image: Option<Usd>,
    /// Dollars per call, however many pictures come of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_call: Option<Usd>,
    /// Dollars per picture by quality and size.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grades: Vec<Grade>,
    /// Dollars for an answer that holds no picture; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_image: Option<Usd>,
}

/// One row of a price table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Grade {
    /// The quality.
    pub quality: Quality,
    /// The sizes.
    pub sizes: Vec<Size>,
    /// Dollars per picture.
    pub per_image: Usd,
}

impl Price {
    /// Dollars for one call that makes `count` pictures as asked. Where the provider chooses (quality or size `auto` or absent) this is the
    /// dearest it may choose, so that a bound kept with it is kept.
    pub fn of(&self, request: &GenerateRequest, count: u32) -> Option<Usd> {
        if let Some(flat) = self.per_call.or(self.per_image.map(|each| each * count)) {
            return Some(flat);
        }
        let quality = request.quality.filter(|quality| *quality != Quality::Auto);
        let matching = self.grades.iter().filter(|grade| {
            quality.is_none_or(|wanted| grade.quality == wanted)
                && request.size.is_none_or(|size| grade.sizes.contains(&size))
        });
        matching.map(|grade| grade.per_image).max().map(|each| each * count)
    }
}

/// A `catalog.toml` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It is not the TOML expected.
    #[error("catalogue: {0}")]
    Toml(#[from] toml::de::Error),
    /// An offer names a parameter set that is not there.
    #[error("catalogue: {model}/{form} uses the unknown parameter set {set:?}")]
    UnknownSet {
        /// The model.
        model: String,
        /// The offer.
        form: String,
        /// The missing set.
        set: String,
    },
}

/// The file's own shape: parameter sets are written once and shared by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    sets: BTreeMap<String, Params>,
    #[serde(default)]
    options: BTreeMap<String, BTreeMap<String, Param>>,
    #[serde(default)]
    routes: Vec<FileRoute>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRoute {
    kind: String,
    model: String,
    provider_model: String,
    price: Option<Price>,
    image_operation: Option<Operation>,
    /// Conditions all its offers share.
    #[serde(default)]
    rules: Vec<CrossRule>,
    offers: Vec<FileOffer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOffer {
    operation: Operation,
    form: String,
    #[serde(default)]
    sets: Vec<String>,
}

/// The routes a `catalog.toml` lists for one adapter kind.
pub fn read(text: &str, kind: &str) -> Result<Vec<Route>, CatalogError> {
    let file: File = toml::from_str(text)?;
    let options = file.options.get(kind).cloned().unwrap_or_default();
    let routes = file.routes.into_iter().filter(|route| route.kind == kind);
    routes
        .map(|route| {
            let offers = route.offers.into_iter().map(|offer| {
                let mut params = Params::new();
                for set in offer.sets {
                    let found = file.sets.get(&set).ok_or_else(|| CatalogError::UnknownSet {
                        model: route.model.clone(),
                        form: offer.form.clone(),
                        set,
                    })?;
                    params.extend(found.iter().map(|(name, param)| (*name, param.clone())));
                }
                Ok(Arc::new(Offer {
                    operation: offer.operation,
                    form: offer.form,
                    params,
                    rules: route.rules.clone(),
                }))
            });
            Ok(Route {
                offers: offers.collect::<Result<_, CatalogError>>()?,
                kind: route.kind,
                model: route.model,
                provider_model: route.provider_model,
                price: route.price,
                image_operation: route.image_operation,
                options: options.clone(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_priced_at_the_dearest() {
        let price: Price = toml::from_str(
            "grades = [{quality='low', sizes=['1024x1024'], per_image='0.011'},
                       {quality='high', sizes=['1024x1024'], per_image='0.167'},
                       {quality='high', sizes=['1024x1536'], per_image='0.25'}]",
        )
        .unwrap();
        let of = |body: &str| price.of(&serde_json::from_str(body).unwrap(), 2).map(|usd| usd.to_string());
        assert_eq!(of(r#"{"prompt":"x","quality":"low","size":"1024x1024"}"#).as_deref(), Some("0.022"));
        assert_eq!(of(r#"{"prompt":"x","quality":"auto","size":"1024x1024"}"#).as_deref(), Some("0.334"));
        assert_eq!(of(r#"{"prompt":"x"}"#).as_deref(), Some("0.5"));
        assert_eq!(of(r#"{"prompt":"x","size":"7x7"}"#), None);
    }

    #[test]
    fn a_missing_set_is_named() {
        let text = "[[routes]]\nkind='k'\nmodel='m'\nprovider_model='p'\n[[routes.offers]]\noperation='edit'\nform='f'\nsets=['nope']";
        assert_eq!(
            read(text, "k").unwrap_err().to_string(),
            "catalogue: m/f uses the unknown parameter set \"nope\""
        );
    }
}
