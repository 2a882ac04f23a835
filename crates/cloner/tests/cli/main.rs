//! The real binary against real git servers and repositories on loopback.

mod basics;
mod credentials;
mod generations;
mod given;
mod hostile;
mod network;
mod offline;
mod people;
mod places;
mod signatures;
mod submodules;
mod support;
mod sweep;
mod tables;
