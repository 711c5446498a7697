//! Easel.

pub mod blobs;
pub mod domain;
pub mod engine;
pub mod net;
pub mod providers;
pub mod simulator;
pub mod store;
