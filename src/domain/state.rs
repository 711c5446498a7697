//! What a task carries with it on its way: its routes, what a provider made, what it costs, why it failed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::attempt::{Billing, ProviderUnits};
use super::clock::Millis;
use super::code::Code;
use super::fit::Adjustment;
use super::id::{AttemptId, FileId};
use super::image::ImageKind;
use super::money::Usd;
use super::trace::Trace;

/// A route with the reason why it is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteTaken {
    /// Provider id.
    #[schema(example = "piapi_flux")]
    pub provider: String,
    /// The model's name there.
    #[schema(example = "Qubico/flux1-dev")]
    pub provider_model: String,
    /// Why it is taken.
    #[schema(example = "first in order; price known")]
    pub reason: String,
}

/// A route that can serve a task, and how it has fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The route.
    #[serde(flatten)]
    pub route: RouteTaken,
    /// How often it was sent to.
    #[serde(default)]
    pub sends: u32,
    /// Whether it is out of the question by now.
    #[serde(default)]
    pub out: bool,
}

/// A picture the provider has made, before it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Where its bytes are.
    pub source: Source,
    /// What it shows.
    pub kind: ImageKind,
    /// Which of the answer's images it is, counted from 0, where others of them are not beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<usize>,
}

impl Output {
    /// One whose place is where it stands.
    pub const fn new(source: Source, kind: ImageKind) -> Self {
        Self { source, kind, place: None }
    }
}

/// Where a picture's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// At an address of the provider's.
    Url(String),
    /// Here already, under this SHA-256: they came inside the answer.
    Blob(String),
}

/// Why a task or an attempt ended without a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The code callers see.
    pub code: Code,
    /// What happened, in a sentence.
    pub detail: String,
    /// Whether a provider charged for it.
    pub billed: Billing,
    /// The provider's own words, redacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderWords>,
}

/// A provider's own words about a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderWords {
    /// Provider id.
    pub name: String,
    /// HTTP status of its answer, when there was one.
    pub http_status: Option<u16>,
    /// Its own error code.
    pub code: Option<String>,
    /// Its message, redacted and cut to a readable length.
    pub message: Option<String>,
}

/// What a task costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// By the catalogue, for the route in hand; `None` when no price is known.
    pub estimated: Option<Usd>,
    /// The most that may be billed over all attempts; `None` when no price is known.
    pub bound: Option<Usd>,
    /// What attempts that ended have cost for certain.
    pub settled: Usd,
    /// What attempts of unknown billing may have cost.
    pub unresolved: Usd,
    /// What is set aside for what it may yet spend.
    #[serde(default)]
    pub reserved: Usd,
    /// Whether its key has a budget: then no attempt goes beyond what is set aside.
    #[serde(default)]
    pub budgeted: bool,
}

/// How far calling off a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopping {
    /// The caller wants it.
    Wanted,
    /// The provider was asked.
    Asked,
}

/// A result that came after its task had ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Late {
    /// The attempt it is from.
    pub attempt: AttemptId,
    /// Provider id.
    pub provider: String,
    /// When it was here.
    pub at: Millis,
    /// How many pictures it brought.
    pub images: u32,
}

/// What the database never looks into: the rest of a task, one JSON document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Routes that can serve the task, best first.
    pub candidates: Vec<Candidate>,
    /// The route in hand.
    pub route: Option<RouteTaken>,
    /// The attempt in hand.
    pub attempt: Option<AttemptId>,
    /// How many attempts there have been.
    pub attempts: u32,
    /// Whether the attempt in hand has entered the books.
    pub booked: bool,
    /// Whether any attempt may have been billed.
    pub billed: Option<Billing>,
    /// The parameters as the route in hand honours them.
    pub effective: Value,
    /// What was adjusted for it.
    pub adjustments: Vec<Adjustment>,
    /// How far it is, 0 to 1, when the provider says.
    pub progress: Option<f32>,
    /// How many parts it was divided into, each a task of its own that callers do not see; 0 for one upstream call.
    pub parts: u32,
    /// What is being brought here.
    pub outputs: Vec<Output>,
    /// How often the effect of the present phase was tried.
    pub tries: u32,
    /// How often in a row the provider could not be asked how it stands.
    pub unanswered: u32,
    /// How often the provider said that it was done and gave no picture.
    pub empty_handed: u32,
    /// When the present phase began.
    pub since: Option<Millis>,
    /// What it costs.
    pub cost: Cost,
    /// The same in the provider's units.
    pub units: Option<ProviderUnits>,
    /// Why it ended without a picture.
    pub failure: Option<Failure>,
    /// Until when a submission of unknown outcome is looked for.
    pub reconcile_until: Option<Millis>,
    /// Input images that were fetched from where the caller said, by their address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fetched: BTreeMap<String, FileId>,
    /// Until when it counts against its account although nobody knows whether the provider is at work on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_until: Option<Millis>,
    /// Whether the provider in hand can be asked to stop.
    pub cancels: bool,
    /// Set once the caller has called it off while the provider was at work.
    pub stopping: Option<Stopping>,
    /// Results that came after the end.
    pub late: Vec<Late>,
    /// Fewer pictures than asked for.
    pub partial: bool,
    /// For how many seconds its pictures are kept once they are here; `None`: for ever.
    pub keep_s: Option<u32>,
    /// When the pictures that are here go.
    pub expires_at: Option<Millis>,
    /// When its content was erased.
    pub erased_at: Option<Millis>,
    /// How many events it has had.
    pub events: i64,
    /// Its place in its caller's trace, or in one of our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

impl State {
    /// The candidate whose route is in hand.
    pub fn in_hand(&self) -> Option<&Candidate> {
        let taken = self.route.as_ref()?;
        self.candidates.iter().find(|one| one.is(taken))
    }

    /// The same, to be changed.
    pub fn in_hand_mut(&mut self) -> Option<&mut Candidate> {
        let taken = self.route.as_ref()?;
        self.candidates.iter_mut().find(|one| one.is(taken))
    }
}

impl Candidate {
    fn is(&self, taken: &RouteTaken) -> bool {
        self.route.provider == taken.provider && self.route.provider_model == taken.provider_model
    }
}
