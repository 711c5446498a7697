//! A request's input images as a route takes them: by address, or bytes sent along.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use crate::domain::catalog::Offer;
use crate::domain::image::MediaType;
use crate::domain::param::{Carrier, ParamName};
use crate::domain::request::{GenerateRequest, ImageInput};

/// Input images as they travel to the provider.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `images[]`
    pub images: Vec<Input>,
    /// `mask`
    pub mask: Option<Input>,
    /// `loras[].image`, one for each LoRA.
    pub loras: Vec<Option<Input>>,
    /// `controls[].image`, one for each control.
    pub controls: Vec<Input>,
    /// SHA-256 in hex of those that lie here, and of what they were made of: an address of ours may come back as another's.
    pub digests: Vec<String>,
}

/// One input image.
#[derive(Debug, Clone)]
pub enum Input {
    /// The provider fetches it.
    Url(String),
    /// It is sent along.
    Bytes {
        /// Its type.
        media_type: MediaType,
        /// Its bytes.
        bytes: Bytes,
    },
}

impl Inputs {
    /// What a request's inputs would be, without fetching or reading any: for a dry run.
    pub fn sketch(request: &GenerateRequest, offer: &Offer) -> Self {
        let sketch = |input: &ImageInput, name: ParamName| match &input.url {
            Some(url) if offer.carriers(name).contains(&Carrier::Url) => Input::Url(url.clone()),
            _ if offer.carriers(name) == [Carrier::Url] => {
                Input::Url("(a signed address of this gateway)".to_owned())
            }
            _ => Input::Bytes { media_type: MediaType::Png, bytes: Bytes::new() },
        };
        let mask = request.mask.as_ref().filter(|_| offer.carriers(ParamName::Mask) == [Carrier::Multipart]);
        Self {
            images: request.images.iter().map(|input| sketch(input, ParamName::Images)).collect(),
            mask: mask.map(|input| sketch(input, ParamName::Mask)),
            loras: request
                .loras
                .iter()
                .map(|lora| Some(sketch(lora.image.as_ref()?, ParamName::Loras)))
                .collect(),
            controls: request
                .controls
                .iter()
                .map(|control| sketch(&control.image, ParamName::Controls))
                .collect(),
            digests: Vec::new(),
        }
    }
}

impl Input {
    /// As one string: the address, or a `data:` URI.
    pub fn as_text(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Bytes { media_type, bytes } => {
                format!("data:{};base64,{}", media_type.as_str(), BASE64.encode(bytes))
            }
        }
    }
}
