//! What the relay says while it draws: the echo of the request, ids, the queue, progress with links that are
//! no results, and at last the picture. Layouts after PiAPI's printed template and its siblings.

use crate::simulator::chance::{Chance, LOWER};

/// A stretch of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub text: String,
    /// The link of a picture, from its first bracket to its last.
    pub picture: bool,
    /// The part of the generation time, in percent, that passes before it is said.
    pub pause: u32,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With these links.
    Pictures(Vec<String>),
    /// With nothing after "complete".
    Nothing,
    /// With words instead of everything else.
    Prose(String),
    /// With `Generation failed` and the reason.
    Failed(String),
    /// In the middle, for an error event to follow.
    Breaks,
}

/// The words it is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Piapi,
    Relay302,
    Chinese,
    Tricky,
}

/// What there is to tell.
#[derive(Debug, Clone)]
pub struct Tale {
    pub prompt: String,
    pub size: (u32, u32),
    pub n: u64,
    pub inputs: Vec<String>,
    pub queue_lines: u32,
    pub end: End,
}

fn plain(text: impl Into<String>, pause: u32) -> Segment {
    Segment { text: text.into(), picture: false, pause }
}

fn picture(text: String) -> Segment {
    Segment { text, picture: true, pause: 0 }
}

impl Tale {
    /// The whole answer, in order.
    pub fn tell(&self, layout: Layout, chance: &mut Chance) -> Vec<Segment> {
        if let End::Prose(text) = &self.end {
            return vec![plain(text.clone(), 20)];
        }
        let task = format!("task_01{}", chance.text(LOWER, 24));
        let generation = format!("gen_01{}", chance.text(LOWER, 24));
        let mut told = vec![plain(self.echo(layout), 0)];
        match layout {
            Layout::Piapi | Layout::Tricky => self.piapi(&task, chance, &mut told),
            Layout::Relay302 => self.relay(&task, chance, &mut told),
            Layout::Chinese => self.chinese(&task, chance, &mut told),
        }
        match &self.end {
            End::Pictures(links) => results(layout, &generation, links, &mut told),
            End::Failed(reason) => told.push(plain(
                format!(
                    "\n> Generation failed\n> Failure reason\nReason: {reason}\n\
                     Suggestion: Please modify your prompt and try again.\n"
                ),
                30,
            )),
            End::Nothing => told.push(plain("> Generation complete ✅\n", 30)),
            End::Prose(_) | End::Breaks => {}
        }
        told
    }

    /// The request as the model understood it, fenced. The older Chinese form has a key `image_url` in it.
    fn echo(&self, layout: Layout) -> String {
        let (width, height) = self.size;
        let divisor = gcd(width, height).max(1);
        let ratio = format!("{}:{}", width / divisor, height / divisor);
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let prompt = quoted(&self.prompt);
        let body = match layout {
            Layout::Chinese => {
                let input = quoted(self.inputs.first().map_or("", String::as_str));
                format!(" \"user_prompt\": {prompt},\n \"image_url\": {input},\n \"ratio\": \"{ratio}\"\n")
            }
            Layout::Tricky => {
                let note = quoted("![example](https://example.invalid/echo.png)");
                format!(" \"prompt\": {prompt},\n \"note\": {note},\n \"n\": {}\n", self.n)
            }
            _ => format!(" \"prompt\": {prompt},\n \"ratio\": \"{ratio}\",\n \"n\": {}\n", self.n),
        };
        format!("```json\n{{\n{body}}}\n```\n\n")
    }

    fn queue(&self, line: &str, told: &mut Vec<Segment>) {
        for _ in 0..=self.queue_lines {
            told.push(plain(line, 5));
        }
    }

    fn piapi(&self, task: &str, chance: &mut Chance, told: &mut Vec<Segment>) {
        let data = chance.uuid();
        told.push(plain(format!("> ID: `{task}`\n"), 0));
        told.push(plain(
            format!(
                ">[Data Preview](https://asyncdata.net/web/{data}) | \
                 [Source Data](https://asyncdata.net/source/{data})\n"
            ),
            0,
        ));
        self.queue("> Queuing.\n", told);
        told.push(plain("> Generating....\n", 10));
        told.push(plain("> Progress 25", 20));
        told.push(plain("..50", 20));
        told.push(plain("..75", 20));
        told.push(plain(format!("..{}\n", hundred(task)), 15));
    }

    fn relay(&self, task: &str, chance: &mut Chance, told: &mut Vec<Segment>) {
        let data = chance.uuid();
        told.push(plain(
            format!(
                "> ID: `{data}`\n>[Data Preview](https://asyncdata.net/web/{data}) | \
                 [Source Data](https://asyncdata.net/source/{data})\n\n"
            ),
            0,
        ));
        self.queue(">🕐 Queuing.\n\n", told);
        told.push(plain(">⚡ Generating..\n\n", 10));
        told.push(plain(">🏃 Progress 1", 20));
        told.push(plain("...20", 25));
        told.push(plain(format!("...{}\n\n", hundred(task)), 30));
    }

    fn chinese(&self, task: &str, chance: &mut Chance, told: &mut Vec<Segment>) {
        let data = chance.uuid();
        told.push(plain(
            format!("> ID: `{task}`\n>[数据预览](https://asyncdata.net/web/{data}) | [原始数据](https://asyncdata.net/source/{data})\n"),
            0,
        ));
        self.queue("> 排队中..\n", told);
        told.push(plain("> 🎨 生成中...\n", 10));
        told.push(plain("> 进度 25%.\n> 进度 50%.\n", 40));
        told.push(plain(format!("> 进度 {}\n", hundred(task)), 30));
    }
}

/// The progress link: a picture's address on the model's own host, signed, and not the result.
fn hundred(task: &str) -> String {
    format!(
        "[100](https://videos.openai.com/az/vg-assets/{task}%2F1768198216_img_0.webp?se=2026-01-18T06%3A00%3A00Z\
         &sp=r&sv=2024-08-04&sr=b&sig=REDACTED&ac=oaivgprodscus2)"
    )
}

fn results(layout: Layout, generation: &str, links: &[String], told: &mut Vec<Segment>) {
    let complete = match layout {
        Layout::Relay302 => "> ✅ Generation complete\n\n\n".to_owned(),
        Layout::Chinese => "> 生成完成 ✅\n\n".to_owned(),
        Layout::Piapi | Layout::Tricky => {
            format!("> Generation complete ✅\n\n> gen_id: `{generation}`\n\n")
        }
    };
    told.push(plain(complete, 10));
    for link in links {
        let download = link.replacen("/cdn/", "/cdn/download/", 1);
        match layout {
            Layout::Piapi => told.push(picture(format!("![{generation}]({link})"))),
            Layout::Tricky => told.push(picture(format!("![{generation}]({link}?name=cat_(1).png)"))),
            Layout::Relay302 => {
                told.push(picture(format!("[Click to download]({link})")));
                told.push(plain("\n\n", 0));
                told.push(picture(format!("[Click to download]({download})")));
            }
            Layout::Chinese => {
                told.push(picture(format!("![{generation}]({link})")));
                told.push(plain("\n\n", 0));
                told.push(picture(format!("[点击下载]({download})")));
            }
        }
        told.push(plain("\n\n", 0));
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
