//! Everything that is on offer at the configured accounts, and what a model name means there: [`Catalog::plan`] asks every
//! route a name stands for, in order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::allowed::forbidden;
use super::route::{NoRoute, Plan, Planned, Rejected, Standing, arrange, verdict};
use crate::domain::catalog::Route;
use crate::domain::code::Code;
use crate::domain::fit::option_faults;
use crate::domain::key::Limits;
use crate::domain::request::GenerateRequest;
use crate::domain::task::RouteTaken;
use crate::domain::validate::{FieldCode, FieldError};

/// Everything that is on offer, in the operator's order.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Routes of the providers that are on.
    pub entries: Vec<Entry>,
    /// Every configured provider id, on or off.
    pub providers: BTreeSet<String>,
    /// Whether providers can fetch what lies here.
    pub reachable: bool,
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

/// Tells how the account of (provider id, provider's model) stands.
pub type Stand<'a> = &'a dyn Fn(&str, &str) -> Standing;

/// An operator's name for a model with defaults.
#[derive(Debug, Clone, Default)]
pub struct Alias {
    /// The model it stands for.
    pub model: String,
    /// Request fields it fills in where the caller left them out.
    pub defaults: Map<String, Value>,
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
        let mut planned =
            self.entry(&taken.provider, &taken.provider_model)?.offer(request, self.reachable).ok()?;
        planned.taken.reason.clone_from(&taken.reason);
        Some(planned)
    }

    /// Entries a model name means: a public name, or `provider/provider_model`.
    pub(super) fn named(&self, model: &str) -> Vec<&Entry> {
        let pinned = model.split_once('/');
        let means = |entry: &&Entry| {
            entry.route.model == model
                || pinned == Some((entry.provider.as_str(), entry.route.provider_model.as_str()))
        };
        self.entries.iter().filter(means).collect()
    }

    /// Plans a request that is well-formed, of a key with these limits; `standing` tells how the account of a route stands
    /// at present.
    pub fn plan(
        &self,
        request: &GenerateRequest,
        limits: &Limits,
        standing: Stand<'_>,
    ) -> Result<Plan, NoRoute> {
        self.check_providers(request)?;
        let asked = request.model.as_deref().unwrap_or("auto");
        if asked != "auto" && !self.allowed(limits, asked) {
            return Err(forbidden(format!("this key may not ask for {asked:?}")));
        }
        if let Some(alias) = self.aliases.get(asked) {
            return self.plan_model(&alias.model, &alias.fill(request), request, standing);
        }
        if asked != "auto" {
            return self.plan_model(asked, request, request, standing);
        }
        let mut plans = Vec::new();
        let allowed: Vec<_> =
            self.default_models.iter().filter(|model| self.allowed(limits, model)).collect();
        if allowed.is_empty() && !self.default_models.is_empty() {
            return Err(forbidden("this key may ask for none of the models that \"auto\" tries".to_owned()));
        }
        for model in allowed {
            let filled = self.aliases.get(model).map_or_else(|| request.clone(), |alias| alias.fill(request));
            let model = self.aliases.get(model).map_or(model, |alias| &alias.model);
            let plan = self.consider(model, &filled, request, standing);
            if !plan.planned.is_empty() {
                return Ok(plan);
            }
            plans.extend(plan.rejected);
        }
        Err(verdict(&plans))
    }

    /// A provider id nobody has configured, or an option a provider has not, is a slip of the pen, not a wish to be passed over.
    fn check_providers(&self, request: &GenerateRequest) -> Result<(), NoRoute> {
        let routing = &request.routing;
        let lists = [("only", &routing.only), ("order", &routing.order), ("ignore", &routing.ignore)];
        let listed = lists.into_iter().flat_map(|(list, names)| {
            names.iter().enumerate().map(move |(at, name)| (format!("/routing/{list}/{at}"), name))
        });
        let optioned =
            request.provider_options.keys().map(|name| (format!("/provider_options/{name}"), name));
        let unknown = listed.chain(optioned).filter(|(_, name)| !self.providers.contains(*name));
        let mut errors: Vec<_> = unknown
            .map(|(pointer, name)| {
                FieldError::new(
                    pointer,
                    FieldCode::InvalidValue,
                    format!("no provider {name:?} is configured"),
                )
            })
            .collect();
        let optioned = request.provider_options.keys();
        let routes = optioned.filter_map(|name| self.entries.iter().find(|entry| entry.provider == *name));
        errors.extend(routes.flat_map(|entry| option_faults(&entry.route, request, &entry.provider)));
        match errors.first() {
            None => Ok(()),
            Some(first) => {
                Err(NoRoute { code: Code::ValidationFailed, detail: first.detail.clone(), errors })
            }
        }
    }

    fn plan_model(
        &self,
        model: &str,
        request: &GenerateRequest,
        asked: &GenerateRequest,
        standing: Stand<'_>,
    ) -> Result<Plan, NoRoute> {
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
        let plan = self.consider(model, request, asked, standing);
        if plan.planned.is_empty() { Err(verdict(&plan.rejected)) } else { Ok(plan) }
    }

    /// Every route of a model, for a request that an alias may have added to; `asked` is the caller's own.
    fn consider(
        &self,
        model: &str,
        request: &GenerateRequest,
        asked: &GenerateRequest,
        standing: Stand<'_>,
    ) -> Plan {
        let mut plan = Plan { request: request.clone(), ..Plan::default() };
        for entry in self.ordered(model, request) {
            match entry.offer(request, self.reachable) {
                Ok(mut planned) => {
                    planned.standing = standing(&entry.provider, &entry.route.provider_model);
                    plan.planned.push(planned);
                }
                Err((code, reasons)) => plan.rejected.push(Rejected {
                    provider: entry.provider.clone(),
                    provider_model: entry.route.provider_model.clone(),
                    code,
                    reasons,
                }),
            }
        }
        arrange(&mut plan.planned, request.routing.strategy.unwrap_or_default());
        if request.routing.allow_fallback == Some(false) {
            plan.planned.truncate(1);
        }
        plan.report_unread(asked);
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
            providers: ["a".to_owned(), "b".to_owned()].into(),
            default_models: vec!["small".into(), "large".into()],
            aliases: [("twice".to_owned(), alias)].into(),
            ..Catalog::default()
        }
    }

    fn plan(body: &str) -> Result<Vec<String>, (Code, Vec<String>)> {
        let request = serde_json::from_str(body).unwrap();
        match catalog().plan(&request, &Limits::default(), &|_, _| Standing::default()) {
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
        let of = |body: &str| {
            catalog()
                .plan(&serde_json::from_str(body).unwrap(), &Limits::default(), &|_, _| Standing::default())
                .unwrap()
                .planned
                .remove(0)
        };
        assert_eq!(of(r#"{"prompt":"x","model":"twice"}"#).request.n, Some(2));
        let named = of(r#"{"prompt":"x","model":"twice","n":9}"#);
        assert_eq!((named.request.n, named.calls, named.price), (Some(9), 3, "0.09".parse().ok()));
    }

    #[test]
    fn a_key_with_a_list_asks_for_what_is_on_it() {
        let models = |models: &[&str], body: &str| {
            let limits = Limits {
                models: models.iter().map(|name| (*name).to_owned()).collect(),
                ..Limits::default()
            };
            let plan =
                catalog().plan(&serde_json::from_str(body).unwrap(), &limits, &|_, _| Standing::default());
            plan.map(|plan| plan.planned[0].taken.provider_model.clone()).map_err(|none| none.code)
        };
        let (small, alias) = (r#"{"prompt":"x","model":"small"}"#, r#"{"prompt":"x","model":"twice"}"#);
        let pinned = r#"{"prompt":"x","model":"b/B-small"}"#;
        assert_eq!(models(&["large"], small), Err(Code::Forbidden));
        assert_eq!(models(&["large"], alias), Err(Code::Forbidden));
        assert_eq!(models(&["large"], pinned), Err(Code::Forbidden));
        assert_eq!(models(&["small"], alias), Ok("A/small".into()));
        assert_eq!(models(&["small"], pinned), Ok("B-small".into()));
        assert_eq!(models(&["twice"], alias), Ok("A/small".into()));
        assert_eq!(models(&["twice"], small), Err(Code::Forbidden));
        assert_eq!(models(&["b/B-small"], small), Err(Code::Forbidden));
        assert_eq!(models(&["small"], r#"{"prompt":"x","model":"nope"}"#), Err(Code::ValidationFailed));
        // The first that "auto" tries is not on the list: the next one is.
        let edit = r#"{"prompt":"x","images":[{"url":"https://e.example/a"}]}"#;
        assert_eq!(models(&["large"], edit), Ok("B-large".into()));
        assert_eq!(models(&["other"], edit), Err(Code::Forbidden));
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
        for (body, pointer) in [
            (r#"{"prompt":"x","routing":{"only":["a","zz"]}}"#, "/routing/only/1"),
            (r#"{"prompt":"x","provider_options":{"zz":{}}}"#, "/provider_options/zz"),
        ] {
            assert_eq!(refused(body), (Code::ValidationFailed, vec![pointer.into()]));
        }
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
