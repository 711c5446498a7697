//! Finds the images in a provider's JSON, wherever vendors put them: under the names that stand for results, as links, as
//! inline images, in lists, in text. Never under an echo of the request, never a preview, never what is ours.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::ImageSource;
use super::links::{self, ends_as_image};
use super::own::Own;
use super::reader::{Images, InlineImage, MARK};
use super::result_keys::{ECHOES, PREVIEWS, RESULTS, TEXTS};

/// More images than this are in no answer.
pub(super) const MAX_IMAGES: usize = 64;
/// A longer link, in bytes, is none that a server takes.
pub(super) const MAX_LINK: usize = 16 * 1024;
/// JSON in a string in JSON is read this deep.
const MAX_NESTED: usize = 2;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Results, in order.
    pub images: Vec<ImageSource>,
    /// What the answer itself calls a draft: of these the last counts where there is nothing else.
    pub drafts: Vec<ImageSource>,
    /// Whether there is something that may be a result, and cannot be told from what is none.
    pub doubtful: bool,
}

impl Found {
    /// Adds what was found elsewhere and is not known: told again, perhaps with links signed anew, images are the same.
    pub fn merge(&mut self, other: Self) {
        let known = self.images.len();
        for image in other.images {
            if !self.images[..known].iter().any(|one| same_image(one, &image)) {
                self.add(image);
            }
        }
        self.drafts.extend(other.drafts);
        self.drafts.truncate(MAX_IMAGES);
        self.doubtful |= other.doubtful;
    }

    fn add(&mut self, image: ImageSource) {
        if self.images.len() < MAX_IMAGES {
            self.images.push(image);
        } else {
            self.doubtful = true;
        }
    }
}

/// Finds the images in a document.
pub fn find(json: &Value, images: &Images, own: &Own) -> Found {
    let mut found = Found::default();
    Finder { images, own, found: &mut found }.value(json, "result", 0);
    found
}

struct Finder<'a> {
    images: &'a Images,
    own: &'a Own,
    found: &'a mut Found,
}

/// What stands in one object under the names of results: the same images, perhaps, in more than one form.
#[derive(Default)]
struct Group {
    inline: Vec<Arc<InlineImage>>,
    listed: Vec<String>,
    single: Vec<String>,
    texts: Vec<ImageSource>,
}

impl Finder<'_> {
    fn value(&mut self, value: &Value, key: &str, nested: usize) {
        match value {
            Value::Object(fields) => self.object(fields, nested),
            Value::Array(items) if items.iter().any(Value::is_string) => {
                let mut group = Group::default();
                self.leaf(value, key, &mut group, nested);
                self.add(group);
            }
            Value::Array(items) => {
                // The same images under another name are the same images.
                let mut list = Found::default();
                let mut finder = Finder { images: self.images, own: self.own, found: &mut list };
                for item in items {
                    finder.value(item, key, nested);
                }
                self.found.merge(list);
            }
            Value::String(_) => {
                let mut group = Group::default();
                self.leaf(value, key, &mut group, nested);
                self.add(group);
            }
            _ => {}
        }
    }

    fn object(&mut self, fields: &Map<String, Value>, nested: usize) {
        let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind.ends_with("partial_image") {
            return;
        }
        if fields.get("thought") == Some(&Value::Bool(true)) {
            let mut drafts = Found::default();
            let without: Map<String, Value> = fields
                .iter()
                .filter(|(key, _)| *key != "thought")
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            Finder { images: self.images, own: self.own, found: &mut drafts }.object(&without, nested);
            self.found.drafts.append(&mut drafts.images);
            return;
        }
        let mut group = Group::default();
        let mut below = Vec::new();
        for (key, value) in fields {
            let plain = plain(key);
            if ECHOES.contains(&plain.as_str()) || PREVIEWS.contains(&plain.as_str()) {
                continue;
            }
            match value {
                Value::String(_) => self.leaf(value, key, &mut group, nested),
                Value::Array(items) if items.iter().any(Value::is_string) => {
                    self.leaf(value, key, &mut group, nested);
                }
                Value::Object(_) | Value::Array(_) => below.push((key, value)),
                _ => {}
            }
        }
        self.add(group);
        for (key, value) in below {
            self.value(value, key, nested);
        }
    }

    /// A string, or a list of strings among other things, under a key.
    fn leaf(&mut self, value: &Value, key: &str, group: &mut Group, nested: usize) {
        let plain = plain(key);
        let (result, text) = (RESULTS.contains(&plain.as_str()), TEXTS.contains(&plain.as_str()));
        let listed = value.is_array();
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for item in items {
            let Some(item) = item.as_str() else {
                self.value(item, key, nested);
                continue;
            };
            let words = item.trim();
            let inline = self.images.in_text(words);
            if matches!(words.as_bytes(), [b'{' | b'[', ..]) && nested < MAX_NESTED {
                if let Ok(json) = serde_json::from_str::<Value>(words) {
                    self.value(&json, key, nested + 1);
                }
            } else if !result {
                self.found.doubtful |= !inline.is_empty() || (is_link(words) && ends_as_image(words));
            } else if text || words.contains("](") {
                group.texts.extend(links::images(words, self.images, self.own));
            } else if !inline.is_empty() {
                let (ours, taken): (Vec<_>, Vec<_>) =
                    inline.into_iter().partition(|one| self.own.has_bytes(&one.sha256));
                self.found.doubtful |= !ours.is_empty();
                group.inline.extend(taken);
            } else if is_link(words) {
                let link = bare(words);
                let links = if listed { &mut group.listed } else { &mut group.single };
                if link.len() > MAX_LINK
                    || links.len() >= MAX_IMAGES
                    || self.own.has_link(&link)
                    || links::decoy(&link)
                {
                    self.found.doubtful = true;
                } else {
                    if links.contains(&link) {
                        continue;
                    }
                    // Of two forms of an image this is the one that was paid for.
                    let at = if plain.ends_with("withoutwatermark") { 0 } else { links.len() };
                    links.insert(at, link);
                }
            } else {
                // An address nobody can fetch, half an image.
                self.found.doubtful |= words.contains("://") || words.starts_with("data:image/");
            }
        }
    }

    /// One object's images, each once: a list counts for more than a single one, bytes for more than a link to them.
    fn add(&mut self, group: Group) {
        let links =
            if group.listed.is_empty() { group.single.into_iter().take(1).collect() } else { group.listed };
        let images: Vec<ImageSource> = if !group.inline.is_empty() && group.inline.len() >= links.len() {
            group.inline.into_iter().map(ImageSource::Inline).collect()
        } else if !links.is_empty() {
            links.into_iter().map(ImageSource::Url).collect()
        } else {
            group.texts
        };
        for image in images {
            self.found.add(image);
        }
    }
}

/// Whether two are the same image: equal, or links that differ in how they are signed alone.
fn same_image(one: &ImageSource, other: &ImageSource) -> bool {
    match (one, other) {
        (ImageSource::Url(one), ImageSource::Url(other)) => one == other || unsigned(one) == unsigned(other),
        (one, other) => one == other,
    }
}

/// A link without its signature.
fn unsigned(link: &str) -> Option<String> {
    let mut url = url::Url::parse(link).ok()?;
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| !is_signature(&plain(name)))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    url.set_fragment(None);
    url.set_query(None);
    url.query_pairs_mut().extend_pairs(kept);
    Some(url.into())
}

/// Whether a query's parameter of this name says who may fetch it and for how long, in the ways of the large object stores.
fn is_signature(name: &str) -> bool {
    const NAMES: [&str; 21] = [
        "awsaccesskeyid",
        "expires",
        "expiry",
        "exp",
        "googleaccessid",
        "hash",
        "keypairid",
        "ossaccesskeyid",
        "policy",
        "se",
        "securitytoken",
        "sig",
        "sign",
        "signature",
        "ske",
        "skt",
        "sp",
        "st",
        "sv",
        "token",
        "verify",
    ];
    name.starts_with("xamz")
        || name.starts_with("xgoog")
        || name.starts_with("xoss")
        || name.starts_with("xtos")
        || name.starts_with("qsign")
        || NAMES.contains(&name)
}

/// A key without case, blanks and underscores.
fn plain(key: &str) -> String {
    key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// A link without what stands around it, and with a scheme.
fn bare(words: &str) -> String {
    let link = words.trim_matches(['<', '>', '"', '\'']).trim();
    if link.starts_with("//") { format!("https:{link}") } else { link.to_owned() }
}

fn is_link(words: &str) -> bool {
    let words = words.trim_start_matches(['<', '"', '\'']);
    let lower = words.get(..8).unwrap_or(words).to_ascii_lowercase();
    lower.starts_with("https://")
        || lower.starts_with("http://")
        || (words.starts_with("//") && !words.contains(MARK))
}
