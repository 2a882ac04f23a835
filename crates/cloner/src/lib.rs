//! Bring the git repositories of a manifest to this machine, in parallel and exactly
mod dest;
pub mod manifest;
mod nearest;
pub mod source;
