//! PiAPI gpt-4o-image: a chat completion whose streamed text ends in a link to the picture. It has no parameters but
//! words and images; everything else is said in the prompt. Billed $0.02 with a picture, $0.00066 without, nothing for
//! 4xx and 5xx (docs: piapi, GPT-4o Image Generation API).

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::call::unknown;
use super::super::errors::On;
use super::super::gathered::{ErrorSaid, Gathered};
use super::super::links;
use super::super::own::Own;
use super::super::reader::{Answer, Images, Interpreter, Part};
use super::super::{
    About, Account, Done, Job, Kind, OpenError, Opened, Options, Pace, Progress, Provider, ProviderError,
    Signal, Wire,
};
use super::CATALOG;
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::money::Usd;
use crate::domain::task::ProviderWords;

/// Longer lines are not looked at before the answer is whole.
const MAX_LINE: usize = 16 * 1024;

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

    fn interpreter<'a>(&'a self, about: &'a About<'a>) -> Box<dyn Interpreter + 'a> {
        Box::new(Reading {
            chat: self,
            gathered: Gathered::new(&about.own),
            telling: Telling::new(&about.own),
        })
    }
}

/// An answer as it is read.
struct Reading<'a> {
    chat: &'a Chat,
    gathered: Gathered<'a>,
    telling: Telling<'a>,
}

impl Interpreter for Reading<'_> {
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
        self.gathered.part(part, images);
        self.telling.news(&self.gathered.content)
    }

    fn conclude(&mut self, answer: &Answer) -> Result<Progress, ProviderError> {
        let (chat, gathered) = (self.chat, &self.gathered);
        if !(200..300).contains(&answer.status) {
            return Err(chat.account.judge(On::Submit, answer));
        }
        let images = gathered.images();
        if !images.is_empty() {
            let verdict = Verdict::new(Billing::Yes, "the answer holds a picture");
            let doubtful = gathered.doubtful() || answer.broken.is_some();
            return Ok(Progress::Done(Done { handle: None, images, verdict, doubtful }));
        }
        let words = chat.words(&gathered.content);
        if let Some(error) = &gathered.error {
            let refused = chat.refused(error);
            // An error in place of an answer is documented as not charged; a refusal in the middle of one costs what an answer
            // without an image does; of any other end nobody knows.
            if gathered.content.is_empty() {
                return Err(refused);
            }
            let verdict = if refused.kind == Kind::ContentRejected {
                chat.without_image("the answer turned into a refusal")
            } else {
                unknown("an error came after the answer had begun")
            };
            return Ok(Progress::Failed(ProviderError { verdict, words, ..refused }));
        }
        if let Some(refusal) = &gathered.refusal {
            let detail = format!("gpt-4o-image refused: {}", chat.account.redact(refusal));
            let verdict = chat.without_image("refused, without a picture");
            let error = ProviderError::new(Kind::ContentRejected, verdict, detail);
            return Ok(Progress::Failed(ProviderError { words, ..error }));
        }
        // A document that is whole is over; a stream has to say so.
        let over = gathered.finished
            || answer.done
            || (answer.whole && !gathered.content.is_empty() && !streamed(answer));
        if !over || answer.broken.is_some() {
            let why = answer.cut.as_deref().unwrap_or("the stream ended before the answer did");
            let kind = if answer.json.is_none() && answer.whole { Kind::Garbled } else { Kind::Silent };
            let verdict = unknown("the answer was cut before a picture came");
            let error = ProviderError::new(kind, verdict, chat.account.redact(why));
            return Err(ProviderError { words, ..error });
        }
        let (kind, detail) = chat.classify(&gathered.content);
        let lower = gathered.content.to_lowercase();
        let verdict = if links::DONE_WORDS.iter().any(|word| lower.contains(word)) {
            unknown("complete by its own words, and no link to a picture")
        } else {
            chat.without_image("the answer ended without a picture")
        };
        let error = ProviderError::new(kind, verdict, detail);
        Ok(Progress::Failed(ProviderError { words, ..error }))
    }
}

/// Whether the last document was a piece of a stream.
fn streamed(answer: &Answer) -> bool {
    answer.json.as_ref().is_some_and(|json| json.pointer("/choices/0/delta").is_some())
}

impl Chat {
    /// What an answer without an image costs.
    fn without_image(&self, evidence: &str) -> Verdict {
        Verdict { charged: Some(self.no_image), ..Verdict::new(Billing::Yes, evidence) }
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

    /// An error in place of an answer: documented as not charged.
    fn refused(&self, error: &ErrorSaid) -> ProviderError {
        let mut judged = self.account.judge_said(On::Submit, error);
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

/// What is worth knowing of an answer's text while it comes.
struct Telling<'a> {
    own: &'a Own,
    progress: f32,
    first: Option<String>,
    /// Where the line begins that is still growing, and whether it stands inside a code block.
    line: usize,
    /// How much has been looked through for line ends.
    read: usize,
    in_code: bool,
}

impl<'a> Telling<'a> {
    fn new(own: &'a Own) -> Self {
        Self { own, progress: 0.0, first: None, line: 0, read: 0, in_code: false }
    }

    /// What the last part brought to light. Looks at each line once it is there and at the open one while it grows, so that
    /// an answer in a million pieces is not read a million times.
    fn news(&mut self, content: &str) -> Vec<Signal> {
        let mut news = Vec::new();
        if self.read == content.len() {
            return news;
        }
        while let Some(length) = content[self.read..].find('\n') {
            let line = self.line..self.read + length;
            self.look(content, line.clone(), &mut news);
            if content[line.clone()].matches("```").count() % 2 == 1 {
                self.in_code = !self.in_code;
            }
            self.line = line.end + 1;
            self.read = self.line;
        }
        self.look(content, self.line..content.len(), &mut news);
        self.read = content.len();
        news
    }

    fn look(&mut self, content: &str, line: Range<usize>, news: &mut Vec<Signal>) {
        let line = &content[line];
        if self.in_code || line.len() > MAX_LINE {
            return;
        }
        if let Some(progress) = percent(line).filter(|progress| *progress > self.progress) {
            self.progress = progress;
            news.push(Signal::Progress(progress));
        }
        // In an open code block or link it may yet turn out to be something else.
        if self.first.is_none() && line.contains(')') && !line.contains("```") {
            self.first = links::early(line, self.own);
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
