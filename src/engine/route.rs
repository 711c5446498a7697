//! Which routes can serve a request, best first, and why the others cannot: a pure function of the request and the
//! catalogue. Nothing is sent and nothing is stored.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::catalog::{Price, Route};
use crate::domain::code::Code;
use crate::domain::fit::{Adjustment, fit};
use crate::domain::money::Usd;
use crate::domain::request::{GenerateRequest, Operation, Strategy};
use crate::domain::task::RouteTaken;
use crate::domain::validate::{FieldCode, FieldError};

/// Everything that is on offer, in the operator's order.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Routes of the providers that are on.
    pub entries: Vec<Entry>,
    /// Models of adapter kinds with no provider on, to say so instead of "unknown".
    pub dormant: Vec<String>,
    /// What `auto` tries, in order.
    pub default_models: Vec<String>,
    /// The operator's own names: a model with defaults.
    pub aliases: BTreeMap<String, Alias>,
}

/// One route at one configured account.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Provider id.
    pub provider: String,
    /// The route.
    pub route: Route,
}

/// An operator's name for a model with defaults.
#[derive(Debug, Clone, Default)]
pub struct Alias {
    /// The model it stands for.
    pub model: String,
    /// Request fields it fills in where the caller left them out.
    pub defaults: Map<String, Value>,
}

/// A route that can serve the request.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The route and why it is taken.
    pub taken: RouteTaken,
    /// The model's public name.
    pub model: String,
    /// The kind of work.
    pub operation: Operation,
    /// The provider's word for it.
    pub form: String,
    /// The request as the route honours it.
    pub request: GenerateRequest,
    /// What was adjusted.
    pub adjustments: Vec<Adjustment>,
    /// How many upstream calls it takes.
    pub calls: u32,
    /// What it costs at most, when a price is known.
    pub price: Option<Usd>,
}

/// A route that cannot.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// Provider id.
    pub provider: String,
    /// The model's name there.
    pub provider_model: String,
    /// The code that fits.
    pub code: Code,
    /// Every reason.
    pub reasons: Vec<FieldError>,
}

/// What the request comes to.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The request with an alias's defaults filled in.
    pub request: GenerateRequest,
    /// Routes that can serve it, best first.
    pub planned: Vec<Planned>,
    /// Routes that cannot, each with its reasons.
    pub rejected: Vec<Rejected>,
}

/// Why no route can serve a request.
#[derive(Debug, Clone)]
pub struct NoRoute {
    /// The code that fits best.
    pub code: Code,
    /// One sentence.
    pub detail: String,
    /// The reasons, pointing into the request.
    pub errors: Vec<FieldError>,
}

impl Catalog {
    /// Whether `model` is a name callers can use.
    pub fn knows(&self, model: &str) -> bool {
        self.aliases.contains_key(model)
            || self.dormant.iter().any(|name| name == model)
            || !self.named(model).is_empty()
    }

    /// The route a task is on.
    pub fn entry(&self, provider: &str, provider_model: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.provider == provider && entry.route.provider_model == provider_model)
    }

    /// A route a task was planned for, planned again with today's catalogue.
    pub fn replan(&self, request: &GenerateRequest, taken: &RouteTaken) -> Option<Planned> {
        let mut planned = self.entry(&taken.provider, &taken.provider_model)?.offer(request, 0).ok()?;
        planned.taken.reason.clone_from(&taken.reason);
        Some(planned)
    }

    /// Entries a model name means: a public name, or `provider/provider_model`.
    fn named(&self, model: &str) -> Vec<&Entry> {
        let pinned = model.split_once('/');
        let means = |entry: &&Entry| {
            entry.route.model == model
                || pinned == Some((entry.provider.as_str(), entry.route.provider_model.as_str()))
        };
        self.entries.iter().filter(means).collect()
    }

    /// Plans a request that is well-formed.
    pub fn plan(&self, request: &GenerateRequest) -> Result<Plan, NoRoute> {
        let asked = request.model.as_deref().unwrap_or("auto");
        if let Some(alias) = self.aliases.get(asked) {
            return self.plan_model(&alias.model, &alias.fill(request));
        }
        if asked != "auto" {
            return self.plan_model(asked, request);
        }
        let mut plans = Vec::new();
        for model in &self.default_models {
            let request =
                self.aliases.get(model).map_or_else(|| request.clone(), |alias| alias.fill(request));
            let plan = self.consider(self.aliases.get(model).map_or(model, |alias| &alias.model), &request);
            if !plan.planned.is_empty() {
                return Ok(plan);
            }
            plans.extend(plan.rejected);
        }
        Err(verdict(&plans))
    }

    fn plan_model(&self, model: &str, request: &GenerateRequest) -> Result<Plan, NoRoute> {
        if self.named(model).is_empty() {
            let dormant = self.dormant.iter().any(|name| name == model);
            let (code, field, detail) = if dormant {
                (
                    Code::Unservable,
                    FieldCode::Unsupported,
                    format!("no provider that offers {model:?} is configured"),
                )
            } else {
                (
                    Code::ValidationFailed,
                    FieldCode::InvalidValue,
                    format!("unknown model {model:?}; GET /models lists them"),
                )
            };
            let errors = vec![FieldError::new("/model", field, &detail)];
            return Err(NoRoute { code, detail, errors });
        }
        let plan = self.consider(model, request);
        if plan.planned.is_empty() { Err(verdict(&plan.rejected)) } else { Ok(plan) }
    }

    fn consider(&self, model: &str, request: &GenerateRequest) -> Plan {
        let mut plan = Plan { request: request.clone(), ..Plan::default() };
        for (place, entry) in self.ordered(model, request).into_iter().enumerate() {
            match entry.offer(request, place) {
                Ok(planned) => plan.planned.push(planned),
                Err((code, reasons)) => plan.rejected.push(Rejected {
                    provider: entry.provider.clone(),
                    provider_model: entry.route.provider_model.clone(),
                    code,
                    reasons,
                }),
            }
        }
        if request.routing.strategy == Some(Strategy::Cheapest) {
            plan.planned.sort_by_key(|planned| (planned.price.is_none(), planned.price));
        }
        if request.routing.allow_fallback == Some(false) {
            plan.planned.truncate(1);
        }
        plan
    }

    /// A model's entries: those the caller put in order first, then the rest as configured.
    fn ordered(&self, model: &str, request: &GenerateRequest) -> Vec<&Entry> {
        let order = &request.routing.order;
        let mut entries = self.named(model);
        entries.sort_by_key(|entry| {
            order.iter().position(|name| *name == entry.provider).unwrap_or(order.len())
        });
        entries
    }
}

impl Alias {
    /// The request with the alias's defaults where the caller said nothing.
    fn fill(&self, request: &GenerateRequest) -> GenerateRequest {
        let Ok(Value::Object(mut document)) = serde_json::to_value(request) else { return request.clone() };
        for (name, value) in &self.defaults {
            document.entry(name.clone()).or_insert_with(|| value.clone());
        }
        // The defaults were tried when the configuration was read.
        serde_json::from_value(document.into()).unwrap_or_else(|_| request.clone())
    }
}

impl Entry {
    /// The first of the route's offers that fits, or every reason why none does.
    fn offer(&self, request: &GenerateRequest, place: usize) -> Result<Planned, (Code, Vec<FieldError>)> {
        let routing = &request.routing;
        let excluded = (!routing.only.is_empty() && !routing.only.contains(&self.provider))
            || routing.ignore.contains(&self.provider);
        if excluded {
            let reason =
                FieldError::new("/routing", FieldCode::Unsupported, "excluded by the request's routing");
            return Err((Code::Unservable, vec![reason]));
        }
        let operation = operation(request, &self.route);
        let options = request.provider_options.get(&self.provider);
        let mut reasons = Vec::new();
        for offer in self.route.offers.iter().filter(|offer| offer.operation == operation) {
            match fit(&self.route, offer, request, options) {
                Ok(fit) => {
                    let price = self
                        .route
                        .price
                        .as_ref()
                        .and_then(|price| call_prices(price, &fit.request, offer.most_per_call()));
                    affordable(routing.max_cost_usd, price)?;
                    let taken = RouteTaken {
                        provider: self.provider.clone(),
                        provider_model: self.route.provider_model.clone(),
                        reason: reason(request, place, price),
                    };
                    return Ok(Planned {
                        taken,
                        model: self.route.model.clone(),
                        operation,
                        form: offer.form.clone(),
                        request: fit.request,
                        adjustments: fit.adjustments,
                        calls: fit.calls,
                        price,
                    });
                }
                // The form that came closest speaks for the route.
                Err(faults) if reasons.is_empty() || faults.len() < reasons.len() => reasons = faults,
                Err(_) => {}
            }
        }
        if reasons.is_empty() {
            let detail = format!("this route offers no {}", operation.as_str());
            return Err((
                Code::Unservable,
                vec![FieldError::new("/operation", FieldCode::Unsupported, detail)],
            ));
        }
        let lacking = reasons.iter().any(|fault| fault.code == FieldCode::Unsupported);
        Err((if lacking { Code::Unservable } else { Code::ValidationFailed }, reasons))
    }
}

fn reason(request: &GenerateRequest, place: usize, price: Option<Usd>) -> String {
    let rank = match (request.routing.strategy.unwrap_or_default(), place) {
        (Strategy::Cheapest, _) => "cheapest first".to_owned(),
        (_, 0) => "first in order".to_owned(),
        (_, place) => format!("number {} in order", place + 1),
    };
    let price = price.map_or_else(|| "price unknown".to_owned(), |price| format!("${price}"));
    format!("{rank}; {price}")
}

/// The price of all calls that together make the pictures asked for.
fn call_prices(price: &Price, request: &GenerateRequest, most: u32) -> Option<Usd> {
    let (full, rest) = (request.count() / most, request.count() % most);
    let full = if full == 0 { Usd::ZERO } else { price.of(request, most)? * full };
    let rest = if rest == 0 { Usd::ZERO } else { price.of(request, rest)? };
    Some(full + rest)
}

fn affordable(most: Option<Usd>, price: Option<Usd>) -> Result<(), (Code, Vec<FieldError>)> {
    let fault = |code, detail: String| {
        Err((code, vec![FieldError::new("/routing/max_cost_usd", FieldCode::OutOfRange, detail)]))
    };
    match (most, price) {
        (Some(most), Some(price)) if price > most => fault(Code::MaxCostExceeded, format!("costs ${price}")),
        (Some(_), None) => {
            fault(Code::PriceUnknown, "no price is known, so the bound could not be kept".into())
        }
        _ => Ok(()),
    }
}

/// What the caller named, or what the other fields make it.
fn operation(request: &GenerateRequest, route: &Route) -> Operation {
    let derived = || {
        if request.mask.is_some() {
            Operation::Inpaint
        } else if request.outpaint.is_some() {
            Operation::Outpaint
        } else if !request.controls.is_empty() {
            Operation::Control
        } else if !request.images.is_empty() {
            route.image_operation.unwrap_or(Operation::ImageToImage)
        } else {
            Operation::TextToImage
        }
    };
    request.operation.unwrap_or_else(derived)
}

/// One answer for all routes: faults of the request when any route would take it corrected, otherwise what is lacking.
fn verdict(rejected: &[Rejected]) -> NoRoute {
    let best = [Code::ValidationFailed, Code::MaxCostExceeded, Code::PriceUnknown, Code::Unservable];
    let code = best
        .into_iter()
        .find(|code| rejected.iter().any(|route| route.code == *code))
        .unwrap_or(Code::Unservable);
    if code == Code::ValidationFailed {
        let errors = rejected
            .iter()
            .find(|route| route.code == code)
            .map(|route| route.reasons.clone())
            .unwrap_or_default();
        let detail =
            errors.first().map(|first| format!("{}: {}", first.pointer, first.detail)).unwrap_or_default();
        return NoRoute { code, detail, errors };
    }
    let named = rejected.iter().flat_map(|route| {
        route.reasons.iter().map(|reason| FieldError {
            detail: format!("{}/{}: {}", route.provider, route.provider_model, reason.detail),
            ..reason.clone()
        })
    });
    let errors: Vec<FieldError> = named.collect();
    let detail =
        errors.first().map_or_else(|| "no route is configured".to_owned(), |first| first.detail.clone());
    NoRoute { code, detail, errors }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalog;

    const TOML: &str = "
        [sets.a]
        size = { type = 'size', max_pixels = 1048576 }
        n = { type = 'integer', min = 1, max = 4 }
        [sets.b]
        size = { type = 'size', max_side = 1536 }
        [sets.images]
        images = { type = 'images', min = 1, max = 1, carriers = ['url'], required = true }
        [[routes]]
        kind = 'a'
        model = 'small'
        provider_model = 'A/small'
        price = { per_image = '0.01' }
        offers = [{ operation = 'text_to_image', form = 't', sets = ['a'] }]
        [[routes]]
        kind = 'b'
        model = 'small'
        provider_model = 'B-small'
        offers = [{ operation = 'text_to_image', form = 't', sets = ['b'] }]
        [[routes]]
        kind = 'b'
        model = 'large'
        provider_model = 'B-large'
        price = { per_image = '0.001' }
        offers = [{ operation = 'edit', form = 'e', sets = ['images'] }]
        image_operation = 'edit'
    ";

    fn catalog() -> Catalog {
        let routes = |kind: &str| catalog::read(TOML, kind).unwrap();
        let entries = |provider: &'static str| {
            routes(provider).into_iter().map(move |route| Entry { provider: provider.into(), route })
        };
        let alias =
            Alias { model: "small".into(), defaults: [("n".to_owned(), 2.into())].into_iter().collect() };
        Catalog {
            entries: entries("a").chain(entries("b")).collect(),
            dormant: vec!["asleep".into()],
            default_models: vec!["small".into(), "large".into()],
            aliases: [("twice".to_owned(), alias)].into(),
        }
    }

    fn plan(body: &str) -> Result<Vec<String>, (Code, Vec<String>)> {
        let request = serde_json::from_str(body).unwrap();
        match catalog().plan(&request) {
            Ok(plan) => Ok(plan.planned.into_iter().map(|one| one.taken.provider_model).collect()),
            Err(none) => Err((none.code, none.errors.into_iter().map(|error| error.pointer).collect())),
        }
    }

    #[test]
    fn a_model_means_all_its_routes_in_order() {
        assert_eq!(plan(r#"{"prompt":"x","model":"small"}"#).unwrap(), ["A/small", "B-small"]);
        assert_eq!(
            plan(r#"{"prompt":"x","model":"small","routing":{"order":["b"]}}"#).unwrap(),
            ["B-small", "A/small"]
        );
        assert_eq!(plan(r#"{"prompt":"x","model":"small","routing":{"only":["b"]}}"#).unwrap(), ["B-small"]);
        assert_eq!(
            plan(r#"{"prompt":"x","model":"small","routing":{"ignore":["b"]}}"#).unwrap(),
            ["A/small"]
        );
        assert_eq!(
            plan(r#"{"prompt":"x","model":"small","routing":{"allow_fallback":false}}"#).unwrap(),
            ["A/small"]
        );
        assert_eq!(plan(r#"{"prompt":"x","model":"a/A/small"}"#).unwrap(), ["A/small"]);
        assert_eq!(plan(r#"{"prompt":"x","model":"small","size":"1400x1400"}"#).unwrap(), ["B-small"]);
    }

    #[test]
    fn auto_takes_the_first_default_that_can() {
        assert_eq!(plan(r#"{"prompt":"x"}"#).unwrap(), ["A/small", "B-small"]);
        assert_eq!(plan(r#"{"prompt":"x","images":[{"url":"https://e.example/a"}]}"#).unwrap(), ["B-large"]);
    }

    #[test]
    fn aliases_fill_in_what_the_caller_left_out() {
        let of = |body: &str| catalog().plan(&serde_json::from_str(body).unwrap()).unwrap().planned.remove(0);
        assert_eq!(of(r#"{"prompt":"x","model":"twice"}"#).request.n, Some(2));
        let named = of(r#"{"prompt":"x","model":"twice","n":9}"#);
        assert_eq!((named.request.n, named.calls, named.price), (Some(9), 3, "0.09".parse().ok()));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let refused = |body: &str| plan(body).unwrap_err();
        assert_eq!(
            refused(r#"{"prompt":"x","model":"nope"}"#),
            (Code::ValidationFailed, vec!["/model".into()])
        );
        assert_eq!(refused(r#"{"prompt":"x","model":"asleep"}"#), (Code::Unservable, vec!["/model".into()]));
        assert_eq!(
            refused(r#"{"prompt":"x","model":"a/A/small","size":"1025x1024"}"#),
            (Code::ValidationFailed, vec!["/size".into()])
        );
        assert_eq!(refused(r#"{"prompt":"x","model":"small","operation":"edit"}"#).0, Code::Unservable);
        assert_eq!(
            refused(r#"{"prompt":"x","model":"a/A/small","routing":{"max_cost_usd":"0.001"}}"#).0,
            Code::MaxCostExceeded
        );
        assert_eq!(
            refused(r#"{"prompt":"x","model":"b/B-small","routing":{"max_cost_usd":"1"}}"#).0,
            Code::PriceUnknown
        );
    }
}
