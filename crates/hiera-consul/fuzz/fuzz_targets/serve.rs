//! The coprocess: any lines are answered, each with one line, and it goes on.
#![no_main]

use consul_client::{Config, Overrides};
use hiera_consul::consul::Access;
use hiera_consul::serve;
use libfuzzer_sys::fuzz_target;
use toolkit::Io;

fuzz_target!(|input: &[u8]| {
    // Nobody listens there, so that whatever is asked of Consul fails at once.
    let overrides = Overrides { address: Some("http://127.0.0.1:1".to_owned()), ..Overrides::default() };
    let config = Config::default().with(&overrides).expect("an address");
    let (mut io, captured) = Io::captured("hiera-consul");
    let gone = || true;
    let access = Access::new(config, overrides);
    serve::answer_all(access, input, &gone, &mut io).expect("memory can be written");
    let asked = input.split(|b| *b == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)).count();
    assert_eq!(captured.out().lines().count(), asked, "{}", captured.out());
});
