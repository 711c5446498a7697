//! The pictures that exist: known from the moment they are ordered, drawn when somebody looks, the same bytes
//! each time. What was drawn is kept for a while within a budget.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use super::draw::{self, Sketch};
use super::encode::{self, Format};
use super::outage::{QUERY, USERINFO};
use crate::domain::clock::Millis;
use crate::simulator::faults::{self, Faults, FileFormat, LinkForm};
use crate::simulator::lock::Lock;
use crate::simulator::world::World;

/// How many pictures are known at the same time; the oldest are forgotten (and answer 404, as they do at
/// the real hosts after some days).
const KNOWN: usize = 100_000;
/// How many bytes of drawn files are kept.
const BUDGET: usize = 64 << 20;
/// How many are drawn at the same time.
const EASELS: usize = 4;
/// No picture is drawn larger than this, whatever was asked for.
const LARGEST: u32 = 4096;
/// How much of a prompt a picture remembers to be recognised and lettered by.
const REMEMBERED: usize = 400;

/// One picture, drawn or not.
#[derive(Debug)]
pub struct Picture {
    /// The file's name without its ending.
    pub id: String,
    pub seq: u64,
    pub format: Format,
    /// The link under which it is written in the ledger.
    pub url: String,
    /// Nothing is served before.
    pub ready: Millis,
    /// The beginning of the prompt, directives and all: what rules about files look at.
    pub prompt: String,
    pub faults: Arc<Faults>,
    /// Its number among the pictures of its order.
    pub index: u64,
    sketch: Sketch,
    gets: AtomicU64,
    visits: AtomicU64,
}

impl Picture {
    /// Counts a GET of a file that may not be there, and says how many came before it.
    pub fn visited(&self) -> u64 {
        self.visits.fetch_add(1, Ordering::Relaxed)
    }
}

/// What pictures a task ordered.
#[derive(Debug, Clone)]
pub struct Commission<'a> {
    pub seq: u64,
    pub prompt: &'a str,
    /// The kind of work, when it is not plain text to image.
    pub caption: &'a str,
    pub size: (u32, u32),
    pub format: Format,
    pub count: u64,
    pub ready: Millis,
    pub faults: &'a Arc<Faults>,
    pub place: Place<'a>,
}

/// Where pictures are put.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// On the host, under this path.
    Host(&'static str),
    /// On the host, under a name that begins like this.
    Named(&'a str),
    /// Into the answer itself.
    Inline,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<String, Arc<Picture>>,
    by_age: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Drawn {
    by_id: HashMap<String, Arc<OnceCell<Bytes>>>,
    by_age: VecDeque<(String, usize)>,
    bytes: usize,
}

/// All pictures known.
#[derive(Debug)]
pub struct Shelf {
    known: Lock<Known>,
    drawn: Lock<Drawn>,
    easels: Semaphore,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { known: Lock::default(), drawn: Lock::default(), easels: Semaphore::new(EASELS) }
    }
}

impl Shelf {
    /// The picture with this id.
    pub fn get(&self, id: &str) -> Option<Arc<Picture>> {
        self.known.lock().by_id.get(id).map(Arc::clone)
    }

    fn put(&self, picture: &Arc<Picture>) {
        let mut known = self.known.lock();
        known.by_id.insert(picture.id.clone(), Arc::clone(picture));
        known.by_age.push_back(picture.id.clone());
        if known.by_age.len() > KNOWN
            && let Some(oldest) = known.by_age.pop_front()
        {
            known.by_id.remove(&oldest);
        }
    }

    fn cell(&self, id: &str) -> Arc<OnceCell<Bytes>> {
        Arc::clone(self.drawn.lock().by_id.entry(id.to_owned()).or_default())
    }

    /// Keeps what was just drawn, and lets go of the oldest beyond the budget.
    fn keep(&self, id: &str, len: usize) {
        let mut drawn = self.drawn.lock();
        drawn.by_age.push_back((id.to_owned(), len));
        drawn.bytes += len;
        while drawn.bytes > BUDGET && drawn.by_age.len() > 1 {
            if let Some((oldest, len)) = drawn.by_age.pop_front() {
                drawn.by_id.remove(&oldest);
                drawn.bytes -= len;
            }
        }
    }
}

impl World {
    /// Orders pictures. They cost nothing until somebody looks at them.
    pub fn commission(&self, order: &Commission<'_>) -> Vec<Arc<Picture>> {
        let mut chance = self.chance(order.seq, "pictures");
        let words = faults::strip(order.prompt);
        let (width, height) = order.faults.drawn_size().unwrap_or(order.size);
        let format = order.faults.file_as.map_or(order.format, |drawn| match drawn {
            FileFormat::Png => Format::Png,
            FileFormat::Jpeg => Format::Jpeg,
            FileFormat::Webp => Format::Webp,
            FileFormat::Gif => Format::Gif,
        });
        let ending = format.name();
        (0..order.count)
            .map(|n| {
                let (seed, uuid) = (chance.number(), chance.uuid());
                let id = match order.place {
                    Place::Named(start) => format!("{start}-{uuid}"),
                    Place::Host(_) | Place::Inline => uuid,
                };
                let url = match order.place {
                    Place::Host(path) => format!("{}/{path}/{id}.{ending}", self.base),
                    Place::Named(_) => format!("{}/files/{id}.{ending}", self.base),
                    Place::Inline => format!("inline:{n}"),
                };
                let picture = Arc::new(Picture {
                    id,
                    url,
                    seq: order.seq,
                    format,
                    index: n,
                    ready: order.ready,
                    prompt: order.prompt.chars().take(REMEMBERED).collect(),
                    faults: Arc::clone(order.faults),
                    sketch: Sketch {
                        width: width.clamp(1, LARGEST),
                        height: height.clamp(1, LARGEST),
                        seed,
                        words: words.chars().take(REMEMBERED).collect(),
                        caption: order.caption.to_owned(),
                    },
                    gets: AtomicU64::new(0),
                    visits: AtomicU64::new(0),
                });
                if !matches!(order.place, Place::Inline) {
                    self.shelf.put(&picture);
                }
                picture
            })
            .collect()
    }

    /// The picture's file, drawn if need be; its hash goes to the ledger.
    pub async fn file(&self, picture: &Picture) -> io::Result<Bytes> {
        if picture.faults.file_varies {
            let seed = picture.gets.fetch_add(1, Ordering::Relaxed);
            let file = self.draw(picture, picture.sketch.seed.wrapping_add(seed)).await?;
            self.note(picture, &file);
            return Ok(file);
        }
        let cell = self.shelf.cell(&picture.id);
        let file = cell.get_or_try_init(|| async {
            let file = self.draw(picture, picture.sketch.seed).await?;
            self.shelf.keep(&picture.id, file.len());
            self.note(picture, &file);
            Ok::<_, io::Error>(file)
        });
        file.await.cloned()
    }

    /// A quarter-size sketch of the picture, of which the ledger knows nothing: no caller should keep it.
    pub async fn preview(&self, picture: &Picture, n: u64) -> io::Result<Bytes> {
        let Sketch { width, height, .. } = picture.sketch;
        let (width, height) = (width.div_ceil(4), height.div_ceil(4));
        let seed = picture.sketch.seed.wrapping_add(n + 1);
        let sketch = Sketch { width, height, seed, ..picture.sketch.clone() };
        self.put_on_easel(sketch, picture.format, None).await
    }

    fn note(&self, picture: &Picture, file: &Bytes) {
        let hash = hex::encode(Sha256::digest(file));
        self.ledger.result(picture.seq, &picture.url, Some(&hash));
    }

    /// The bytes as they are sent, where more than the picture is.
    pub fn note_sent(&self, picture: &Picture, file: &Bytes) {
        let hash = hex::encode(Sha256::digest(file));
        self.ledger.sent(picture.seq, &picture.url, &hash);
    }

    async fn draw(&self, picture: &Picture, seed: u64) -> io::Result<Bytes> {
        let sketch = Sketch { seed, ..picture.sketch.clone() };
        self.put_on_easel(sketch, picture.format, picture.faults.file_bytes).await
    }

    async fn put_on_easel(&self, sketch: Sketch, format: Format, exact: Option<u64>) -> io::Result<Bytes> {
        let _easel = self.shelf.easels.acquire().await.map_err(io::Error::other)?;
        let drawn = tokio::task::spawn_blocking(move || {
            let canvas = draw::draw(&sketch);
            match exact {
                Some(size) => encode::encode_to(&canvas, format, size),
                None => encode::encode(&canvas, format),
            }
        });
        drawn.await.map_err(io::Error::other)?.map(Bytes::from).map_err(io::Error::other)
    }

    /// The link as the upstream hands it out. With `file_expire` each asking gives another one, of which the
    /// first is dead.
    pub fn link(&self, picture: &Picture, asked: usize) -> String {
        let faults = &picture.faults;
        let link = if faults.file_expire.is_some() {
            let ending = picture.format.name();
            let stem = picture.url.strip_suffix(&format!(".{ending}")).unwrap_or(&picture.url);
            format!("{stem}~{asked}.{ending}")
        } else {
            picture.url.clone()
        };
        let path = link.strip_prefix(&self.base).unwrap_or(&link);
        if faults.relative_url {
            path.to_owned()
        } else if faults.file_url {
            format!("file://{path}")
        } else {
            dressed(link, faults)
        }
    }
}

/// The link with a name and a password, and with a query up to a length.
fn dressed(mut link: String, faults: &Faults) -> String {
    if faults.links(LinkForm::Userinfo) {
        link = link.replacen("://", &format!("://{USERINFO}"), 1);
    }
    if faults.links(LinkForm::Query) {
        link.push('?');
        link.push_str(QUERY);
    }
    let length = match (faults.links(LinkForm::Long), faults.links(LinkForm::VeryLong)) {
        (true, _) => 2_100,
        (_, true) => 15_000,
        _ => return link,
    };
    link.push(if link.contains('?') { '&' } else { '?' });
    link.push_str("token=");
    let filler = "eyJhbGciOiJIUzI1NiJ9".chars().cycle();
    let missing = usize::saturating_sub(length, link.len());
    link.extend(filler.take(missing));
    link
}

/// A small picture of nothing, the same for the same name; nobody is to keep it.
pub async fn sketch(world: &World, name: &str) -> io::Result<Bytes> {
    let seed = name.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let sketch = Sketch { width: 24, height: 24, seed, words: name.to_owned(), caption: String::new() };
    world.put_on_easel(sketch, Format::Png, None).await
}
