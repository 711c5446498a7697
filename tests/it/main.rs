//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.
#![cfg(test)]

mod accept;
mod breadth;
mod callbacks;
mod cases;
mod clocks;
mod disk;
mod erase;
mod events;
mod filters;
mod full_disk;
mod harness;
mod journey;
mod lanes;
mod late;
mod outbound;
mod process;
mod recorder;
mod retention;
mod retries;
mod rows;
mod sink;
mod space;
mod transfer;
mod trap;
mod upstreams;
mod webhooks;
mod webhooks_hostile;
mod wire;
