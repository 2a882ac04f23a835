//! The client against a fake Consul with faults, and against a real one where there is one.
#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

mod faults;
mod reads;
mod real;
mod writes;

use std::time::Duration;

use consul_client::{Client, Config, Overrides};
use test_support::consul::FakeConsul;

fn config(url: &str) -> Config {
    let overrides = Overrides { address: Some(url.to_owned()), ..Overrides::default() };
    let mut config = Config::default().with(&overrides).unwrap();
    config.connect_timeout = Duration::from_secs(2);
    config.total_timeout = Duration::from_secs(5);
    config
}

fn client(consul: &FakeConsul) -> Client {
    Client::new(&config(&consul.url())).unwrap()
}
