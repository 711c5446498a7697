//! Rules: which requests get which faults, how often, and with what chance. The first rule that matches and
//! has uses left wins, and goes before a directive in the prompt.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Faults;
use crate::simulator::chance::Chance;
use crate::simulator::lock::Lock;

/// Where a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the spelled names say it")]
pub enum Endpoint {
    #[serde(rename = "flux.submit")]
    FluxSubmit,
    #[serde(rename = "flux.poll")]
    FluxPoll,
    #[serde(rename = "flux.cancel")]
    FluxCancel,
    #[serde(rename = "chat")]
    Chat,
    #[serde(rename = "images.generations")]
    ImagesGenerations,
    #[serde(rename = "images.edits")]
    ImagesEdits,
    #[serde(rename = "pipeline.submit")]
    PipelineSubmit,
    #[serde(rename = "pipeline.poll")]
    PipelinePoll,
    #[serde(rename = "files")]
    Files,
    /// Every one of them.
    #[serde(rename = "*")]
    Any,
}

/// What a request must look like besides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// This text is in the prompt (of the task, when the request is a poll or a file).
    pub prompt_contains: Option<String>,
    /// This is the API key. Never true of a file, which is fetched without one.
    pub key: Option<String>,
}

/// A standing order to misbehave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where.
    pub on: Endpoint,
    /// For what.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// How many uses; `None` for ever.
    #[serde(default)]
    pub times: Option<u64>,
    /// Lets the first so many matches pass.
    #[serde(default)]
    pub after: u64,
    /// The chance of each use, seeded.
    #[serde(default = "always")]
    pub probability: f64,
    /// What.
    #[serde(rename = "do")]
    pub faults: Faults,
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// A rule for every request there, for ever.
    pub fn new(on: Endpoint, faults: Faults) -> Self {
        Self { on, matches: Match::default(), times: None, after: 0, probability: 1.0, faults }
    }
}

/// A rule and what became of it so far.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    #[serde(flatten)]
    rule: Rule,
    /// Requests that matched.
    seen: u64,
    /// Requests it was used on.
    used: u64,
}

/// How many prompts with a counted directive are remembered.
const PROMPTS: usize = 10_000;

/// How often each prompt was posted, and in which order they came first.
#[derive(Debug, Default)]
struct Prompts {
    counts: HashMap<[u8; 32], u64>,
    order: VecDeque<[u8; 32]>,
}

/// The rules in force, and the counters of counted directives.
#[derive(Debug, Default)]
pub struct Rules {
    seed: u64,
    /// What almost every POST gets: no fault at all.
    none: Arc<Faults>,
    standing: Lock<Vec<Standing>>,
    prompts: Lock<Prompts>,
}

impl Rules {
    /// No rules yet.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Adds one behind the others.
    pub fn add(&self, rule: Rule) {
        self.standing.lock().push(Standing { rule, seen: 0, used: 0 });
    }

    /// Lifts all of them.
    pub fn clear(&self) {
        self.standing.lock().clear();
    }

    /// What is in force.
    pub fn list(&self) -> Vec<Standing> {
        self.standing.lock().clone()
    }

    /// The faults of the first rule for this request, if any. Counts as its use.
    pub fn find(&self, endpoint: Endpoint, key: Option<&str>, prompt: &str) -> Option<Faults> {
        let mut rules = self.standing.lock();
        for (n, one) in (0..).zip(rules.iter_mut()) {
            let rule = &one.rule;
            let fits = (rule.on == endpoint || rule.on == Endpoint::Any)
                && rule.matches.prompt_contains.as_deref().is_none_or(|part| prompt.contains(part))
                && rule.matches.key.as_deref().is_none_or(|wanted| key == Some(wanted));
            if !fits || rule.times.is_some_and(|times| one.used >= times) {
                continue;
            }
            one.seen += 1;
            let chance = Chance::new(self.seed ^ n, one.seen, "rule").fraction();
            if one.seen <= rule.after || chance >= rule.probability {
                continue;
            }
            one.used += 1;
            return Some(rule.faults.clone());
        }
        None
    }

    /// The faults for a paid POST: those of a rule, else those of the prompt's directive, else none.
    pub fn for_post(
        &self,
        endpoint: Endpoint,
        key: Option<&str>,
        prompt: &str,
    ) -> Result<Arc<Faults>, String> {
        if let Some(faults) = self.find(endpoint, key, prompt) {
            return Ok(Arc::new(faults));
        }
        let Some(faults) = Faults::from_prompt(prompt)? else { return Ok(Arc::clone(&self.none)) };
        if faults.times.is_none() && faults.after.is_none() {
            return Ok(Arc::new(faults));
        }
        let seen = self.count(prompt);
        let after = faults.after.unwrap_or(0);
        let in_force = seen >= after && faults.times.is_none_or(|times| seen - after < times);
        Ok(if in_force { Arc::new(faults) } else { Arc::clone(&self.none) })
    }

    /// How often this prompt was posted before.
    fn count(&self, prompt: &str) -> u64 {
        let hash: [u8; 32] = Sha256::digest(prompt).into();
        let mut prompts = self.prompts.lock();
        let Prompts { counts, order } = &mut *prompts;
        let seen = *counts.entry(hash).and_modify(|seen| *seen += 1).or_insert_with(|| {
            order.push_back(hash);
            0
        });
        if order.len() > PROMPTS
            && let Some(oldest) = order.pop_front()
        {
            counts.remove(&oldest);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(status: u16) -> Faults {
        Faults { http: Some(status), ..Faults::default() }
    }

    #[test]
    fn the_first_rule_with_uses_left_wins_and_is_counted() {
        let rules = Rules::new(1);
        rules.add(Rule { times: Some(1), after: 1, ..Rule::new(Endpoint::Chat, http(500)) });
        rules.add(Rule {
            matches: Match { prompt_contains: Some("cat".to_owned()), key: None },
            ..Rule::new(Endpoint::Any, http(429))
        });
        let found = |prompt| rules.find(Endpoint::Chat, None, prompt).and_then(|faults| faults.http);
        let seen = [found("a cat"), found("a dog"), found("a cat"), found("a dog")];
        assert_eq!(seen, [Some(429), Some(500), Some(429), None]);
    }

    #[test]
    fn probability_is_seeded() {
        let draws = |seed| {
            let rules = Rules::new(seed);
            rules.add(Rule { probability: 0.5, ..Rule::new(Endpoint::Any, http(500)) });
            (0..200).map(|_| rules.find(Endpoint::Chat, None, "").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(draws(3), draws(3));
        assert!((60..140).contains(&draws(3).iter().filter(|hit| **hit).count()));
    }

    #[test]
    fn a_directive_may_count_its_prompt() {
        let rules = Rules::new(1);
        let ask = || {
            let faults = rules.for_post(Endpoint::Chat, None, "cat [[sim: http=503 times=2 after=1]]");
            faults.unwrap().http
        };
        assert_eq!([ask(), ask(), ask(), ask()], [None, Some(503), Some(503), None]);
    }

    #[test]
    fn an_unknown_word_is_an_error() {
        let rules = Rules::new(1);
        assert!(rules.for_post(Endpoint::Chat, None, "cat [[sim: htpp=503]]").is_err());
        let rule = serde_json::from_str::<Rule>(r#"{"on":"chat","do":{"htpp":503}}"#);
        assert!(rule.is_err());
    }
}
