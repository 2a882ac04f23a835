//! The real binary against real clients: apt, dnf, gpgv, git and libgit2.

mod airgap;
mod apply;
mod apt;
mod closed;
mod convert;
mod crash;
mod deb_repo;
mod dnf;
mod flip;
mod git;
mod http;
mod lifecycle;
mod node;
mod plan;
mod rollout;
mod rpm;
mod signing;
mod support;
mod sweep;
mod upstream;
