//! `agent-config`: the same watches as definitions for Consul's own agent, which then calls `handle`.
//!
//! What Consul's watches cannot do is said: they follow no instances of tagged services (refused), gather no changes
//! (a change that comes while the handler runs is one more call), and read with the agent's own token. Settings of
//! `consul` that `handle` has options for are passed on; tokens themselves never are.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::{Config, Debounce, WatchSpec};
use crate::error::Error;
use crate::source::Subject;

/// The definitions, and what they cannot say.
#[derive(Debug)]
pub struct Definitions {
    /// An object for a file in the agent's configuration directory.
    pub value: Value,
    /// One line for each thing that is not the same.
    pub remarks: Vec<String>,
}

/// Returns the agent's definitions of all watches of a configuration; `program` is what the agent calls.
///
/// # Errors
/// A watch has no equivalent.
pub fn definitions(config: &Config, program: &Path) -> Result<Definitions, Error> {
    let program = program.to_str().ok_or_else(|| Error::NoEquivalent {
        name: program.to_string_lossy().into_owned(),
        reason: "the path of this program is not UTF-8",
    })?;
    let mut remarks = Vec::new();
    let mut options = Vec::new();
    for (variable, value) in &config.consul {
        let option = match *variable {
            "CONSUL_HTTP_ADDR" => "--http-addr",
            "CONSUL_HTTP_TOKEN_FILE" => "--token-file",
            "CONSUL_CACERT" => "--ca-file",
            "CONSUL_CLIENT_CERT" => "--client-cert",
            "CONSUL_CLIENT_KEY" => "--client-key",
            other => {
                remarks
                    .push(format!("set {other} in the agent's environment: it confirms answers that became smaller"));
                continue;
            }
        };
        options.extend([option.to_owned(), value.to_string_lossy().into_owned()]);
    }
    let watches = config.watches.iter().map(|spec| {
        if spec.debounce != Debounce::default() {
            remarks.push(format!("{}: Consul gathers no changes; ts --debounce does", spec.name));
        }
        definition(spec, program, &options)
    });
    let watches = watches.collect::<Result<Vec<Value>, Error>>()?;
    Ok(Definitions { value: json!({ "watches": watches }), remarks })
}

fn definition(spec: &WatchSpec, program: &str, options: &[String]) -> Result<Value, Error> {
    let kind = spec.subject.kind();
    let mut watch = json!({ "type": kind.name() });
    let mut args: Vec<String> =
        [program, "handle", "--name", &spec.name, "--type", kind.name()].map(str::to_owned).into();
    args.extend(options.iter().cloned());
    let mut set = |key: &str, value: Value| watch[key] = value;
    // Values stand behind `=`: one that begins with a dash is still a value.
    match &spec.subject {
        Subject::Key(key) => {
            set("key", json!(key));
            args.push(format!("--key={key}"));
        }
        Subject::Prefix(prefix) => {
            set("prefix", json!(prefix));
            args.push(format!("--prefix={prefix}"));
        }
        Subject::Tagged { .. } => {
            return Err(Error::NoEquivalent {
                name: spec.name.clone(),
                reason: "Consul's own watches follow no instances of tagged services",
            });
        }
        Subject::Service { name, tag, passing } => {
            set("service", json!(name));
            args.push(format!("--service={name}"));
            if let Some(tag) = tag {
                set("tag", json!(tag));
                args.push(format!("--tag={tag}"));
            }
            if *passing {
                set("passingonly", json!(true));
                args.push("--passing".to_owned());
            }
        }
        Subject::Checks { service: Some(service) } => {
            set("service", json!(service));
            args.push(format!("--service={service}"));
        }
        Subject::Event { name: Some(name) } => set("name", json!(name)),
        Subject::Services | Subject::Nodes | Subject::Checks { service: None } | Subject::Event { name: None } => {}
    }
    if !spec.fields.is_empty() {
        args.push(format!("--fields={}", spec.fields.join(",")));
    }
    args.push(format!("--timeout={}", toolkit::duration::format(spec.timeout)));
    args.push("--".to_owned());
    args.extend(spec.run.iter().map(|word| word.to_string_lossy().into_owned()));
    set("handler_type", json!("script"));
    set("args", json!(args));
    Ok(watch)
}
