//! One try at one provider, and the money that may have gone with it. An attempt is written before its paid call is
//! sent; whatever happens to the call, the row says what is known of it and in which words that is known.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clock::Millis;
use super::id::{AttemptId, TaskId};
use super::money::Usd;
use super::task::{Failure, Output, Source};

/// Whether a provider charged for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Billing {
    /// Proven not to be charged.
    No,
    /// Charged.
    Yes,
    /// Nobody can say.
    Unknown,
}

impl Billing {
    /// Its name in JSON and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
        }
    }
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// Committed; the call may be under way.
    Intent,
    /// The call never left this machine.
    NotSent,
    /// The provider said no.
    Rejected,
    /// The provider said yes and is at work.
    Accepted,
    /// The call left and no answer tells what became of it.
    Unknown,
    /// A picture came.
    Succeeded,
    /// The provider failed after accepting.
    Failed,
    /// The provider answered without a picture.
    NoImage,
    /// Never heard of again.
    Lost,
}

impl AttemptState {
    /// Whether the provider may still be at work on it.
    pub const fn open(self) -> bool {
        matches!(self, Self::Intent | Self::Accepted | Self::Unknown)
    }

    /// Whether the provider has said how it ended.
    pub const fn told(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::NoImage)
    }

    /// Its name in JSON and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::NotSent => "not_sent",
            Self::Rejected => "rejected",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::NoImage => "no_image",
            Self::Lost => "lost",
        }
    }
}

/// What a provider says an attempt consumed, in its own units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"type": "quota", "consumed": 20000}))]
pub struct ProviderUnits {
    /// The provider's name for the unit.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many.
    pub consumed: i64,
}

/// One try at one provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its id; also what is planted at providers that take a correlation.
    pub id: AttemptId,
    /// The task it is for.
    pub task: TaskId,
    /// 1 for the task's first.
    pub number: u32,
    /// Provider id.
    pub provider: String,
    /// The model's name there.
    pub provider_model: String,
    /// Why this route was taken.
    pub reason: String,
    /// How far it has come.
    pub state: AttemptState,
    /// Whether it was charged.
    pub billed: Billing,
    /// In words, how that is known.
    pub evidence: String,
    /// What it may cost at most, by the catalogue at the time; `None` when no price is known.
    pub possible_charge: Option<Usd>,
    /// What it did cost, once known.
    pub charged: Option<Usd>,
    /// The same in the provider's units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<ProviderUnits>,
    /// The provider's id for it; unique at an upstream.
    pub handle: Option<String>,
    /// Whose ids these are: the address of the provider's API.
    #[serde(default)]
    pub upstream: String,
    /// Its inputs as they were sent: addresses, or `sha256:` and a digest. What an answer may show again and is no result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<String>,
    /// What went wrong, when something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// SHA-256 of the token in the address the provider was given to ring at, when it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hash: Option<String>,
    /// When its provider first said that it had failed and cost nothing: believed when it says so again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_since: Option<Millis>,
    /// What it made and is not in its task's hands: known after the task had gone on without it, or still to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<Output>,
    /// What is known of its billing with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_verdict: Option<Verdict>,
    /// Since when some of its late pictures are here and others do not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacking_since: Option<Millis>,
    /// When it is next looked for although its task no longer waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_at: Option<Millis>,
    /// When the intent was written.
    pub started_at: Millis,
    /// When the provider was done with it.
    pub finished_at: Option<Millis>,
}

impl Attempt {
    /// Closes the attempt with what is known of its billing.
    pub fn close(&mut self, state: AttemptState, verdict: Verdict, now: Millis) {
        self.state = state;
        self.judge(verdict);
        self.finished_at = Some(now);
    }

    /// Leaves images with the attempt, to be brought to its task from `look_at` on, and what is known of its billing with them.
    /// What is here already stays; so do links that still wait, unless `all` says that the images may be what they lead to, and
    /// as many come as links wait.
    pub fn leave(&mut self, outputs: Vec<Output>, verdict: Verdict, look_at: Millis, all: bool) {
        let waits = |output: &Output| matches!(output.source, Source::Url(_));
        let others = !all || outputs.len() < self.made.iter().filter(|output| waits(output)).count();
        let before = std::mem::replace(&mut self.made, outputs);
        for output in before.into_iter().filter(|output| others || !waits(output)) {
            if self.made.iter().all(|made| made.source != output.source) {
                self.made.push(output);
            }
        }
        self.made_verdict = Some(verdict);
        self.look_at = Some(look_at);
    }

    /// What is known of its billing.
    pub fn verdict(&self) -> Verdict {
        Verdict {
            billed: self.billed,
            charged: self.charged.filter(|_| self.billed == Billing::Yes),
            units: self.units.clone(),
            evidence: self.evidence.clone(),
        }
    }

    /// Leaves links with the attempt that have given nothing so far, in place of those it had. What is here stays.
    pub fn await_links(&mut self, links: Vec<Output>) {
        self.made.retain(|output| matches!(output.source, Source::Blob(_)));
        self.made.extend(links);
    }

    /// Notes what is known of the billing. A charge beyond all measure is not believed: see [`Self::is_absurd`].
    pub fn judge(&mut self, verdict: Verdict) {
        let verdict = if self.is_absurd(&verdict) { self.doubted(verdict) } else { verdict };
        self.charged = match verdict.billed {
            Billing::No => Some(Usd::ZERO),
            Billing::Yes => verdict.charged.or(self.possible_charge),
            Billing::Unknown => None,
        };
        self.billed = verdict.billed;
        self.evidence = verdict.evidence;
        self.units = verdict.units.or(self.units.take());
    }
}

/// A charge of so many times the price is no charge.
const ABSURD: i64 = 100;
/// The same where no price is known.
const ABSURD_USD: Usd = Usd::from_nanos(1_000_000_000_000);

impl Attempt {
    /// Whether a charge is far beyond the price: then it is a mistake, of the provider's or in transit.
    pub fn is_absurd(&self, verdict: &Verdict) -> bool {
        let most = match self.possible_charge {
            Some(price) if price > Usd::ZERO => Usd::from_nanos(price.nanos().saturating_mul(ABSURD)),
            _ => ABSURD_USD,
        };
        verdict.charged.is_some_and(|charged| charged > most || charged < Usd::ZERO)
    }

    fn doubted(&self, verdict: Verdict) -> Verdict {
        let charged = verdict.charged.unwrap_or_default();
        let price = self
            .possible_charge
            .map_or("a price nobody knows".to_owned(), |price| format!("a price of ${price}"));
        let evidence = format!("a charge of ${charged} for {price} is not believed; {}", verdict.evidence);
        Verdict { charged: None, ..Verdict { billed: Billing::Unknown, evidence, ..verdict } }
    }
}

/// What is known about the billing of an attempt, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it was charged.
    pub billed: Billing,
    /// How much, when the provider said so.
    pub charged: Option<Usd>,
    /// In the provider's units.
    pub units: Option<ProviderUnits>,
    /// In words, how that is known.
    pub evidence: String,
}

impl Verdict {
    /// A verdict without an amount of the provider's own.
    pub fn new(billed: Billing, evidence: impl Into<String>) -> Self {
        Self { billed, charged: None, units: None, evidence: evidence.into() }
    }
}
