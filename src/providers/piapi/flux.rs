//! PiAPI Flux: `POST /api/v1/task` makes a task, `GET /api/v1/task/{id}` tells how it stands. A failed task answers
//! HTTP 200 with code 200; only its status word decides.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::super::answer::{Answer, handle, salvage};
use super::super::call::unknown;
use super::super::errors::On;
use super::super::status::{self, Status};
use super::super::{
    Account, Asked, Done, Input, Job, Kind, Made, MadeSource, OpenError, Opened, Options, Pace, Pending,
    Progress, Provider, ProviderError, Reply, Signal, Wire,
};
use super::CATALOG;
use crate::domain::attempt::{Billing, ProviderUnits, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::image::{ImageKind, decode_base64};
use crate::domain::money::Usd;
use crate::domain::request::Outpaint;

const TASKS: &str = "/api/v1/task";
/// `meta.usage.consume`: 10,000,000 units are one dollar (20,000 for schnell at $0.002, 200,000 for kontext at $0.02).
const NANOS_PER_UNIT: i64 = 100;

pub(super) fn open(account: Account, _: &Options) -> Opened {
    let routes = catalog::read(CATALOG, super::FLUX.name).map_err(|e| OpenError(e.to_string()))?;
    Ok(Arc::new(Flux { account: account.keyed_by("x-api-key"), routes }))
}

struct Flux {
    account: Account,
    routes: Vec<Route>,
}

#[async_trait]
impl Provider for Flux {
    fn account(&self) -> &Account {
        &self.account
    }

    fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn pace(&self) -> Pace {
        Pace {
            poll_after: self.account.poll_after.unwrap_or(Duration::from_secs(2)),
            poll_max: self.account.poll_max.unwrap_or(Duration::from_secs(15)),
            reconcile: self.account.reconcile.unwrap_or(Duration::from_mins(15)),
            cancels: true,
            by_the_hour: false,
        }
    }

    fn request(&self, job: &Job<'_>) -> Wire {
        Wire::post(TASKS, task(job))
    }

    async fn submit(&self, job: &Job<'_>, _: &mpsc::Sender<Signal>) -> Result<Progress, ProviderError> {
        let answer = match self.account.submit(&self.request(job), job.not_after, 0).await? {
            Reply::Whole(answer) => answer,
            Reply::Events(_) => {
                return Err(ProviderError::new(
                    Kind::Garbled,
                    unknown("a stream where a task was expected"),
                    "answered with a stream",
                ));
            }
        };
        let data = data(&answer);
        let id = data
            .and_then(|data| data.get("task_id").or_else(|| data.get("id")))
            .and_then(Value::as_str)
            .and_then(handle);
        let id = id.or_else(|| (!answer.whole).then(|| salvage(&answer.body, "task_id")).flatten());
        match (id, data) {
            // A task was made, whatever else the answer says.
            (Some(id), Some(data)) => Ok(self.read(&id, data, &answer, None)),
            (Some(handle), None) => Ok(Progress::Pending(Pending { handle, progress: None })),
            (None, _) => Err(self.refusal(answer)),
        }
    }

    async fn check(&self, asked: &Asked<'_>) -> Result<Progress, ProviderError> {
        let mut answer = self.account.ask(&Wire::get(format!("{TASKS}/{}", asked.handle))).await?;
        match data(&answer) {
            Some(data) if (200..300).contains(&answer.status) && data.get("status").is_some() => {
                Ok(self.read(asked.handle, data, &answer, Some(asked)))
            }
            _ => {
                answer.status = spoken_status(&answer);
                Err(self.account.judge(On::Check, &answer))
            }
        }
    }

    fn secret_header(&self) -> Option<&'static str> {
        Some("x-webhook-secret")
    }

    fn named(&self, body: &Value) -> Option<String> {
        let data = body.get("data").filter(|data| data.is_object()).unwrap_or(body);
        data.get("task_id").and_then(Value::as_str).and_then(handle)
    }

    async fn cancel(&self, handle: &str) -> Result<bool, ProviderError> {
        // Documented for other models of PiAPI and for pending tasks only: any other answer means no.
        let answer = self
            .account
            .ask(&Wire { method: http::Method::DELETE, ..Wire::get(format!("{TASKS}/{handle}")) })
            .await?;
        Ok((200..300).contains(&answer.status) && envelope_code(&answer).is_none_or(|code| code == 200))
    }
}

impl Flux {
    /// A submission answered without a task.
    fn refusal(&self, mut answer: Answer) -> ProviderError {
        let http = answer.status;
        answer.status = spoken_status(&answer);
        let mut error = self.account.judge(On::Submit, &answer);
        if (200..300).contains(&answer.status) {
            // "success" without an id, or no envelope at all: a task may well exist.
            (error.kind, error.verdict) = (Kind::Garbled, unknown("accepted in form, but without a task id"));
        } else if (200..300).contains(&http) && error.verdict.billed == Billing::Unknown {
            // The API itself says no, and names no task: nothing was created.
            (error.kind, error.verdict.billed) = (Kind::Failed, Billing::No);
        }
        error
    }

    /// What a task object says.
    fn read(&self, id: &str, data: &Value, answer: &Answer, asked: Option<&Asked<'_>>) -> Progress {
        let word = data.get("status").and_then(Value::as_str).unwrap_or_default();
        let status = status::read(&self.account.id, word);
        match status {
            // A result for other words than ours is somebody else's picture.
            _ if asked.is_some_and(|asked| !is_ours(asked, data, status == Status::Done)) => {
                tracing::error!(
                    provider.id = self.account.id,
                    handle = id,
                    "this task was made for somebody else"
                );
                let verdict = unknown("the task shows another prompt or another callback");
                let detail = "the provider's task belongs to somebody else";
                Progress::Failed(ProviderError::new(Kind::Contract, verdict, detail))
            }
            Status::Pending => {
                let percent = data.get("progress").and_then(Value::as_f64).filter(|percent| *percent > 0.0);
                #[expect(clippy::cast_possible_truncation, reason = "a fraction for display")]
                let progress = percent.map(|percent| (percent / 100.0).min(1.0) as f32);
                Progress::Pending(Pending { handle: id.to_owned(), progress })
            }
            Status::Done => done(id, data, asked),
            Status::Failed | Status::Canceled => Progress::Failed(self.failed(data, answer)),
        }
    }

    /// The reason often stands in the logs alone.
    fn failed(&self, data: &Value, answer: &Answer) -> ProviderError {
        let text =
            |pointer: &str| data.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
        let code = data.pointer("/error/code").and_then(Value::as_i64).filter(|code| *code != 0);
        let logs: Vec<&str> = ["/logs", "/task_result/error_messages"]
            .iter()
            .filter_map(|pointer| data.pointer(pointer)?.as_array())
            .flatten()
            .filter_map(|line| line.as_str().or_else(|| line.get("message")?.as_str()))
            .collect();
        let said: Vec<&str> = [text("/error/raw_message"), text("/error/message")]
            .into_iter()
            .flatten()
            .chain(logs.iter().copied())
            .collect();
        // Judged as a refusal of the request: the words decide, and without telling words it simply failed.
        let as_refusal = Answer { status: 400, ..answer.clone() };
        let mut error = self.account.judge_words(
            On::Check,
            &as_refusal,
            code.map(|code| code.to_string()),
            &said.join("; "),
        );
        // Words about credit or limits in a task's log say nothing about the account as a whole.
        if error.kind != Kind::ContentRejected && !blames_the_input(&said) {
            error.kind = Kind::Failed;
        }
        let (units, charged) = usage(data);
        let restored = logs.iter().any(|line| line.contains("restored frozen points"));
        let (billed, evidence) = match charged {
            Some(usd) if usd > Usd::ZERO => (Billing::Yes, "failed, with units consumed"),
            Some(_) => (Billing::No, "failed, with no units consumed"),
            None if restored => (Billing::No, "failed; its log says the frozen points were restored"),
            None => (Billing::Unknown, "failed, without usage"),
        };
        error.verdict = Verdict { billed, charged, units, evidence: evidence.to_owned() };
        error.words.http_status = Some(answer.status);
        let telling =
            telling(&said).map_or_else(|| "no reason given".to_owned(), |line| self.account.redact(line));
        error.detail = format!("the task failed: {telling}");
        error
    }
}

fn done(id: &str, data: &Value, asked: Option<&Asked<'_>>) -> Progress {
    let (units, charged) = usage(data);
    let evidence = match charged {
        Some(_) => "the task's usage".to_owned(),
        None => "completed, without usage: priced by the catalogue".to_owned(),
    };
    let verdict =
        Verdict { billed: Billing::Yes, charged: charged.filter(|usd| *usd > Usd::ZERO), units, evidence };
    let preprocessed =
        asked.is_some_and(|asked| asked.request.controls.iter().any(|control| control.return_preprocessed));
    let images = pictures(data, preprocessed);
    if images.is_empty() {
        return Progress::Failed(ProviderError::new(
            Kind::NoImage,
            verdict,
            "the task completed without a picture",
        ));
    }
    Progress::Done(Done { handle: Some(id.to_owned()), images, verdict })
}

/// The line that says most about a failure: logs are full of steps, and the error itself may only say that there was one.
fn telling<'t>(said: &[&'t str]) -> Option<&'t str> {
    const WORDS: [&str; 7] =
        ["reject", "fail", "violat", "restrict", "not allowed", "unsupported", "invalid"];
    let tells = |line: &&&str| WORDS.iter().any(|word| line.to_lowercase().contains(word));
    let longest = said.iter().filter(tells).max_by_key(|line| line.len());
    longest.or_else(|| said.iter().find(|line| !line.starts_with("Internal error"))).or(said.first()).copied()
}

fn blames_the_input(said: &[&str]) -> bool {
    let said = said.join(" ").to_lowercase();
    ["failed to download", "hard to download", "image dimension"].iter().any(|phrase| said.contains(phrase))
}

/// Whether a task shows the callback we gave it, and once it is done our words, as far as it shows any.
fn is_ours(asked: &Asked<'_>, data: &Value, done: bool) -> bool {
    let echo = |pointer: &str| {
        data.pointer(pointer).and_then(Value::as_str).map(str::trim).filter(|echo| !echo.is_empty())
    };
    let words = echo("/input/prompt").is_none_or(|prompt| same_words(prompt, &asked.request.prompt));
    let callback = echo("/config/webhook_config/endpoint").zip(asked.callback);
    (words || !done) && callback.is_none_or(|(echoed, planted)| echoed == planted)
}

/// Whether one text is the other, or its beginning, but for white space, punctuation and case: an echo may be tidied or cut,
/// and a picture of ours must not be lost to that.
fn same_words(echo: &str, ours: &str) -> bool {
    let bare = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let (echo, ours) = (bare(echo), bare(ours));
    if echo.is_empty() { ours.is_empty() } else { ours.starts_with(&echo) }
}

/// The task object: under `data`, or the whole body where there is no envelope.
fn data(answer: &Answer) -> Option<&Value> {
    let json = answer.json.as_ref()?;
    match json.get("data") {
        Some(data) if data.is_object() => Some(data),
        Some(_) => None,
        None => json.is_object().then_some(json),
    }
}

/// The status an answer means: where HTTP says 200, the envelope's code may say otherwise.
fn spoken_status(answer: &Answer) -> u16 {
    match envelope_code(answer) {
        Some(code) if (200..300).contains(&answer.status) && code != 0 && code != 200 => {
            u16::try_from(code).ok().filter(|code| (400..600).contains(code)).unwrap_or(400)
        }
        _ => answer.status,
    }
}

fn envelope_code(answer: &Answer) -> Option<i64> {
    answer.json.as_ref()?.get("code")?.as_i64()
}

/// What was consumed, in units and dollars, by either of the two schemas.
fn usage(data: &Value) -> (Option<ProviderUnits>, Option<Usd>) {
    let consumed = data.pointer("/meta/usage/consume").or_else(|| data.pointer("/task_result/used_credits"));
    let Some(consumed) = consumed.and_then(Value::as_i64).filter(|units| *units >= 0) else {
        return (None, None);
    };
    let kind = data.pointer("/meta/usage/type").and_then(Value::as_str).unwrap_or("credits");
    let units = ProviderUnits { kind: kind.to_owned(), consumed };
    (Some(units), Some(Usd::from_nanos(consumed.saturating_mul(NANOS_PER_UNIT))))
}

/// The pictures of a finished task, each once: links first, inline bytes when there are none.
fn pictures(data: &Value, preprocessed: bool) -> Vec<Made> {
    let Some(output) = data.get("output").or_else(|| data.pointer("/task_result/task_output")) else {
        return Vec::new();
    };
    let mut links: Vec<&str> = Vec::new();
    let listed = output.get("image_urls").and_then(Value::as_array).into_iter().flatten();
    for link in listed.chain(output.get("image_url")).filter_map(Value::as_str) {
        if !link.is_empty() && !links.contains(&link) {
            links.push(link);
        }
    }
    let mut made: Vec<MadeSource> = links.into_iter().map(|link| MadeSource::Url(link.to_owned())).collect();
    if made.is_empty() {
        let inline = output.get("image_base64").and_then(Value::as_str);
        let listed = output.get("data").and_then(Value::as_array).into_iter().flatten();
        let inline = inline.into_iter().chain(listed.filter_map(|item| item.get("b64_json")?.as_str()));
        made.extend(inline.filter_map(decode_base64).map(MadeSource::Bytes));
    }
    // Asked for, the preprocessed control image comes last, after at least one picture.
    let last = made.len().saturating_sub(1);
    let kind = |at: usize| {
        if preprocessed && at == last && at > 0 { ImageKind::Preprocessed } else { ImageKind::Output }
    };
    made.into_iter().enumerate().map(|(at, source)| Made { source, kind: kind(at) }).collect()
}

/// The body of `POST /api/v1/task`.
fn task(job: &Job<'_>) -> Value {
    let request = job.request;
    let mut input = Map::new();
    input.insert("prompt".into(), json!(request.prompt));
    let mut set = |name: &str, value: Option<Value>| value.map(|value| input.insert(name.to_owned(), value));
    set("negative_prompt", request.negative_prompt.as_ref().map(|text| json!(text)));
    set("image", job.inputs.images.first().map(|image| json!(image.as_text())));
    set("width", request.size.map(|size| json!(size.width)));
    set("height", request.size.map(|size| json!(size.height)));
    set("batch_size", request.n.filter(|n| *n > 1).map(|n| json!(n)));
    set("denoise", request.strength.map(|strength| json!(strength)));
    set("guidance_scale", request.guidance_scale.map(|scale| json!(scale)));
    set("steps", request.steps.map(|steps| json!(steps)));
    set("seed", request.seed.map(|seed| json!(seed)));
    set("control_net_settings", (!request.controls.is_empty()).then(|| controls(job)));
    // A control task without a LoRA still names the list, empty.
    set("lora_settings", (!request.loras.is_empty() || job.form == "controlnet-lora").then(|| loras(job)));
    set("custom_settings", request.outpaint.map(outpaint));
    let mut body = json!({"model": job.provider_model, "task_type": job.form, "input": input});
    let mut config = Map::new();
    if let Some(callback) = job.callback {
        config.insert("webhook_config".into(), json!({"endpoint": callback.url, "secret": callback.secret}));
    }
    if let Some(mode) = job.options.and_then(|options| options.get("service_mode")) {
        config.insert("service_mode".into(), mode.clone());
    }
    if !config.is_empty() {
        body["config"] = config.into();
    }
    body
}

fn loras(job: &Job<'_>) -> Value {
    let loras = job.request.loras.iter().enumerate().map(|(at, lora)| {
        let mut setting = Map::new();
        setting.insert("lora_type".into(), json!(lora.name));
        lora.strength.map(|strength| setting.insert("lora_strength".into(), json!(strength)));
        let image = job.inputs.loras.get(at).and_then(Option::as_ref).map(Input::as_text);
        image.map(|image| setting.insert("lora_image".into(), json!(image)));
        setting
    });
    loras.collect()
}

fn controls(job: &Job<'_>) -> Value {
    let controls = job.request.controls.iter().zip(&job.inputs.controls).map(|(control, image)| {
        let mut setting = Map::new();
        setting.insert("control_type".into(), json!(control.kind));
        setting.insert("control_image".into(), json!(image.as_text()));
        control.strength.map(|strength| setting.insert("control_strength".into(), json!(strength)));
        if control.return_preprocessed {
            setting.insert("return_preprocessed_image".into(), json!(true));
        }
        setting
    });
    controls.collect()
}

fn outpaint(added: Outpaint) -> Value {
    json!([{
        "setting_type": "outpaint",
        "outpaint_left": added.left,
        "outpaint_right": added.right,
        "outpaint_top": added.top,
        "outpaint_bottom": added.bottom,
    }])
}
