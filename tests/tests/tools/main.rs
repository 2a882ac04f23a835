//! The tools together: pipelines as the provisioning scripts use them, and what all of them have in common.
#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

mod bench;
mod canary;
mod contest;
mod doors;
mod election;
mod faults;
mod help;
mod hierarchy;
mod mirror;
mod pipes;
mod proxy;
mod storm;
