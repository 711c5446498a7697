//! Foreign recordings.
