//! Floor 0: facts and rules. No sockets, no rows, no runtime; everything here can be read and tested alone.

pub mod attempt;
mod books;
pub mod catalog;
pub mod clock;
pub mod code;
pub mod delivery;
pub mod file;
pub mod fit;
pub mod id;
pub mod image;
pub mod key;
pub mod lane;
pub mod link;
pub mod money;
pub mod param;
pub mod request;
pub mod retention;
pub mod secret;
pub mod size;
mod state;
pub mod task;
mod text;
pub mod validate;
pub mod view;
pub mod webhook;
