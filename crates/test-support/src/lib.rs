//! Test harness: scratch environments, a scriptable Consul, git servers, upstreams with faults

pub mod consul;
pub mod git;
pub mod real_consul;
pub mod upstream;
