//! The whole gateway over HTTP, on both databases, with the simulator as its upstream.

#[cfg(test)]
mod accept;
#[cfg(test)]
mod breadth;
#[cfg(test)]
mod callbacks;
#[cfg(test)]
mod events;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod journey;
#[cfg(test)]
mod lanes;
#[cfg(test)]
mod process;
#[cfg(test)]
mod recorder;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod sink;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod webhooks_hostile;
#[cfg(test)]
mod wire;
