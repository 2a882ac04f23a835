//! Read the metadata that a cloud gave this machine
