//! imagepipeline.io: the v3 API of the given documents, and the v1 jobs API that has replaced it. Both take
//! paid POSTs at `pipeline.submit` and polls at `pipeline.poll`; a dedicated server costs by the hour, so
//! a picture costs nothing here, and a needless one shows in the ledger only as work done.

pub mod v1;
pub mod v3;

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::connection::Switch;
use super::dialect::{Dialect, check_key, json_answer};
use super::faults::answer::Caller;
use super::faults::{Endpoint, Faults};
use super::fields::{Kind, Wrong};
use super::intake::with_faults;
use super::jobs::Job;
use super::ledger::KeyCheck;
use super::untidy;
use super::world::World;

/// FastAPI's complaint about a body.
fn unprocessable(wrong: &Wrong) -> Response {
    let kind = match wrong.kind {
        Kind::Missing => "value_error.missing",
        Kind::Unknown => "value_error.extra",
        Kind::Type => "type_error",
        Kind::Value => "value_error",
    };
    let detail = json!([{"loc": ["body", wrong.field], "msg": wrong.message, "type": kind}]);
    json_answer(StatusCode::UNPROCESSABLE_ENTITY, &json!({"detail": detail}))
}

/// A poll in either API: the door, the rule, the answer.
async fn poll(
    world: Arc<World>,
    dialect: Dialect,
    id: &str,
    switch: &Switch,
    headers: &HeaderMap,
    state: impl FnOnce(&World, &Job, usize, Option<&Faults>) -> Option<Value>,
) -> Response {
    let key = dialect.key(headers);
    let check = check_key(key);
    if matches!(check, KeyCheck::Missing | KeyCheck::Bad)
        && let Some(refused) = dialect.refuse_key(check)
    {
        return refused;
    }
    world.settle();
    let job = world.jobs.get(id);
    let prompt = job.as_ref().map_or("", |job| job.prompt.as_str());
    let rule = world.rules.find(Endpoint::PipelinePoll, key, prompt);
    let caller = Caller { switch, dialect, key };
    let natural = async {
        let missing = || dialect.error(StatusCode::NOT_FOUND, "Not Found");
        let Some(job) = job else { return missing() };
        let n = job.polled();
        if let Some(status) = job.faults.poll_status(n) {
            return dialect.error(status, "polled too often or too early");
        }
        if job.faults.poll_404 || rule.as_ref().is_some_and(|rule| rule.poll_404) {
            return missing();
        }
        match state(&world, &job, n, rule.as_ref()) {
            Some(body) => {
                let answer = json_answer(StatusCode::OK, &body);
                let scene = job.scene(Endpoint::PipelinePoll, n);
                untidy::lay(&world, job.untidy(rule.as_ref()), &scene, switch, answer).await
            }
            None => missing(),
        }
    };
    with_faults(rule.as_ref(), caller, natural).await
}

/// The status word told on purpose for this poll, if any: by a rule about polls, else by the submit's list.
fn told<'a>(job: &'a Job, rule: Option<&'a Faults>, n: usize) -> Option<&'a str> {
    rule.and_then(|rule| rule.status.as_ref()?.at(0)).or_else(|| job.faults.status.as_ref()?.at(n))
}
