//! Git repositories made to order, and a loopback server that hands them out by smart HTTP.
//!
//! [`GitServer`] runs the real `git upload-pack` behind a small HTTP/1.1 server of its own: no
//! configuration of the machine is read, and a test can make it hang, drip, redirect or refuse and
//! can see what was asked. It ends with its value.

mod repo;
mod server;

pub use repo::{Content, Repo};
pub use server::{Behaviour, GitServer, Request};

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_git_program_can_clone_from_it() {
        let server = GitServer::start();
        let repo = server.repo("a/b.git");
        let commit = repo.commit("main", &[("x/y", Content::File("text")), ("run", Content::Script("#!/bin/sh\n"))]);
        let into = tempfile::tempdir().expect("scratch");
        let status = Command::new("git")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", into.path())
            .args(["clone", "-q", &server.url("a/b.git")])
            .arg(into.path().join("b"))
            .status()
            .expect("git runs");
        assert!(status.success());
        assert_eq!(std::fs::read_to_string(into.path().join("b/x/y")).expect("there"), "text");
        let head = std::fs::read_to_string(into.path().join("b/.git/refs/heads/main")).expect("there");
        assert_eq!(head.trim(), commit);
        assert!(server.requests().len() >= 2);
    }
}
