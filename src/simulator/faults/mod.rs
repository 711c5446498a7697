//! What can be made to go wrong, and how: one vocabulary, [`Faults`], said by a [`Rule`] or by a directive
//! in the prompt. The tables are in the simulator's README.

pub mod answer;
mod decoy;
mod directive;
mod list;
mod rule;
mod untidy;
mod value;
mod word;

use http::StatusCode;
use serde::{Deserialize, Serialize};

pub use self::decoy::{Decoy, ErrorAfter, ErrorEvent, FileFormat, FileWrap, Outage, PromptForm};
pub use self::directive::strip;
pub use self::list::List;
pub use self::rule::{Endpoint, Match, Rule, Rules};
pub use self::untidy::{LinkForm, Seat, Spelling, Stop, StopBy, Wrap};
pub use self::value::{Text, Words};
pub use self::word::{
    Base64, Body, Bomb, Cut, CutBy, FileType, Form, Lie, NoImage, Or, Ring, Sse, Style, Truncate,
};

/// Everything that can be asked for. Absent means: behave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each flag is a word of the vocabulary")]
pub struct Faults {
    // The answer itself: to a paid POST, and by rule to a poll, a cancellation or a file.
    /// Seconds between acting and answering.
    pub delay: Option<f64>,
    /// Answers with this status instead.
    pub http: Option<u16>,
    /// The kind of body under that status; by default the upstream's own error shape.
    pub body: Option<Body>,
    /// The text in that body, and the message of a failed task. `{key}` becomes the caller's API key.
    pub message: Option<Text>,
    /// A `Retry-After` header, verbatim.
    pub retry_after: Option<Text>,
    /// Answers 307 to this address.
    pub redirect: Option<String>,
    /// RST before any byte of an answer, without effect.
    pub reset: bool,
    /// The same, but the order is taken and will complete.
    pub reset_accepted: bool,
    /// No answer until the caller goes away, or for so many seconds.
    pub hang: Option<Or<f64>>,
    /// Whether an answer that hides it (`http`, `redirect`, `reset`, `hang`, …) comes with an order taken.
    pub accepted: Option<bool>,
    /// The answer ends in its head, in the middle of its body or near its end.
    pub truncate: Option<Truncate>,
    /// A body that is not JSON any more, correctly framed.
    pub bad_json: bool,
    /// A 200 with a JSON body of so many bytes; endless as a flag.
    pub huge: Option<Or<u64>>,
    /// A 200 with JSON nested so deep.
    pub deep_json: Option<u32>,
    /// The answer gzip-ed, asked for or not.
    pub gzip: bool,
    /// A gzip-ed JSON body that inflates to so many bytes.
    pub gzip_bomb: Option<u64>,
    /// A response header of so many bytes.
    pub head_bytes: Option<usize>,
    /// The key `task_id` twice, with different values.
    pub duplicate_task_id: bool,
    /// In a directive: only for the first so many POSTs with this very prompt.
    pub times: Option<u64>,
    /// In a directive: not for the first so many POSTs with this very prompt.
    pub after: Option<u64>,

    // The course of a task.
    /// Seconds of generation, by the simulator's clock.
    pub time: Option<f64>,
    /// The status word in the submit answer.
    pub submit_status: Option<Text>,
    /// The status words of successive polls.
    pub status: Option<Words>,
    /// The HTTP statuses of successive polls; 0 or 200 for a normal one.
    pub poll_http: Option<Words>,
    /// Polls answer 404 for ever.
    pub poll_404: bool,
    /// Polls say success, then failure, then success.
    pub flap: bool,
    /// The task fails with this code.
    pub fail: Option<Or<Text>>,
    /// Why it failed: goes where that upstream puts the true reason.
    pub reason: Option<Text>,
    /// Whether it is billed, against the rule for that ending.
    pub billed: Option<bool>,
    /// Refused for its content, in that upstream's way.
    pub refuse: bool,
    /// Ends well, without a picture.
    pub no_image: Option<Or<NoImage>>,
    /// So many pictures fewer than asked for.
    pub missing: Option<u64>,
    /// Success at once, in the submit answer (imagepipeline).
    pub at_once: bool,
    /// When and how often the webhook rings.
    pub hook: Option<Ring>,
    /// Seconds by which `hook=late` is late, by the simulator's clock; 60 by default.
    pub hook_delay: Option<f64>,

    // The shape of PiAPI's task object.
    /// No `task_id` in the submit answer.
    pub no_task_id: bool,
    /// This `task_id`, verbatim.
    pub task_id: Option<Text>,
    /// A `task_id` of so many bytes.
    pub task_id_bytes: Option<usize>,
    /// HTTP 200 with this `code` and without data: the order is not taken.
    pub envelope_code: Option<i64>,
    /// With `envelope_code`: the data is there, the order is taken.
    pub envelope_data: bool,
    /// The task object bare, without `{code, message, data}`.
    pub no_envelope: bool,
    /// Polls speak the legacy `task_info`/`task_result` schema.
    pub legacy: bool,
    /// The picture as base64 in the task object, instead of its link (as a flag) or beside it.
    pub base64: Option<Or<Base64>>,
    /// `image_url` and `image_urls` both filled.
    pub both_urls: bool,
    /// The task object echoes this prompt instead of the one received.
    pub other_prompt: Option<Text>,

    // Streams and the Images API.
    /// The layout of the stream, see the README.
    pub style: Option<Style>,
    /// Where a stream is cut.
    pub cut: Option<Cut>,
    /// How it is cut: by RST (default) or by a clean end of the connection.
    pub cut_by: CutBy,
    /// Hostile framing of a stream.
    pub sse: Option<Sse>,
    /// Chat: talks about DALL-E instead of drawing.
    pub downgrade: bool,
    /// Chat: `Generation failed`, `Reason:`, `Suggestion:`.
    pub generation_failed: bool,
    /// Chat: so many extra lines about the queue.
    pub queue_text: Option<Or<u32>>,
    /// Images API: `b64` or `url`.
    pub form: Option<Form>,
    /// Images API: whether `usage` is there (default yes).
    pub usage: Option<bool>,
    /// Images API: whether size, quality … are echoed (default yes).
    pub echo: Option<bool>,

    // Pictures and where they are kept.
    /// `WIDTHxHEIGHT` drawn instead of the size asked for.
    pub picture: Option<String>,
    /// Links without scheme and host.
    pub relative_url: bool,
    /// `file:` links.
    pub file_url: bool,
    /// The HTTP status of the file.
    pub file_http: Option<u16>,
    /// The first link is dead (403, or this status), a fresh poll hands out a good one.
    pub file_expire: Option<Or<u16>>,
    /// The connection ends in the middle of the file.
    pub file_cut: bool,
    /// The file trickles at so many bytes a second (1 as a flag).
    pub file_slow: Option<Or<u64>>,
    /// Something else than a picture, under a picture's media type.
    pub file_type: Option<FileType>,
    /// A header claiming a picture far too big.
    pub file_bomb: Option<Or<Bomb>>,
    /// The file has exactly so many bytes and is still a good picture.
    pub file_bytes: Option<u64>,
    /// So many bytes of garbage after a good picture.
    pub file_trailing: Option<u64>,
    /// A whole answer with half a file in it.
    pub file_truncated: bool,
    /// A `Content-Length` that lies: `long` claims more than is sent, `short` less than there is.
    pub file_length_lie: Option<Or<Lie>>,
    /// An empty file.
    pub file_empty: bool,
    /// A 302 to this address.
    pub file_redirect: Option<String>,
    /// Another picture at each GET.
    pub file_varies: bool,

    // An untidy world: right answers, oddly wrapped. Said in a directive, these hold for polls as well.
    /// How the answer is written, framed and encoded.
    pub wrap: Option<List<Wrap>>,
    /// Its `Content-Type`, verbatim; `none` for no such header.
    pub label: Option<Text>,
    /// Where the images sit.
    pub seat: Option<Seat>,
    /// `data:` URIs where links would stand.
    pub inline: bool,
    /// How links and base64 are spelled.
    pub spell: Option<List<Spelling>>,
    /// What links look like.
    pub link: Option<List<LinkForm>>,
    /// Where the answer stops.
    pub stop: Option<Stop>,
    /// How it stops; correctly framed by default.
    pub stop_by: Option<StopBy>,
    /// Chat and Images: an error of this shape instead of the images.
    pub error_event: Option<ErrorEvent>,
    /// What comes before that error; nothing by default.
    pub error_after: Option<ErrorAfter>,
    /// Things that look like results, instead of the results.
    pub decoy: Option<List<Decoy>>,
    /// The results are there as well.
    pub beside: bool,
    /// How the prompt comes back.
    pub prompt_as: Option<PromptForm>,
    /// `usage.consume` of successive polls, verbatim; `absent` leaves it out, a closing `...` keeps the last.
    pub consume: Option<Words>,
    /// `usage.frozen` of successive polls.
    pub frozen: Option<Words>,
    /// Whether the log of a failed task says that its points were restored.
    pub restored: Option<bool>,
    /// What a result has around or after its image.
    pub file_wrap: Option<List<FileWrap>>,
    /// What images are drawn as, whatever was asked for.
    pub file_as: Option<FileFormat>,
    /// The file's `Content-Type`, verbatim; `none` for no such header.
    pub file_label: Option<Text>,
    /// What the host answers instead of the file, for ever or until one of the two below is over.
    pub outage: Option<Outage>,
    /// The outage is over after so many GETs of the file.
    pub outage_gets: Option<u64>,
    /// The outage is over so many seconds after the file was made, by the simulator's clock.
    pub outage_s: Option<f64>,
    /// The outage strikes the file with this number alone, counted from 0.
    pub outage_of: Option<u64>,
}

impl Faults {
    /// What a directive in this prompt asks for; nothing without one. An unknown word is an error, so that a
    /// slip of the pen does not pass for good behaviour.
    pub fn from_prompt(prompt: &str) -> Result<Option<Self>, String> {
        let Some(said) = directive::read(prompt)? else { return Ok(None) };
        serde_json::from_value(said.into()).map(Some).map_err(|error| format!("[[sim: …]]: {error}"))
    }

    /// Whether the order is taken although the answer is spoiled or replaced.
    pub fn accepts(&self) -> bool {
        self.accepted.unwrap_or_else(|| {
            let hidden = self.http.is_some()
                || self.redirect.is_some()
                || self.reset
                || matches!(self.hang, Some(Or::Flag(true)))
                || (self.envelope_code.is_some() && !self.envelope_data);
            self.reset_accepted || !hidden
        })
    }

    /// Whether anything is to be done to a right answer of this kind.
    pub fn is_untidy(&self) -> bool {
        self.wrap.is_some()
            || self.label.is_some()
            || self.moves_images()
            || self.error_event.is_some()
            || self.decoy.is_some()
            || self.prompt_as.is_some()
            || self.consume.is_some()
            || self.frozen.is_some()
    }

    /// Whether images are taken out of their places and put somewhere, or somehow, else.
    pub fn moves_images(&self) -> bool {
        self.seat.is_some() || self.inline || self.spell.is_some() || self.stop.is_some()
    }

    /// Whether this word is said of the writing.
    pub fn wraps(&self, word: Wrap) -> bool {
        self.wrap.as_ref().is_some_and(|wrap| wrap.has(&word))
    }

    /// Whether this word is said of the spelling.
    pub fn spells(&self, word: Spelling) -> bool {
        self.spell.as_ref().is_some_and(|spell| spell.has(&word))
    }

    /// Whether this word is said of links.
    pub fn links(&self, word: LinkForm) -> bool {
        self.link.as_ref().is_some_and(|link| link.has(&word))
    }

    /// Whether this word is said of files.
    pub fn wraps_file(&self, word: FileWrap) -> bool {
        self.file_wrap.as_ref().is_some_and(|wrap| wrap.has(&word))
    }

    /// The HTTP status told for the `n`-th poll, unless it is a normal one.
    pub fn poll_status(&self, n: usize) -> Option<StatusCode> {
        let status = self.poll_http.as_ref()?.at(n)?;
        StatusCode::from_u16(status.parse().ok()?).ok().filter(|status| *status != StatusCode::OK)
    }

    /// The width and height to draw instead of those asked for.
    pub fn drawn_size(&self) -> Option<(u32, u32)> {
        let (width, height) = self.picture.as_deref()?.split_once(['x', 'X', '×'])?;
        Some((width.trim().parse().ok()?, height.trim().parse().ok()?))
    }
}
