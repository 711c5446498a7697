//! Over HTTP: the simulator as its callers see it.
