//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.

mod accept;
mod harness;
mod journey;
mod process;
