//! Easel.

pub mod blobs;
pub mod domain;
pub mod net;
pub mod simulator;
pub mod store;
