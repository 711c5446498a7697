//! What is ours: an answer that shows it echoes our request, and an echo is never a result.

use percent_encoding::percent_decode_str;

use super::Input;
use super::Inputs;
use crate::domain::request::GenerateRequest;
use crate::domain::secret::sha256_hex;

/// What an upstream was sent, as far as an answer can show it again.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Texts of ours, spelled as [`loosely`]: a link that stands in one is an echo.
    texts: Vec<String>,
    /// Addresses of inputs.
    addresses: Vec<String>,
    /// SHA-256 of inputs' bytes, in hex.
    digests: Vec<String>,
}

impl Own {
    /// What a request says by itself.
    pub fn of(request: &GenerateRequest) -> Self {
        let texts = [Some(&request.prompt), request.negative_prompt.as_ref()];
        let controls = request.controls.iter().map(|control| &control.image);
        let loras = request.loras.iter().filter_map(|lora| lora.image.as_ref());
        let inputs = request.images.iter().chain(&request.mask).chain(controls).chain(loras);
        Self {
            texts: texts.into_iter().flatten().map(|text| loosely(text)).collect(),
            addresses: inputs.filter_map(|input| input.url.clone()).collect(),
            digests: Vec::new(),
        }
    }

    /// The same with inputs as they were sent, see [`sent`].
    #[must_use]
    pub fn with(mut self, sent: &[String]) -> Self {
        for one in sent {
            match one.strip_prefix(DIGEST) {
                Some(digest) => self.digests.push(digest.to_owned()),
                None => self.addresses.push(one.clone()),
            }
        }
        self
    }

    /// Whether an address is one of our inputs, or stands in a text of ours.
    pub fn has_link(&self, address: &str) -> bool {
        if self.texts.is_empty() && self.addresses.is_empty() {
            return false;
        }
        let plain = plain(address);
        let (as_told, as_parsed) = (loosely(address.trim()), loosely(&plain));
        self.texts.iter().any(|text| text.contains(&as_told) || text.contains(&as_parsed))
            || self.addresses.iter().any(|own| self::plain(own) == plain)
    }

    /// Whether bytes with this SHA-256 are one of our inputs.
    pub fn has_bytes(&self, sha256: &str) -> bool {
        self.digests.iter().any(|own| own == sha256)
    }
}

const DIGEST: &str = "sha256:";

/// Inputs as they were sent, to be kept with their attempt: an address each, or `sha256:` and the digest of the bytes.
pub fn sent(inputs: &Inputs) -> Vec<String> {
    let loras = inputs.loras.iter().flatten();
    let all = inputs.images.iter().chain(&inputs.mask).chain(loras).chain(&inputs.controls);
    let all = all.map(|input| match input {
        Input::Url(url) => url.clone(),
        Input::Bytes { bytes, .. } => format!("{DIGEST}{}", sha256_hex(bytes)),
    });
    let lying_here = inputs.digests.iter().map(|digest| format!("{DIGEST}{digest}"));
    let mut sent: Vec<String> = all.chain(lying_here).collect();
    sent.sort();
    sent.dedup();
    sent
}

/// A text without what an echo of a link in it may change: case, and how its characters are written.
fn loosely(text: &str) -> String {
    percent_decode_str(&text.replace("&amp;", "&")).decode_utf8_lossy().to_lowercase()
}

/// Whether one text is the other, or its beginning, but for white space, punctuation and case: an echo may be tidied or cut,
/// and an image of ours must not be lost to that.
pub(super) fn same_words(echo: &str, ours: &str) -> bool {
    let bare = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let (echo, ours) = (bare(echo), bare(ours));
    if echo.is_empty() { ours.is_empty() } else { ours.starts_with(&echo) }
}

/// An address without what an echo may change: its spelling, and what no server sees.
fn plain(address: &str) -> String {
    let address = address.trim().replace("&amp;", "&");
    match url::Url::parse(&address) {
        Ok(mut url) => {
            url.set_fragment(None);
            url.to_string()
        }
        Err(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_may_be_spelled_otherwise() {
        let prompt = "like ![x](https://a.example/a b.png), HTTPS://A.Example/c.png and https://a.example/d%20e.png?x=1&amp;y=2";
        let own = Own::of(&GenerateRequest { prompt: prompt.to_owned(), ..GenerateRequest::default() });
        for echo in [
            "https://a.example/a b.png",
            "https://a.example/a%20b.png",
            "https://a.example/c.png",
            "https://a.example/d e.png?x=1&y=2",
        ] {
            assert!(own.has_link(echo), "{echo}");
        }
        assert!(!own.has_link("https://a.example/f.png"));
        assert!(!Own::default().has_link("https://a.example/a.png"));
    }
}
