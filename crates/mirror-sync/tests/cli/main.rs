//! The real binary against real clients: apt, gpgv, git and libgit2.

mod airgap;
mod apply;
mod apt;
mod convert;
mod crash;
mod flip;
mod git;
mod http;
mod lifecycle;
mod rollout;
mod rpm;
mod support;
mod sweep;
mod upstream;
