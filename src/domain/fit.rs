//! Fits a request to an offer: [`fit`] answers with the request as this offer will honour it and every
//! [`Adjustment`] made, or with every reason why it cannot.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::catalog::{Offer, Route};
use super::param::{Param, ParamName, Rule, SizeRule};
use super::request::GenerateRequest;
use super::size::{AspectRatio, Size};
use super::validate::{FieldCode, FieldError};

/// Sides proposed for an aspect ratio are multiples of this: what diffusion models are trained on.
const STEP: u32 = 16;

const IN_PROMPT: &str =
    "this model has no such parameter: it is asked for in the prompt, and the model may do otherwise";

/// A parameter that was not honoured as asked, or only with a caveat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"param": "/seed", "requested": 42, "applied": null, "reason": "this route draws with a seed of its own"}))]
pub struct Adjustment {
    /// JSON pointer to the parameter.
    pub param: String,
    /// What the caller asked for.
    pub requested: Value,
    /// What is sent; `null` when the parameter is left out.
    pub applied: Value,
    /// Why.
    pub reason: String,
}

/// A request as a route will honour it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The request with adjusted parameters.
    pub request: GenerateRequest,
    /// What was adjusted.
    pub adjustments: Vec<Adjustment>,
    /// How many upstream calls it takes.
    pub calls: u32,
}

/// The parameters of a request as one object, for callers to see what was sent.
pub fn effective(request: &GenerateRequest) -> Value {
    let shown = ParamName::ALL.into_iter().filter(|name| !name.essential());
    let mut shown: serde_json::Map<String, Value> = shown
        .filter_map(|name| Some((name.pointer().trim_start_matches('/').to_owned(), name.value(request)?)))
        .collect();
    shown.insert("n".to_owned(), request.count().into());
    shown.into()
}

/// Fits `request` to one of the route's offers, as served by `provider`.
pub fn fit(
    route: &Route,
    offer: &Offer,
    request: &GenerateRequest,
    provider: &str,
) -> Result<Fit, Vec<FieldError>> {
    let mut fitting = Fitting { request: request.clone(), adjustments: Vec::new(), faults: Vec::new() };
    fitting.shape(offer);
    for name in ParamName::ALL {
        fitting.param(offer, name);
    }
    fitting.names(offer);
    fitting.faults.extend(option_faults(route, request, provider));
    fitting.options(route, offer, provider);
    fitting.cross_rules(offer);
    fitting.finish(offer)
}

/// What is wrong with the options for `provider`: all its routes have the same ones.
pub fn option_faults(route: &Route, request: &GenerateRequest, provider: &str) -> Vec<FieldError> {
    let options = request.provider_options.get(provider).into_iter().flatten();
    let fault = |(name, value): (&String, &Value)| {
        let pointer = format!("/provider_options/{provider}/{name}");
        match route.options.get(name) {
            Some(param) => param.rule.fault(&pointer, value),
            None => Some(FieldError::new(pointer, FieldCode::UnknownField, "no such option here")),
        }
    };
    options.filter_map(fault).collect()
}

struct Fitting {
    request: GenerateRequest,
    adjustments: Vec<Adjustment>,
    faults: Vec<FieldError>,
}

impl Fitting {
    /// An aspect ratio without a size becomes the largest legal size of that shape.
    fn shape(&mut self, offer: &Offer) {
        let Some(ratio) = self.request.aspect_ratio.filter(|_| self.request.size.is_none()) else { return };
        let asked = Value::from(ratio.to_string());
        match offer.params.get(&ParamName::Size) {
            Some(Param { in_prompt: true, .. }) => {
                self.adjust("/aspect_ratio", asked.clone(), asked, IN_PROMPT);
            }
            Some(Param { rule: Rule::Size(rule), .. }) => self.request.size = largest(rule, ratio),
            _ => self.adjust("/aspect_ratio", asked, Value::Null, "this route chooses the shape itself"),
        }
    }

    fn param(&mut self, offer: &Offer, name: ParamName) {
        let (value, param) = (name.value(&self.request), offer.params.get(&name));
        let fault = |code, detail| FieldError::new(name.pointer(), code, detail);
        match (value, param) {
            (None, Some(param)) if param.required => {
                self.faults.push(fault(FieldCode::Required, "this operation needs it"));
            }
            (None, _) => {}
            // One picture is what every route makes; more than one call can make are made by several calls.
            (Some(value), param) if name == ParamName::N => {
                if param.is_some_and(|param| param.in_prompt) && value != 1 {
                    self.adjust(name.pointer(), value.clone(), value, IN_PROMPT);
                }
            }
            (Some(_), None) if name.essential() => {
                self.faults.push(fault(FieldCode::Unsupported, "this route cannot use it"));
            }
            (Some(value), None) => {
                name.clear(&mut self.request);
                self.adjust(name.pointer(), value, Value::Null, "this route has no such parameter");
            }
            (Some(value), Some(param)) => match &param.rule {
                Rule::Size(_) if param.in_prompt => {
                    self.adjust(name.pointer(), value.clone(), value, IN_PROMPT);
                }
                Rule::Size(rule) => self.size(rule),
                Rule::Outpaint { max_added_pixels } => self.outpaint(*max_added_pixels),
                rule => self.faults.extend(rule.fault(name.pointer(), &value)),
            },
        }
    }

    fn size(&mut self, rule: &SizeRule) {
        let Some(size) = self.request.size else { return };
        if rule.one_of.is_empty() {
            self.faults.extend(size_fault(rule, size));
        } else if !rule.one_of.contains(&size)
            && let Some(nearest) = largest(rule, size.ratio())
        {
            self.request.size = Some(nearest);
            let (asked, given) = (size.to_string().into(), nearest.to_string().into());
            self.adjust("/size", asked, given, "the nearest size this model draws");
        }
    }

    /// The part of the rule that holds whatever the size of the input image: it has at least one pixel a side.
    fn outpaint(&mut self, most: u64) {
        let Some(added) = self.request.outpaint else { return };
        let (across, down) =
            (u64::from(added.left) + u64::from(added.right), u64::from(added.top) + u64::from(added.bottom));
        if (across + 1) * (down + 1) > most {
            let detail = format!("the added area must be smaller than {most} pixels");
            self.faults.push(FieldError::new("/outpaint", FieldCode::OutOfRange, detail));
        }
    }

    fn names(&mut self, offer: &Offer) {
        let loras = self.request.loras.iter().map(|lora| &lora.name);
        let controls = self.request.controls.iter().map(|control| &control.kind);
        let named = [
            (ParamName::Loras, "name", loras.collect::<Vec<_>>()),
            (ParamName::Controls, "type", controls.collect()),
        ];
        let mut unlisted = Vec::new();
        for (param, field, names) in named {
            let Some(Rule::Names { known, .. }) = offer.params.get(&param).map(|param| &param.rule) else {
                continue;
            };
            for (at, name) in names.into_iter().enumerate().filter(|(_, name)| !known.contains(name)) {
                unlisted.push((format!("{}/{at}/{field}", param.pointer()), name.clone()));
            }
        }
        for (pointer, name) in unlisted {
            self.adjust(
                &pointer,
                name.clone().into(),
                name.into(),
                "not on the provider's published list; passed on as it is",
            );
        }
    }

    /// Options that other kinds of work have are left out.
    fn options(&mut self, route: &Route, offer: &Offer, provider: &str) {
        let Some(options) = self.request.provider_options.get_mut(provider) else { return };
        let mut dropped = Vec::new();
        options.retain(|name, value| {
            let only = route.options.get(name).map(|param| param.operations.as_slice()).unwrap_or_default();
            let has = only.is_empty() || only.contains(&offer.operation);
            if !has {
                dropped.push((format!("/provider_options/{provider}/{name}"), value.take()));
            }
            has
        });
        for (pointer, asked) in dropped {
            self.adjust(&pointer, asked, Value::Null, "this kind of work has no such option");
        }
    }

    fn cross_rules(&mut self, offer: &Offer) {
        if offer.rules.is_empty() {
            return;
        }
        let document = serde_json::to_value(&self.request).unwrap_or_default();
        let word = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
        for rule in &offer.rules {
            let triggered = word(&rule.when).is_some_and(|value| rule.is.iter().any(|one| one == value));
            if triggered && !word(&rule.then).is_none_or(|value| rule.one_of.iter().any(|one| one == value)) {
                self.faults.push(FieldError::new(rule.then.clone(), FieldCode::Conflict, &rule.because));
            }
        }
    }

    fn adjust(&mut self, param: &str, requested: Value, applied: Value, reason: &str) {
        self.adjustments.push(Adjustment {
            param: param.to_owned(),
            requested,
            applied,
            reason: reason.to_owned(),
        });
    }

    fn finish(mut self, offer: &Offer) -> Result<Fit, Vec<FieldError>> {
        if self.request.strict {
            let changed = self.adjustments.iter().filter(|made| made.requested != made.applied);
            self.faults.extend(changed.map(|made| {
                FieldError::new(
                    made.param.clone(),
                    FieldCode::Unsupported,
                    format!("strict: {}", made.reason),
                )
            }));
        }
        if self.faults.is_empty() {
            let calls = self.request.count().div_ceil(offer.most_per_call());
            Ok(Fit { request: self.request, adjustments: self.adjustments, calls })
        } else {
            Err(self.faults)
        }
    }
}

fn size_fault(rule: &SizeRule, size: Size) -> Option<FieldError> {
    let longer = u64::from(size.width.max(size.height));
    let shorter = u64::from(size.width.min(size.height));
    let fault = |detail: String| Some(FieldError::new("/size", FieldCode::OutOfRange, detail));
    match rule {
        SizeRule { max_pixels: Some(most), .. } if size.pixels() > *most => {
            fault(format!("width*height must be at most {most}"))
        }
        SizeRule { max_side: Some(most), .. } if longer > u64::from(*most) => {
            fault(format!("width and height must be at most {most}"))
        }
        SizeRule { multiple_of: Some(of), .. }
            if !size.width.is_multiple_of(*of) || !size.height.is_multiple_of(*of) =>
        {
            fault(format!("width and height must be multiples of {of}"))
        }
        SizeRule { max_ratio: Some(most), .. } if longer > shorter * u64::from(*most) => {
            fault(format!("the longer side must be at most {most} times the shorter"))
        }
        _ => None,
    }
}

/// The largest legal size of a shape; for a list, the nearest in shape.
fn largest(rule: &SizeRule, ratio: AspectRatio) -> Option<Size> {
    if !rule.one_of.is_empty() {
        let nearer = |a: &&Size, b: &&Size| ratio.distance(**a).total_cmp(&ratio.distance(**b));
        return rule.one_of.iter().min_by(nearer).copied();
    }
    let step = rule.multiple_of.unwrap_or(STEP);
    let most_side = rule.max_side.unwrap_or(super::size::MAX_SIDE);
    let most_pixels = rule.max_pixels.unwrap_or(1024 * 1024);
    let (across, down) = (u64::from(ratio.across), u64::from(ratio.down));
    let (long, short) = (across.max(down), across.min(down));
    // Walk down from the longest side; the first size within all limits is the largest.
    (1..=most_side.min(super::size::MAX_SIDE) / step).rev().find_map(|count| {
        let longer = count * step;
        let exact = u64::from(longer) * short / long;
        let shorter = u32::try_from(exact).ok()? / step * step;
        let (width, height) =
            if across >= down { (longer, shorter.max(step)) } else { (shorter.max(step), longer) };
        let size = Size { width, height };
        (size.pixels() <= most_pixels && size_fault(rule, size).is_none()).then_some(size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CATALOG: &str = "
        [sets.basic]
        size = { type = 'size', max_pixels = 1048576 }
        steps = { type = 'integer', min = 1, max = 40 }
        n = { type = 'integer', min = 1, max = 4 }
        [sets.listed]
        size = { type = 'size', one_of = ['1024x1024', '1536x1024', '1024x1536'] }
        loras = { type = 'names', min = 1, max = 1, carriers = ['url'], known = ['mjv6'], required = true }
        [options.k]
        mode = { type = 'choice', values = ['public', 'private'] }
        drawn = { type = 'boolean', operations = ['text_to_image'] }
        painted = { type = 'boolean', operations = ['edit'] }
        [[routes]]
        kind = 'k'
        model = 'm'
        provider_model = 'P'
        offers = [{ operation = 'text_to_image', form = 'plain', sets = ['basic'] },
                  { operation = 'text_to_image', form = 'lora', sets = ['listed'] }]
    ";

    fn try_fit(form: usize, body: &str) -> Result<Fit, Vec<FieldError>> {
        let route = super::super::catalog::read(CATALOG, "k").unwrap().remove(0);
        let request: GenerateRequest = serde_json::from_str(body).unwrap();
        fit(&route, &route.offers[form], &request, "p")
    }

    #[test]
    fn what_a_route_lacks_is_dropped_and_reported() {
        let fit = try_fit(0, r#"{"prompt":"x","seed":7,"steps":20,"n":1}"#).unwrap();
        assert_eq!((fit.request.seed, fit.request.steps, fit.calls), (None, Some(20), 1));
        assert_eq!(fit.adjustments.len(), 1);
        assert_eq!(fit.adjustments[0].param, "/seed");
    }

    #[test]
    fn an_option_of_other_work_is_dropped_and_reported() {
        let body = r#"{"prompt":"x","provider_options":{"p":{"mode":"public","drawn":true,"painted":true}}"#;
        let fit = try_fit(0, &format!("{body}}}")).unwrap();
        assert_eq!(fit.request.provider_options["p"].keys().collect::<Vec<_>>(), ["drawn", "mode"]);
        assert_eq!(fit.adjustments.len(), 1);
        assert_eq!(
            (fit.adjustments[0].param.as_str(), &fit.adjustments[0].requested, &fit.adjustments[0].applied),
            ("/provider_options/p/painted", &Value::Bool(true), &Value::Null)
        );
        let faults = try_fit(0, &format!(r#"{body},"strict":true}}"#)).unwrap_err();
        assert_eq!(faults[0].pointer, "/provider_options/p/painted");
    }

    #[test]
    fn strict_refuses_what_would_be_adjusted() {
        let faults = try_fit(0, r#"{"prompt":"x","seed":7,"strict":true}"#).unwrap_err();
        assert_eq!((faults[0].pointer.as_str(), faults[0].code), ("/seed", FieldCode::Unsupported));
    }

    #[test]
    fn what_is_out_of_range_or_essential_is_refused() {
        for (body, pointer) in [
            (r#"{"prompt":"x","size":"1025x1024"}"#, "/size"),
            (r#"{"prompt":"x","steps":41}"#, "/steps"),
            (r#"{"prompt":"x","loras":[{"name":"mjv6"}]}"#, "/loras"),
            (r#"{"prompt":"x","provider_options":{"p":{"mode":"x"}}}"#, "/provider_options/p/mode"),
            (r#"{"prompt":"x","provider_options":{"p":{"webhook":"x"}}}"#, "/provider_options/p/webhook"),
        ] {
            assert_eq!(try_fit(0, body).unwrap_err()[0].pointer, pointer, "{body}");
        }
        assert_eq!(try_fit(1, r#"{"prompt":"x"}"#).unwrap_err()[0].code, FieldCode::Required);
    }

    #[test]
    fn a_list_of_sizes_takes_the_nearest_shape() {
        let body = r#"{"prompt":"x","size":"800x600","loras":[{"name":"odd"}]}"#;
        let fit = try_fit(1, body).unwrap();
        assert_eq!(fit.request.size.unwrap().to_string(), "1536x1024");
        let reported: Vec<_> = fit.adjustments.iter().map(|made| made.param.as_str()).collect();
        assert_eq!(reported, ["/size", "/loras/0/name"]);
    }

    #[test]
    fn many_pictures_are_several_calls() {
        assert_eq!(try_fit(0, r#"{"prompt":"x","n":10}"#).unwrap().calls, 3);
    }

    proptest! {
        #[test]
        fn a_ratio_becomes_a_legal_size_near_it(across in 1u32..=64, down in 1u32..=64) {
            let fit = try_fit(0, &format!(r#"{{"prompt":"x","aspect_ratio":"{across}:{down}"}}"#)).unwrap();
            let size = fit.request.size.unwrap();
            prop_assert!(size.pixels() <= 1_048_576);
            // As large as it can be: one more step on the longer side would not fit.
            prop_assert!(size.pixels() > 500_000, "{size}");
            prop_assert!((AspectRatio { across, down }).distance(size) < 0.25, "{size}");
        }
    }
}
