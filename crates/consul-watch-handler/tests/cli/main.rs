//! The real binary against a small Consul.

mod handle;
mod harness;
mod real;
mod watch;
