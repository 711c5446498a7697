//! Whether one route can serve a request, on what terms, and why not: a pure function of the two. Nothing is sent and
//! nothing is stored.

use std::sync::Arc;

use super::catalog::Entry;
use crate::domain::catalog::{Offer, Price, Route};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::fit::{Adjustment, fit};
use crate::domain::money::Usd;
use crate::domain::param::{Carrier, ParamName};
use crate::domain::request::{GenerateRequest, Operation, Strategy};
use crate::domain::task::RouteTaken;
use crate::domain::validate::{FieldCode, FieldError};
use crate::net::policy::private_literal;

/// A route that can serve the request.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The route and why it is taken.
    pub taken: RouteTaken,
    /// The model's public name.
    pub model: String,
    /// The kind of work, in the provider's form.
    pub offer: Arc<Offer>,
    /// The request as the route honours it.
    pub request: GenerateRequest,
    /// What was adjusted.
    pub adjustments: Vec<Adjustment>,
    /// How many upstream calls it takes.
    pub calls: u32,
    /// What it costs at most, when a price is known.
    pub price: Option<Usd>,
    /// How its account stands.
    pub standing: Standing,
}

/// How a route's account stands at present.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Standing {
    /// `healthy`, `paused`, `open` or `probing`.
    pub health: &'static str,
    /// Until when its circuit is open.
    pub open_until: Option<Millis>,
    /// Observed median seconds, once there are any.
    pub p50: Option<f64>,
}

impl Planned {
    /// How many pictures each upstream call is to make.
    pub fn counts(&self) -> Vec<u32> {
        let (wanted, most) = (self.request.count(), self.offer.most_per_call());
        (0..self.calls).map(|call| most.min(wanted - call * most)).collect()
    }
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

impl Entry {
    /// The first of the route's offers that fits, or every reason why none does.
    pub(super) fn offer(
        &self,
        request: &GenerateRequest,
        reachable: bool,
    ) -> Result<Planned, (Code, Vec<FieldError>)> {
        let routing = &request.routing;
        let excluded = (!routing.only.is_empty() && !routing.only.contains(&self.provider))
            || routing.ignore.contains(&self.provider);
        if excluded {
            let reason =
                FieldError::new("/routing", FieldCode::Unsupported, "excluded by the request's routing");
            return Err((Code::Unservable, vec![reason]));
        }
        let operation = operation(request, &self.route);
        let mut reasons = Vec::new();
        for offer in self.route.offers.iter().filter(|offer| offer.operation == operation) {
            let fit = fit(&self.route, offer, request, &self.provider).and_then(|fit| {
                let stuck = if reachable { Vec::new() } else { undeliverable(&fit.request, offer) };
                if stuck.is_empty() { Ok(fit) } else { Err(stuck) }
            });
            match fit {
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
                        reason: String::new(),
                    };
                    return Ok(Planned {
                        taken,
                        model: self.route.model.clone(),
                        offer: Arc::clone(offer),
                        request: fit.request,
                        adjustments: fit.adjustments,
                        calls: fit.calls,
                        price,
                        standing: Standing::default(),
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

/// Brings routes that can serve a request into the order of its strategy, those with an open circuit last, and says why
/// each stands where it does.
pub(super) fn arrange(planned: &mut [Planned], strategy: Strategy) {
    match strategy {
        Strategy::Order => {}
        Strategy::Cheapest => planned.sort_by_key(|one| (one.price.is_none(), one.price)),
        Strategy::Fastest => planned.sort_by(|one, other| {
            let time = |one: &Planned| one.standing.p50.unwrap_or(f64::INFINITY);
            time(one).total_cmp(&time(other))
        }),
    }
    planned.sort_by_key(|one| one.standing.open_until.is_some());
    let order = match strategy {
        Strategy::Order => "order",
        Strategy::Cheapest => "order of price",
        Strategy::Fastest => "order of time taken",
    };
    for (place, one) in planned.iter_mut().enumerate() {
        let rank = if place == 0 { "first".to_owned() } else { format!("number {}", place + 1) };
        let price = one.price.map_or_else(|| "price unknown".to_owned(), |price| format!("${price}"));
        one.taken.reason = format!("{rank} in {order}; {}; {price}", one.standing.health);
    }
}

/// Input images that lie here and that the provider would have to fetch, though it cannot reach us.
fn undeliverable(request: &GenerateRequest, offer: &Offer) -> Vec<FieldError> {
    let painted = request.mask.is_some() && offer.carriers(ParamName::Mask) == [Carrier::Painted];
    let inputs = request.inputs().into_iter().filter(|(pointer, input)| {
        let (name, made_here) = match pointer.split('/').nth(1) {
            Some("images") => (ParamName::Images, painted),
            Some("mask") => (ParamName::Mask, false),
            Some("loras") => (ParamName::Loras, false),
            _ => (ParamName::Controls, false),
        };
        (made_here || input.url.as_deref().is_none_or(private_literal))
            && offer.carriers(name) == [Carrier::Url]
    });
    let detail =
        "this route takes addresses only, and the gateway has no server.public_url to serve the image at";
    inputs.map(|(pointer, _)| FieldError::new(pointer, FieldCode::Unsupported, detail)).collect()
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
pub(super) fn verdict(rejected: &[Rejected]) -> NoRoute {
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
