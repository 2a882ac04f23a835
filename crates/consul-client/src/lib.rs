//! Typed client of Consul's HTTP API
