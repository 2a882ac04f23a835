//! The tools together: pipelines as the provisioning scripts use them, and what all of them have in common.
#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

mod bench;
mod canary;
mod doors;
mod election;
mod help;
mod hierarchy;
mod mirror;
mod pipes;
mod storm;
