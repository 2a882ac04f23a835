//! Turn changes in Consul into the runs that are needed
