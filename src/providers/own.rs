//! What is ours: an answer that shows it echoes our request, and an echo is never a result.

use super::Input;
use super::Inputs;
use crate::domain::request::GenerateRequest;
use crate::domain::secret::sha256_hex;

/// What an upstream was sent, as far as an answer can show it again.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Texts of ours: a link that stands in one is an echo.
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
            texts: texts.into_iter().flatten().cloned().collect(),
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
        let plain = plain(address);
        self.texts.iter().any(|text| text.contains(address) || text.replace("&amp;", "&").contains(&plain))
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
    all.map(|input| match input {
        Input::Url(url) => url.clone(),
        Input::Bytes { bytes, .. } => format!("{DIGEST}{}", sha256_hex(bytes)),
    })
    .collect()
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
