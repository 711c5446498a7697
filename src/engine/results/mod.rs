//! Result images on their way here: [`download`] fetches one from its provider's link, [`quarantine`] keeps what could not
//! be turned into an image, [`recover`] interprets that again; [`hosts`] says who may download.

mod download;
mod hosts;
mod quarantine;
mod recover;
mod scrub;

pub(super) use download::NotHere;
pub use hosts::HostView;
pub(super) use hosts::Hosts;
pub(super) use quarantine::reason;
pub use recover::{Recovered, Supplied};
