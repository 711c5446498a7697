//! What OpenAI's contract allows for the GPT image models, and what a legal request costs.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use image::ImageFormat;

use super::form::Form;
use crate::simulator::dialect::openai;
use crate::simulator::fields::{Fields, Kind, Wrong};
use crate::simulator::files::Format;
use crate::simulator::intake::Refusal;

const MODELS: [&str; 4] = ["gpt-image-1", "gpt-image-1.5", "gpt-image-2", "gpt-image-2-preview"];
/// The one model with which PiAPI's own example sends `response_format=url`, and gets links.
const PREVIEW: &str = "gpt-image-2-preview";
const PROMPT: usize = 32_000;
const IMAGES: usize = 16;
const IMAGE: usize = 50 << 20;
const MASK: usize = 4 << 20;

/// A legal request.
#[derive(Debug, Clone)]
pub struct Order {
    pub edit: bool,
    pub n: u64,
    pub size: (u32, u32),
    pub quality: String,
    pub background: String,
    pub format: Format,
    pub stream: bool,
    pub partial_images: u64,
    /// Whether the model hands out links on its own.
    pub links: bool,
    pub price_nanos: i64,
}

/// Judges a whole form.
pub fn check(form: &Form) -> Result<Order, Refusal> {
    if let Some(why) = &form.broken {
        return Err(refuse(&Wrong::value("body", why.clone())).into());
    }
    let fields = Fields::new(&form.fields);
    let model = fields.needed("model").map_err(|wrong| refuse(&wrong))?;
    if !MODELS.contains(&model) {
        let message = format!("The requested model '{model}' does not exist.");
        let (kind, code) = ("invalid_request_error", Some("model_not_found"));
        return Err(openai(StatusCode::NOT_FOUND, &message, kind, Some("model"), code).into());
    }
    legal(form, fields, model).map_err(|wrong| refuse(&wrong).into())
}

/// As recorded: `Unknown parameter: 'response_format'.`
fn refuse(wrong: &Wrong) -> Response {
    let (message, code) = match wrong.kind {
        Kind::Unknown => (format!("Unknown parameter: '{}'.", wrong.field), "unknown_parameter"),
        Kind::Missing => {
            (format!("Missing required parameter: '{}'.", wrong.field), "missing_required_parameter")
        }
        Kind::Type | Kind::Value => {
            (format!("Invalid value for '{}': {}.", wrong.field, wrong.message), "invalid_value")
        }
    };
    let kind = "invalid_request_error";
    openai(StatusCode::BAD_REQUEST, &message, kind, Some(&wrong.field), Some(code))
}

fn legal(form: &Form, fields: Fields<'_>, model: &str) -> Result<Order, Wrong> {
    let mut known = vec![
        "model",
        "prompt",
        "n",
        "size",
        "quality",
        "background",
        "output_format",
        "output_compression",
        "moderation",
        "stream",
        "partial_images",
    ];
    if form.edit {
        known.push("input_fidelity");
    }
    if model == PREVIEW {
        known.push("response_format");
    }
    fields.only(&known)?;
    if fields.needed("prompt")?.chars().count() > PROMPT {
        return Err(Wrong::value("prompt", "longer than 32000 characters"));
    }
    fields.integer("output_compression", 0..=100)?;
    fields.word("moderation", &["auto", "low"])?;
    fields.word("input_fidelity", &["high", "low"])?;
    let response = fields.word("response_format", &["url", "b64_json"])?;
    let count = |name, range| -> Result<Option<u64>, Wrong> {
        Ok(fields.integer(name, range)?.and_then(|n| u64::try_from(n).ok()))
    };
    let n = count("n", 1..=10)?.unwrap_or(1);
    let partial_images = count("partial_images", 0..=3)?.unwrap_or(0);
    let size = size(fields.text("size")?.unwrap_or("auto"), model)?;
    let quality = match fields.word("quality", &["auto", "low", "medium", "high"])? {
        None | Some("auto") => "medium",
        Some(quality) => quality,
    };
    let format = fields.word("output_format", &["png", "jpeg", "webp"])?.and_then(Format::named);
    let format = format.unwrap_or(Format::Png);
    let background = match fields.word("background", &["auto", "transparent", "opaque"])? {
        Some("transparent") if format == Format::Jpeg => {
            return Err(Wrong::value("background", "transparent needs png or webp"));
        }
        Some("transparent") => "transparent",
        _ => "opaque",
    };
    if form.edit {
        uploads(form)?;
    }
    let each = if model == PREVIEW { 100_000_000 } else { price_nanos(quality, size) };
    Ok(Order {
        edit: form.edit,
        n,
        size,
        quality: quality.to_owned(),
        background: background.to_owned(),
        format,
        stream: fields.flag("stream")?.unwrap_or(false),
        partial_images,
        links: model == PREVIEW && response != Some("b64_json"),
        price_nanos: each * i64::try_from(n).unwrap_or(1),
    })
}

/// `auto` is a square. gpt-image-2 takes any multiples of 16 between 1:3 and 3:1.
fn size(text: &str, model: &str) -> Result<(u32, u32), Wrong> {
    let wrong = || Wrong::value("size", format!("'{text}' is not supported"));
    if text == "auto" {
        return Ok((1024, 1024));
    }
    let (width, height) = text.split_once('x').ok_or_else(wrong)?;
    let size: (u32, u32) = (width.parse().map_err(|_| wrong())?, height.parse().map_err(|_| wrong())?);
    let free = |(width, height): (u32, u32)| {
        let sides = [width, height].iter().all(|side| side % 16 == 0 && (16..=4096).contains(side));
        sides && width <= 3 * height && height <= 3 * width
    };
    let fixed = [(1024, 1024), (1536, 1024), (1024, 1536)].contains(&size);
    if fixed || (model.starts_with("gpt-image-2") && free(size)) { Ok(size) } else { Err(wrong()) }
}

/// gpt-image-1's published prices by quality, for a square and for anything larger. The other models are
/// billed by token; they cost the same here.
fn price_nanos(quality: &str, (width, height): (u32, u32)) -> i64 {
    let large = u64::from(width) * u64::from(height) > 1024 * 1024;
    match (quality, large) {
        ("low", false) => 11_000_000,
        ("low", true) => 16_000_000,
        ("high", false) => 167_000_000,
        ("high", true) => 250_000_000,
        (_, false) => 42_000_000,
        (_, true) => 63_000_000,
    }
}

/// The pictures to edit, by their magic bytes, and the mask on the first of them.
fn uploads(form: &Form) -> Result<(), Wrong> {
    if form.images.is_empty() {
        return Err(Wrong { field: "image".to_owned(), kind: Kind::Missing, message: String::new() });
    }
    if form.images.len() > IMAGES || form.images.iter().any(|image| image.len() >= IMAGE) {
        return Err(Wrong::value("image", "at most 16 images of less than 50 MB"));
    }
    let legal = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];
    for image in &form.images {
        look(image, &legal).ok_or_else(|| Wrong::value("image", "not a png, webp or jpeg image"))?;
    }
    let Some(mask) = &form.mask else { return Ok(()) };
    let size = look(mask, &[ImageFormat::Png]).filter(|_| mask.len() < MASK);
    let size = size.ok_or_else(|| Wrong::value("mask", "must be a png of less than 4 MB"))?;
    match form.images.first().and_then(|image| look(image, &legal)) {
        Some(image) if image == size => Ok(()),
        _ => Err(Wrong::value("mask", "must have the same size as the image")),
    }
}

/// The size of a picture in one of these formats.
fn look(bytes: &Bytes, formats: &[ImageFormat]) -> Option<(usize, usize)> {
    let format = image::guess_format(bytes).ok()?;
    let size = imagesize::blob_size(bytes).ok()?;
    formats.contains(&format).then_some((size.width, size.height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_the_published_ones() {
        let square = (1024, 1024);
        let tall = (1024, 1536);
        assert_eq!([price_nanos("low", square), price_nanos("low", tall)], [11_000_000, 16_000_000]);
        assert_eq!([price_nanos("medium", square), price_nanos("medium", tall)], [42_000_000, 63_000_000]);
        assert_eq!([price_nanos("high", square), price_nanos("high", tall)], [167_000_000, 250_000_000]);
    }

    #[test]
    fn only_the_second_model_takes_free_sizes() {
        assert_eq!(size("auto", "gpt-image-1").unwrap(), (1024, 1024));
        assert!(size("512x512", "gpt-image-1").is_err());
        assert_eq!(size("512x512", "gpt-image-2").unwrap(), (512, 512));
        assert!(size("512x1552", "gpt-image-2").is_err());
        assert!(size("520x512", "gpt-image-2").is_err());
    }
}
