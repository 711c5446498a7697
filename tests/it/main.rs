//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.
#![cfg(test)]

mod accept;
mod breadth;
mod callbacks;
mod canary;
mod clocks;
mod events;
mod filters;
mod harness;
mod journey;
mod keys;
mod lanes;
mod limits;
mod process;
mod recorder;
mod reload;
mod retries;
mod sink;
mod tenancy;
mod transfer;
mod webhooks;
mod webhooks_hostile;
mod wire;
