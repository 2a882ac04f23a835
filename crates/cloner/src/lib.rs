//! Bring the git repositories of a manifest to this machine, in parallel and exactly
