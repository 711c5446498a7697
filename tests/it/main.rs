//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.
#![cfg(test)]

mod accept;
mod breadth;
mod callbacks;
mod clocks;
mod events;
mod filters;
mod harness;
mod journey;
mod lanes;
mod process;
mod recorder;
mod retries;
mod sink;
mod transfer;
mod webhooks;
mod webhooks_hostile;
mod wire;
