//! Test harness: scratch environments, a scriptable Consul, git servers

pub mod consul;
pub mod git;
pub mod real_consul;
