//! From text to server-sent events: how it is split into deltas, how lines end, how the stream ends, and the
//! ways in which all of this can be hostile.

use std::time::Duration;

use super::tale::{Layout, Segment};
use crate::simulator::chance::{Chance, MIXED};
use crate::simulator::faults::{Cut, CutBy, Sse, Style};
use crate::simulator::play::Beat;
use crate::simulator::sse::{BIG, Beats, bad_utf8, cut_off, endless};

/// Layout and framing of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    pub layout: Layout,
    /// The link of a picture in one delta.
    pub whole: bool,
    line_end: &'static str,
    field: &'static str,
    comments: bool,
    terminator: Option<&'static str>,
}

impl Manner {
    /// What this style means.
    pub fn of(style: Style) -> Self {
        let usual = Self {
            layout: Layout::Piapi,
            whole: false,
            line_end: "\n",
            field: "data: ",
            comments: false,
            terminator: Some("[DONE]"),
        };
        match style {
            Style::Piapi | Style::Bare | Style::Openrouter => usual,
            Style::Relay302 => Self { layout: Layout::Relay302, ..usual },
            Style::Chinese => Self { layout: Layout::Chinese, whole: true, ..usual },
            Style::Whole => Self { whole: true, ..usual },
            Style::Crlf => Self { line_end: "\r\n", ..usual },
            Style::Comments => Self { comments: true, ..usual },
            Style::None => Self { field: "data:", terminator: Some("[none]"), ..usual },
            Style::Eof => Self { terminator: None, ..usual },
            Style::Tricky => Self { layout: Layout::Tricky, ..usual },
        }
    }

    /// One of the eight friendly styles.
    pub fn seeded(chance: &mut Chance) -> Self {
        use Style::{Chinese, Comments, Crlf, Eof, None, Piapi, Relay302, Whole};
        let styles = [Piapi, Relay302, Chinese, Whole, Crlf, Comments, None, Eof];
        Self::of(chance.one_of(&styles).copied().unwrap_or(Piapi))
    }
}

/// Everything about one stream but its text.
#[derive(Debug, Clone)]
pub struct Frame {
    pub manner: Manner,
    pub hostile: Option<Sse>,
    pub cut: Option<Cut>,
    pub cut_by: CutBy,
    /// The time it takes to generate.
    pub span: Duration,
    pub created: i64,
}

impl Frame {
    /// The stream, beat by beat.
    pub fn beats(mut self, told: &[Segment], chance: &mut Chance) -> Beats {
        if self.hostile == Some(Sse::CrOnly) {
            self.manner.line_end = "\r";
        }
        let id = format!("chatcmpl-89D{}", chance.text(MIXED, 25));
        let chunk = |delta: &str, finish: &str| {
            let created = self.created;
            format!(
                "{{\"id\":\"{id}\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o-image\",\
                 \"created\":{created},\"choices\":[{{\"index\":0,\"delta\":{delta},\
                 \"finish_reason\":{finish}}}]}}"
            )
        };
        let say = |text: &str| {
            let text = serde_json::to_string(text).unwrap_or_default();
            Beat::say(self.event(&chunk(&format!("{{\"content\":{text}}}"), "null")))
        };
        let mut beats = Vec::new();
        if self.cut == Some(Cut::Head) {
            return cut_off(beats, self.cut_by);
        }
        if self.hostile == Some(Sse::Bom) {
            beats.push(Beat::say("\u{feff}"));
        }
        beats.push(Beat::say(self.event(&chunk("{\"role\":\"assistant\",\"content\":\"\"}", "null"))));
        if let Some(endless) = endless(self.hostile, say("")) {
            return Box::new(beats.into_iter().chain(endless));
        }
        if self.hostile == Some(Sse::BigEvent) {
            beats.push(say(&" ".repeat(BIG)));
        }
        if self.hostile == Some(Sse::BadUtf8) {
            beats.push(bad_utf8(&self.event(&chunk("{\"content\":\"?\"}", "null"))));
        }
        for segment in told {
            if segment.picture && self.cut == Some(Cut::BeforeImage) {
                return cut_off(beats, self.cut_by);
            }
            beats.push(Beat::Wait(self.span * segment.pause / 100));
            if self.manner.comments {
                beats.push(Beat::say(format!(": keep-alive{0}{0}", self.manner.line_end)));
            }
            let half = segment.picture && self.cut == Some(Cut::MidUrl);
            let text = if half { first_half(&segment.text) } else { &segment.text };
            for piece in self.split(text, segment.picture, chance) {
                beats.push(say(&piece));
                if chance.between(1, 12) == 1 {
                    beats.push(say(""));
                }
            }
            if segment.picture && matches!(self.cut, Some(Cut::MidUrl | Cut::AfterImage)) {
                return cut_off(beats, self.cut_by);
            }
        }
        if self.cut.is_some() {
            // There was no picture to cut at.
            return cut_off(beats, self.cut_by);
        }
        if self.hostile == Some(Sse::ErrorEvent) {
            let error = "{\"error\":{\"message\":\"The server had an error\",\"type\":\"server_error\"}}";
            beats.push(Beat::say(self.event(error)));
            return Box::new(beats.into_iter());
        }
        beats.push(Beat::say(self.event(&chunk("{}", "\"stop\""))));
        if let Some(terminator) = self.manner.terminator {
            beats.push(Beat::say(self.event(terminator)));
        }
        if self.hostile == Some(Sse::DoneTwice) {
            beats.push(say("after the end"));
            beats.push(Beat::say(self.event("[DONE]")));
        }
        Box::new(beats.into_iter())
    }

    fn event(&self, data: &str) -> String {
        let Manner { field, line_end, .. } = self.manner;
        format!("{field}{data}{line_end}{line_end}")
    }

    /// A few letters at a time; a link in one piece or in a handful.
    fn split(&self, text: &str, picture: bool, chance: &mut Chance) -> Vec<String> {
        let (low, high) = match (picture, self.manner.whole) {
            (true, true) => return vec![text.to_owned()],
            (true, false) => (9, 30),
            (false, true) => (20, 60),
            (false, false) => (1, 14),
        };
        let mut pieces = Vec::new();
        let mut letters = text.chars().peekable();
        while letters.peek().is_some() {
            let take = usize::try_from(chance.between(low, high)).unwrap_or(1);
            pieces.push(letters.by_ref().take(take).collect());
        }
        pieces
    }
}

fn first_half(link: &str) -> &str {
    let middle = (link.len() / 2..link.len()).find(|at| link.is_char_boundary(*at));
    &link[..middle.unwrap_or(link.len())]
}
