//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.
#![cfg(test)]

mod accept;
mod bodies;
mod billing;
mod breadth;
mod budgets;
mod callbacks;
mod canary;
mod clocks;
mod cut;
mod events;
mod figures;
mod filters;
mod harness;
mod journey;
mod keys;
mod lanes;
mod load;
mod operators;
mod ledger;
mod process;
mod proof;
mod recorder;
mod replicas;
mod limits;
mod reload;
mod retries;
mod sink;
mod tenancy;
mod transfer;
mod transport;
mod usage;
mod webhooks;
mod webhooks_hostile;
mod wire;
