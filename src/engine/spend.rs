//! What a task may spend, set aside when it is accepted, and what a key with a budget may buy at all.

use super::accept::Refusal;
use super::retry::SENDS_IN_ALL;
use super::route::Plan;
use crate::domain::attempt::Billing;
use crate::domain::code::Code;
use crate::domain::money::Usd;
use crate::domain::request::OnUnknown;
use crate::domain::task::Task;

/// The most that attempts may cost that are charged for, or of which nobody can say: that of the dearest route once, for
/// nothing follows such an attempt; more often only where the caller wants unknown outcomes sent again, within its bound.
/// `None` when no price is known.
pub(super) fn reservation(plan: &Plan) -> Option<Usd> {
    let dearest = plan.planned.iter().filter_map(|one| one.price).max()?;
    let routing = &plan.request.routing;
    Some(match routing.max_cost_usd {
        Some(most) if routing.on_unknown == Some(OnUnknown::Resubmit) => most.min(dearest * SENDS_IN_ALL),
        _ => dearest,
    })
}

/// Leaves a plan the routes whose price is known; with none of them it stays as it was and is refused.
pub(super) fn keep_priced(plan: &mut Plan) -> Option<Refusal> {
    if plan.planned.iter().all(|one| one.price.is_none()) {
        let route =
            plan.planned.first().map(|one| format!("{}/{}", one.taken.provider, one.taken.provider_model));
        let detail = format!(
            "no price is known for {}, and this key has a budget",
            route.as_deref().unwrap_or("any route")
        );
        return Some(Refusal::NoMoney(Code::PriceUnknown, detail));
    }
    plan.planned.retain(|one| one.price.is_some());
    None
}

/// Whether one more attempt at `price` keeps the task within what it may cost. Without a bound of the caller's, one
/// possibly billed attempt is all there is; under a budget, what is left of what was set aside must cover it.
pub(super) fn may_spend(task: &Task, price: Option<Usd>) -> bool {
    let cost = &task.state.cost;
    if cost.budgeted && price.is_none_or(|price| price > cost.reserved) {
        return false;
    }
    match (task.request.routing.max_cost_usd, price) {
        (Some(most), Some(price)) => cost.settled + cost.unresolved + price <= most,
        (Some(_), None) => false,
        (None, _) => task.billed() == Billing::No,
    }
}
