//! Lookups in data that names other data, variables and itself: any text is answered or refused.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use hiera_consul::engine::{ConsulSource, Engine, Entry, Sources};
use hiera_consul::error::Error;
use hiera_consul::psych;
use hiera_consul::scope::Scope;
use hiera_consul::value::{Hash, Value};
use libfuzzer_sys::fuzz_target;

const KEYS: [&str; 5] = ["a", "b", "c", "m::d", "lookup_options"];

/// One level that holds what the input says.
struct Data(RefCell<Hash>);

impl ConsulSource for Data {
    fn announce(&self, _: &Hash) {}

    fn lookup(&self, _: &Hash, key: &str) -> Result<Option<Value>, Error> {
        Ok(self.0.borrow().get_str(key).cloned())
    }

    fn version3(
        &self,
        _: &Hash,
        _: &str,
        _: &mut dyn FnMut(&str) -> Result<String, Error>,
    ) -> Result<(Option<Value>, Option<String>), Error> {
        Ok((None, None))
    }

    fn entries(&self, _: &Hash) -> Result<Vec<Entry>, Error> {
        Ok(Vec::new())
    }

    fn notices(&self) -> Vec<String> {
        Vec::new()
    }

    fn place(&self, _: &Hash) -> Option<String> {
        None
    }
}

/// The configuration, written once by this process.
fn config() -> PathBuf {
    let path = std::env::temp_dir().join(format!("hiera-consul-fuzz-{}.yaml", std::process::id()));
    if !path.exists() {
        let text = "version: 5\nhierarchy:\n- {name: c, lookup_key: 'stacktira::consul', options: {prefix: p}}\n";
        fs::write(&path, text).expect("a temporary file can be written");
    }
    path
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // A line for each key: YAML where it is YAML, else text.
    let mut data = Hash::new();
    for (key, line) in KEYS.iter().zip(text.split('\n')) {
        let value = psych::load(line.as_bytes()).ok().filter(Value::is_data);
        data.insert(Value::from(*key), value.unwrap_or_else(|| Value::from(line)));
    }
    let facts = [("role", Value::from("web")), ("list", Value::Array(vec![Value::Int(1)]))];
    let facts = facts.into_iter().map(|(name, value)| (Value::from(name), value)).collect();
    let sources = Sources { hiera_config: Some(config()), environment: None };
    let engine = Engine::new(sources, Scope::new("n1.example.test", None, facts), Box::new(Data(RefCell::new(data))));
    for key in ["a", "b", "m::d", "c.k.0"] {
        drop(engine.lookup_first(&[key.to_owned()], None));
    }
    if let Some(key) = text.split('\n').nth(KEYS.len()) {
        drop(engine.lookup_first(&[key.to_owned()], None));
    }
});
