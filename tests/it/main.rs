//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.
#![cfg(test)]

mod accept;
mod breadth;
mod bucket;
mod callbacks;
mod clocks;
mod delivery;
mod events;
mod filters;
mod harness;
mod hostile_pictures;
mod inputs;
mod journey;
mod killed;
mod lanes;
mod pictures;
mod process;
mod recorder;
mod retries;
mod sink;
mod transfer;
mod webhooks;
mod webhooks_hostile;
mod wire;
