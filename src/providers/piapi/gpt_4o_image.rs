//! PiAPI gpt-4o-image: a chat completion whose streamed text ends in a link to the picture. It has no parameters but
//! words and images; everything else is said in the prompt. Billed $0.02 with a picture, $0.00066 without, nothing for
//! 4xx and 5xx (docs: piapi, GPT-4o Image Generation API).

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::answer::Answer;
use super::super::call::unknown;
use super::super::errors::{On, Shape};
use super::super::{
    Account, Asked, Done, Job, Kind, Made, MadeSource, OpenError, Opened, Options, Pace, Progress, Provider,
    ProviderError, Reply, Signal, Wire,
};
use super::{CATALOG, links};
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::image::ImageKind;
use crate::domain::money::Usd;
use crate::domain::task::ProviderWords;

/// One streamed event at most; a chat delta has some hundred bytes.
const MAX_EVENT: usize = 1024 * 1024;
/// Longer lines are not looked at before the answer is whole.
const MAX_LINE: usize = 16 * 1024;
/// All text of one answer at most.
const MAX_CONTENT: usize = 1024 * 1024;

pub(super) fn open(account: Account, _: &Options) -> Opened {
    let routes = catalog::read(CATALOG, super::GPT_4O_IMAGE.name).map_err(|e| OpenError(e.to_string()))?;
    let price = routes.first().and_then(|route| route.price.as_ref());
    let no_image = price.and_then(|price| price.no_image).unwrap_or_default();
    Ok(Arc::new(Chat { account: account.keyed_by("authorization"), routes, no_image }))
}

struct Chat {
    account: Account,
    routes: Vec<Route>,
    /// What an answer without a picture costs.
    no_image: Usd,
}

#[async_trait]
impl Provider for Chat {
    fn account(&self) -> &Account {
        &self.account
    }

    fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn pace(&self) -> Pace {
        // Nothing is left to ask once the stream is over.
        Pace::AT_ONCE
    }

    fn request(&self, job: &Job<'_>) -> Wire {
        let images = job
            .inputs
            .images
            .iter()
            .map(|image| json!({"type": "image_url", "image_url": {"url": image.as_text()}}));
        let words = json!({"type": "text", "text": said(job)});
        let content: Vec<Value> = images.chain([words]).collect();
        let body = json!({"model": job.provider_model, "messages": [{"role": "user", "content": content}], "stream": true});
        Wire::post("/v1/chat/completions", body)
    }

    async fn submit(&self, job: &Job<'_>, signals: &mpsc::Sender<Signal>) -> Result<Progress, ProviderError> {
        let mut telling = Telling::new(job);
        match self.account.submit(&self.request(job), job.not_after, MAX_EVENT).await? {
            Reply::Whole(answer) if (200..300).contains(&answer.status) => {
                let json = answer.json.as_ref().ok_or_else(|| self.account.judge(On::Submit, &answer))?;
                if let Some(error) = json.get("error").filter(|error| !error.is_null()) {
                    return Err(self.refused(error));
                }
                telling.chunk(json);
                telling.over = answer.whole;
            }
            Reply::Whole(answer) => return Err(self.account.judge(On::Submit, &answer)),
            Reply::Events(mut events) => {
                while let Some(event) = events.next().await {
                    let data = match event {
                        Ok(event) => event.data,
                        Err(cut) => {
                            telling.cut = Some(cut);
                            break;
                        }
                    };
                    if matches!(data.trim(), "[DONE]" | "[none]") {
                        telling.over = true;
                        break;
                    }
                    // A chunk that is not JSON is skipped: the ones around it still count.
                    let Ok(json) = serde_json::from_str::<Value>(&data) else { continue };
                    if let Some(error) = json.get("error").filter(|error| !error.is_null()) {
                        if !telling.pictures().is_empty() {
                            break;
                        }
                        let mut error = self.refused(error);
                        if telling.content.is_empty() {
                            return Err(error);
                        }
                        error.verdict = unknown("an error came after the answer had begun");
                        error.words = self.words(&telling.content);
                        return Ok(Progress::Failed(error));
                    }
                    telling.chunk(&json);
                    for signal in telling.news() {
                        // Nobody listening is no reason to stop reading a paid answer.
                        let _ = signals.send(signal).await;
                    }
                    if telling.content.len() > MAX_CONTENT {
                        telling.cut = Some("the answer's text does not end".to_owned());
                        break;
                    }
                }
            }
        }
        self.conclude(&telling)
    }

    async fn check(&self, _: &Asked<'_>) -> Result<Progress, ProviderError> {
        Err(ProviderError::new(
            Kind::Missing,
            unknown("a chat cannot be asked again"),
            "a chat cannot be asked again",
        ))
    }
}

impl Chat {
    /// What the whole text comes to.
    fn conclude(&self, telling: &Telling<'_>) -> Result<Progress, ProviderError> {
        let pictures = telling.pictures();
        if !pictures.is_empty() {
            let made = |url| Made { source: MadeSource::Url(url), kind: ImageKind::Output };
            let images = pictures.into_iter().map(made).collect();
            let verdict = Verdict::new(Billing::Yes, "the answer holds a picture");
            return Ok(Progress::Done(Done { handle: None, images, verdict }));
        }
        if !telling.over {
            let why = telling.cut.as_deref().unwrap_or("the stream ended before the answer did");
            let mut error = ProviderError::new(
                Kind::Silent,
                unknown("the stream was cut before a picture came"),
                self.account.redact(why),
            );
            error.words = self.words(&telling.content);
            return Err(error);
        }
        if let Some(url) = links::preview(&telling.content) {
            let verdict = unknown("complete by its own words, with a preview's link alone");
            let images = vec![Made { source: MadeSource::Preview(url), kind: ImageKind::Output }];
            return Ok(Progress::Done(Done { handle: None, images, verdict }));
        }
        let (kind, detail) = self.classify(&telling.content);
        let evidence = "the answer ended without a picture";
        let verdict = Verdict {
            billed: Billing::Yes,
            charged: Some(self.no_image),
            units: None,
            evidence: evidence.to_owned(),
        };
        let mut error = ProviderError::new(kind, verdict, detail);
        error.words = self.words(&telling.content);
        Ok(Progress::Failed(error))
    }

    /// Why an answer that ended well holds no picture.
    fn classify(&self, content: &str) -> (Kind, String) {
        let lower = content.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let line = |label: &str| {
            let found = content.lines().find_map(|line| {
                let line = line.trim_start_matches(['>', ' ', '-', '*']);
                let (head, rest) = line.split_once(':')?;
                head.trim().eq_ignore_ascii_case(label).then(|| rest.trim())
            });
            found.filter(|text| !text.is_empty()).map(|text| self.account.redact(text))
        };
        if says(&["generation failed", "failure reason", "生成失败"]) {
            let reason = line("reason").unwrap_or_else(|| "no reason given".to_owned());
            let advice = line("suggestion").map(|text| format!("; suggestion: {text}")).unwrap_or_default();
            let policy = ["content polic", "guidelines", "moderation", "safety"]
                .iter()
                .any(|word| reason.to_lowercase().contains(word));
            let kind = if policy { Kind::ContentRejected } else { Kind::Failed };
            return (kind, format!("gpt-4o-image reported a failed generation: {reason}{advice}"));
        }
        if says(&["dall-e", "dall·e", "dalle"]) {
            return (
                Kind::Downgraded,
                "gpt-4o-image answered with text about another model; classified as downgrade".to_owned(),
            );
        }
        if !says(&links::DONE_WORDS) && says(&["queuing", "queueing", "排队"]) {
            return (
                Kind::NoImage,
                "gpt-4o-image ended while still queued; classified as queue text".to_owned(),
            );
        }
        (Kind::NoImage, "gpt-4o-image answered with text only; classified as refusal".to_owned())
    }

    /// An error object in place of an answer: documented as not charged.
    fn refused(&self, error: &Value) -> ProviderError {
        let text = |name: &str| match error.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        // Relays of this family put the status into `type` or `code`.
        let status = ["code", "type", "status"].iter().filter_map(|name| text(name)?.parse::<u16>().ok());
        let status = status.into_iter().find(|status| (400..600).contains(status)).unwrap_or(500);
        let message = text("message").or_else(|| error.as_str().map(str::to_owned)).unwrap_or_default();
        let answer = Answer {
            status,
            shape: Shape::Json,
            json: None,
            body: bytes::Bytes::new(),
            whole: true,
            retry_after: None,
        };
        let mut judged = self.account.judge_words(On::Submit, &answer, text("code"), &message);
        judged.verdict = Verdict::new(Billing::No, "an error object in the answer");
        judged
    }

    fn words(&self, content: &str) -> ProviderWords {
        ProviderWords {
            name: self.account.id.clone(),
            http_status: Some(200),
            code: None,
            message: Some(self.account.redact(content)),
        }
    }
}

/// The prompt with what the model has no parameters for.
fn said(job: &Job<'_>) -> String {
    let request = job.request;
    let shape = match (request.size, request.aspect_ratio) {
        (Some(size), _) => format!("Image size: {}:{}. ", size.width, size.height),
        (None, Some(ratio)) => format!("Aspect ratio: {ratio}. "),
        (None, None) => String::new(),
    };
    let count = request.n.filter(|n| *n > 1).map(|n| format!("Number of images: {n}. "));
    format!("{shape}{}{}", count.unwrap_or_default(), request.prompt)
}

/// An answer as it comes in.
struct Telling<'a> {
    content: String,
    /// Whether it said that it was over, as opposed to breaking off.
    over: bool,
    cut: Option<String>,
    /// Texts of our own, whose links are echoes.
    ours: Vec<&'a str>,
    progress: f32,
    first: Option<String>,
    /// Where the line begins that is still growing, and whether it stands inside a code block.
    line: usize,
    /// How much has been looked through for line ends.
    read: usize,
    in_code: bool,
}

impl<'a> Telling<'a> {
    fn new(job: &Job<'a>) -> Self {
        let mut ours = vec![job.request.prompt.as_str()];
        ours.extend(job.request.images.iter().filter_map(|image| image.url.as_deref()));
        Self {
            content: String::new(),
            over: false,
            cut: None,
            ours,
            progress: 0.0,
            first: None,
            line: 0,
            read: 0,
            in_code: false,
        }
    }

    /// Takes the text of one chunk, streamed or whole.
    fn chunk(&mut self, json: &Value) {
        for choice in json.get("choices").and_then(Value::as_array).into_iter().flatten() {
            let text = ["/delta/content", "/message/content"]
                .iter()
                .find_map(|pointer| choice.pointer(pointer)?.as_str());
            self.content.push_str(text.unwrap_or_default());
            if choice.get("finish_reason").is_some_and(|reason| !reason.is_null()) {
                self.over = true;
            }
        }
    }

    fn pictures(&self) -> Vec<String> {
        links::pictures(&self.content, &self.ours)
    }

    /// What the last chunk brought to light. Looks at each line once it is there and at the open one while it grows, so
    /// that an answer in a million pieces is not read a million times.
    fn news(&mut self) -> Vec<Signal> {
        let mut news = Vec::new();
        if self.read == self.content.len() {
            return news;
        }
        while let Some(length) = self.content[self.read..].find('\n') {
            let line = self.line..self.read + length;
            self.look(line.clone(), &mut news);
            if self.content[line.clone()].matches("```").count() % 2 == 1 {
                self.in_code = !self.in_code;
            }
            self.line = line.end + 1;
            self.read = self.line;
        }
        self.look(self.line..self.content.len(), &mut news);
        self.read = self.content.len();
        news
    }

    fn look(&mut self, line: Range<usize>, news: &mut Vec<Signal>) {
        let line = &self.content[line];
        if self.in_code || line.len() > MAX_LINE {
            return;
        }
        if let Some(progress) = percent(line).filter(|progress| *progress > self.progress) {
            self.progress = progress;
            news.push(Signal::Progress(progress));
        }
        // In an open code block or link it may yet turn out to be something else.
        if self.first.is_none() && line.contains(')') && !line.contains("```") {
            self.first = links::early(line, &self.ours);
            news.extend(self.first.clone().map(Signal::Image));
        }
    }
}

/// The last percentage of a "Progress" line, as a fraction.
fn percent(line: &str) -> Option<f32> {
    let (_, rest) = line.rsplit_once("Progress").or_else(|| line.rsplit_once("进度"))?;
    // A link's address is full of digits of its own.
    let rest = rest.split("](").next().unwrap_or_default();
    // The last number may still be growing, unless something follows it.
    let finished = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    let mut numbers =
        finished.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u8>().ok());
    numbers.rfind(|percent| *percent <= 100).map(|percent| f32::from(percent) / 100.0)
}
