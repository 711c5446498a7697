//! Easel.

pub mod domain;
pub mod net;
pub mod simulator;
