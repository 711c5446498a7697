//! PiAPI: Flux by asynchronous tasks, gpt-4o-image by chat completions, gpt-image-1 and its siblings by the Images API. One
//! catalogue for all of it.

#[cfg(test)]
mod expected;
mod flux;
mod gpt_4o_image;
mod gpt_image;
#[cfg(test)]
mod tests;

use super::KindEntry;

const CATALOG: &str = include_str!("catalog.toml");
const ERRORS: &str = include_str!("errors.toml");

/// Flux.
pub(super) const FLUX: KindEntry = KindEntry {
    name: "piapi_flux",
    base_url: "https://api.piapi.ai",
    // What free and basic plans were seen to allow.
    in_flight: 2,
    errors: ERRORS,
    open: flux::open,
};

/// gpt-4o-image.
pub(super) const GPT_4O_IMAGE: KindEntry = KindEntry {
    name: "gpt_4o_image",
    // Not behind the 120 s cut of the usual host (docs: piapi, How To Avoid Timeouts).
    base_url: "https://proxy.piapi.ai",
    in_flight: 8,
    errors: ERRORS,
    open: gpt_4o_image::open,
};

/// gpt-image-1 and its siblings.
pub(super) const GPT_IMAGE: KindEntry = KindEntry {
    name: "gpt_image",
    base_url: "https://proxy.piapi.ai",
    in_flight: 4,
    errors: ERRORS,
    open: gpt_image::open,
};
