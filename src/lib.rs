//! Easel: a gateway in front of paid image-generation providers that buys each picture at most once and loses none.
//!
//! The house, floor by floor; a file imports from the floors below its own and from its own room, never up or sideways
//! (`tests/floors.rs` holds it to that):
//!
//! ```text
//! 5  main · app · demo · keys · recover · reload · config · telemetry · server    wire everything
//! 4  api                                                                HTTP in
//! 3  engine                                                             moves tasks
//! 2  providers │ store │ blobs                                          three rooms, no doors between them
//! 1  net │ spool │ trace                                                sockets out; bodies on their way; what is told of the work
//! 0  domain │ chaos                                                     facts and rules; where the chaos suite reaches in
//!    simulator                                                          beside the house: the upstreams' own APIs, spelled a second time
//! ```
//!
//! Begin with [`domain::task`] (the life of a task), `engine/drive.rs` (one step of it) and one folder of [`providers`].

pub mod api;
pub mod app;
pub mod blobs;
pub mod chaos;
pub mod config;
pub mod demo;
pub mod domain;
pub mod engine;
pub mod keys;
pub mod net;
pub mod providers;
pub mod recover;
pub mod reload;
pub mod server;
pub mod simulator;
pub mod spool;
pub mod store;
pub mod telemetry;
pub mod trace;
