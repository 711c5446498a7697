//! The upstreams' own HTTP APIs, for demos, tests and staging.
