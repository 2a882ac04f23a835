//! Answer Hiera lookups from Consul and YAML
