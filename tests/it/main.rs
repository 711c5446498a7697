//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.
#![cfg(test)]

mod accept;
mod billing;
mod breadth;
mod budgets;
mod callbacks;
mod clocks;
mod events;
mod filters;
mod harness;
mod journey;
mod lanes;
mod ledger;
mod process;
mod proof;
mod recorder;
mod retries;
mod sink;
mod transfer;
mod usage;
mod webhooks;
mod webhooks_hostile;
mod wire;
