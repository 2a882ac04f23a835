//! Read, write and wait for keys of Consul
