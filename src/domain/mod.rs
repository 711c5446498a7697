//! Floor 0: facts and rules. No sockets, no rows, no runtime; everything here can be read and tested alone.

pub mod clock;
