//! Every rule of every catalogue has something it takes and something it refuses: made from the rules themselves.

use serde_json::{Value, json};

use super::KINDS;
use super::conformance::adapter;
use crate::domain::catalog::{Offer, Route};
use crate::domain::fit::{Fit, fit};
use crate::domain::param::{ParamName, Rule};
use crate::domain::request::GenerateRequest;
use crate::domain::validate::FieldError;

fn image() -> Value {
    json!({"url": "https://example.com/a.png"})
}

/// A legal request for an offer.
fn legal(offer: &Offer) -> Value {
    let mut body = json!({"prompt": "x", "operation": offer.operation});
    for (name, param) in &offer.params {
        if param.required {
            body[field(*name)] = accepted(*name, &param.rule)[0].clone();
        }
    }
    body
}

fn field(name: ParamName) -> &'static str {
    name.pointer().trim_start_matches('/')
}

fn list(name: ParamName, count: usize) -> Value {
    match name {
        ParamName::Mask => image(),
        ParamName::Loras => vec![json!({"name": "mjv6"}); count].into(),
        ParamName::Controls => vec![json!({"type": "depth", "image": image()}); count].into(),
        _ => vec![image(); count].into(),
    }
}

fn accepted(name: ParamName, rule: &Rule) -> Vec<Value> {
    match rule {
        Rule::Text { max_length } => vec![json!("x".repeat(*max_length))],
        Rule::Identifier { .. } => vec![json!("server-1")],
        Rule::Integer { min, max } => vec![json!(min), json!(max)],
        Rule::Number { min, max, exclusive_min } => {
            vec![if *exclusive_min { json!(min + 0.001) } else { json!(min) }, json!(max)]
        }
        Rule::Boolean => vec![json!(true)],
        Rule::Choice { values } => values.iter().map(|value| json!(value)).collect(),
        Rule::Size(size) => {
            size.one_of.first().map_or_else(|| vec![json!("512x512")], |first| vec![json!(first)])
        }
        Rule::Images { min, max, .. } | Rule::Names { min, max, .. } => {
            [*min, *max].into_iter().filter(|count| *count > 0).map(|count| list(name, count)).collect()
        }
        Rule::Outpaint { .. } => vec![json!({"left": 500, "right": 500})],
    }
}

/// Values just outside the rule; empty where the general validation already leaves nothing outside.
fn refused(name: ParamName, rule: &Rule) -> Vec<Value> {
    match rule {
        Rule::Integer { max, .. } if name == ParamName::Seed || name == ParamName::N => {
            assert!(*max > 0);
            Vec::new()
        }
        Rule::Integer { max, .. } if *max < 150 => vec![json!(max + 1)],
        Rule::Number { min, max, .. } if *max < 100.0 => {
            let outside = [min - 0.01, max + 0.01];
            outside
                .into_iter()
                .filter(|value| *value > 0.0 && (name != ParamName::Strength || *value <= 1.0))
                .map(|value| json!(value))
                .collect()
        }
        Rule::Size(size) if size.max_pixels.is_some() => vec![json!("1025x1024"), json!("4096x257")],
        Rule::Size(size) if size.max_side.is_some() => {
            vec![json!(format!("{}x64", size.max_side.unwrap() + 1))]
        }
        Rule::Size(size) if size.multiple_of.is_some() => vec![json!("513x512"), json!("2048x512")],
        Rule::Images { max, .. } | Rule::Names { max, .. } if *max < 16 && name != ParamName::Mask => {
            vec![list(name, max + 1)]
        }
        Rule::Outpaint { .. } => vec![json!({"left": 1024, "top": 1024})],
        _ => Vec::new(),
    }
}

fn try_fit(route: &Route, offer: &Offer, body: &Value, provider: &str) -> Result<Fit, Vec<FieldError>> {
    let request: GenerateRequest = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(request.validate(), vec![], "{body}");
    fit(route, offer, &request, provider)
}

/// Every kind in each of its dialects.
fn dialects() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    KINDS.iter().flat_map(|kind| {
        let dialects: &[Option<&str>] =
            if kind.name == "imagepipeline" { &[Some("v3"), Some("v1")] } else { &[None] };
        dialects.iter().map(|dialect| (kind.name, *dialect))
    })
}

#[tokio::test]
async fn the_page_on_providers_speaks_of_every_model_form_and_option() {
    let page = include_str!("../../docs/providers.md");
    for (kind, dialect) in dialects().filter(|(kind, _)| *kind != "scripted") {
        assert!(page.contains(&format!("(`{kind}`)\n")), "{kind} has no section");
        for route in adapter(kind, dialect, "http://127.0.0.1:9").routes() {
            assert!(page.contains(&route.model), "{kind}: the model {}", route.model);
            for offer in &route.offers {
                assert!(page.contains(&offer.form), "{kind}: the form {}", offer.form);
            }
            for option in route.options.keys() {
                assert!(page.contains(&format!("`{option}`")), "{kind}: the option {option}");
            }
            for price in
                route.price.iter().flat_map(|price| [price.per_image, price.per_call, price.no_image])
            {
                assert!(price.is_none_or(|price| page.contains(&format!("${price}"))), "{kind}: {price:?}");
            }
        }
    }
}

#[tokio::test]
async fn every_rule_takes_and_refuses() {
    let mut counted = (0, 0);
    for (kind, dialect) in dialects() {
        let adapter = adapter(kind, dialect, "http://127.0.0.1:9");
        for route in adapter.routes() {
            for offer in &route.offers {
                let at = format!("{}/{}", route.provider_model, offer.form);
                let base = legal(offer);
                assert!(try_fit(route, offer, &base, kind).is_ok(), "{at}: {base}");
                for (name, param) in &offer.params {
                    for value in accepted(*name, &param.rule) {
                        let mut body = base.clone();
                        body[field(*name)] = value;
                        assert!(try_fit(route, offer, &body, kind).is_ok(), "{at} refuses {body}");
                        counted.0 += 1;
                    }
                    for value in refused(*name, &param.rule) {
                        let mut body = base.clone();
                        body[field(*name)] = value;
                        let faults =
                            try_fit(route, offer, &body, kind).expect_err(&format!("{at} takes {body}"));
                        assert_eq!(faults[0].pointer, name.pointer(), "{at}: {body}");
                        counted.1 += 1;
                    }
                    if param.required {
                        let mut body = base.clone();
                        body.as_object_mut().unwrap().remove(field(*name));
                        assert!(try_fit(route, offer, &body, kind).is_err(), "{at} does without {name:?}");
                        counted.1 += 1;
                    }
                }
                for (name, param) in &route.options {
                    for (value, good) in options(&param.rule) {
                        let mut body = base.clone();
                        body["provider_options"] = json!({ kind: { name: value } });
                        assert_eq!(try_fit(route, offer, &body, kind).is_ok(), good, "{at}: {body}");
                        *if good { &mut counted.0 } else { &mut counted.1 } += 1;
                    }
                }
                for rule in &offer.rules {
                    let mut body = base.clone();
                    body["background"] = json!(rule.is[0]);
                    body["output"] = json!({"format": "jpeg"});
                    assert!(try_fit(route, offer, &body, kind).is_err(), "{at}: {body}");
                    body["output"] = json!({"format": rule.one_of[0]});
                    assert!(try_fit(route, offer, &body, kind).is_ok(), "{at}: {body}");
                    counted = (counted.0 + 1, counted.1 + 1);
                }
            }
        }
    }
    println!("{} values taken, {} refused", counted.0, counted.1);
    assert!(counted.0 > 200 && counted.1 > 100, "{counted:?}");
}

fn options(rule: &Rule) -> Vec<(Value, bool)> {
    match rule {
        Rule::Choice { values } => vec![(json!(values[0]), true), (json!("nonsense"), false)],
        Rule::Boolean => vec![(json!(true), true), (json!("yes"), false)],
        Rule::Integer { min, max } => vec![(json!(min), true), (json!(max + 1), false), (json!("1"), false)],
        Rule::Identifier { .. } => vec![(json!("server-1"), true), (json!("https://x.example/hook"), false)],
        other => panic!("no option is a {other:?}"),
    }
}
