//! Easel.

pub mod domain;
pub mod simulator;
