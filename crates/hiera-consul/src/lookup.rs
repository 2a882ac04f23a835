//! The `lookup` command.

use toolkit::{Io, exit};

use crate::cli::{Lookup, Merge, Render};
use crate::consul::{Access, Levels};
use crate::engine::Engine;
use crate::error::Error;
use crate::merge::{Deep, Strategy};
use crate::scope::Scope;
use crate::settings::Settings;
use crate::value::Value;

/// Lookups nest as deep as data makes them; the limits of the engine fit into this.
const STACK: usize = 256 << 20;

struct Outcome {
    found: Result<Option<Value>, Error>,
    warnings: Vec<String>,
    explanation: Vec<String>,
}

pub(crate) fn run(args: &Lookup, settings: &Settings, access: Access, io: &mut Io) -> Result<u8, Error> {
    let merge = strategy(args)?;
    let sources = settings.sources(args)?;
    let (node, facts) = settings.node(args)?;
    let mut scope = Scope::new(&node, sources.environment.as_ref().map(|e| e.name.as_str()), facts);
    for (name, value) in &args.scope {
        scope.set(name, Value::from(value.as_str()));
    }
    let work = || {
        let engine = Engine::new(sources, scope, Box::new(Levels::new(access)));
        if args.explain {
            engine.explain();
        }
        let found = engine.lookup_first(&args.keys, merge.as_ref());
        Outcome { found, warnings: engine.take_warnings(), explanation: engine.take_explanation() }
    };
    let outcome = std::thread::scope(|threads| {
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(threads, work)
            .map_err(|source| Error::Start { source })
            .map(|thread| thread.join().expect("a lookup does not panic"))
    })?;
    for warning in outcome.warnings {
        io.warn(warning);
    }
    if args.explain {
        let mut text = outcome.explanation.join("\n");
        text.push('\n');
        io.out(text.as_bytes()).map_err(Error::Write)?;
        return outcome.found.map(|_| exit::OK);
    }
    let default = args.default.as_deref().map(Value::from);
    let Some(value) = outcome.found?.or(default) else { return Ok(exit::NO) };
    if let Some(expected) = args.value_type.as_ref().filter(|t| !t.accepts(&value)) {
        return Err(Error::data(format!(
            "found value has wrong type, expects {expected:?}, got {}",
            value.type_name()
        )));
    }
    io.out(render(&value, args.render_as)?.as_bytes()).map_err(Error::Write)?;
    Ok(exit::OK)
}

fn render(value: &Value, form: Render) -> Result<String, Error> {
    Ok(match form {
        Render::S => format!("{}\n", value.to_text()),
        Render::Yaml => value.to_yaml(),
        Render::Json => {
            let json = value.to_json().ok_or_else(|| {
                Error::data("the value holds a number that JSON cannot express; use --render-as yaml")
            })?;
            format!("{json}\n")
        }
    })
}

fn strategy(args: &Lookup) -> Result<Option<Strategy>, Error> {
    let options = args.knock_out_prefix.is_some() || args.sort_merged_arrays || args.merge_hash_arrays;
    if options && args.merge != Some(Merge::Deep) {
        return Err(Error::Argument(
            "--knock-out-prefix, --sort-merged-arrays and --merge-hash-arrays need --merge deep".to_owned(),
        ));
    }
    Ok(args.merge.map(|merge| match merge {
        Merge::First => Strategy::First,
        Merge::Unique => Strategy::Unique,
        Merge::Hash => Strategy::Hash,
        Merge::Deep => Strategy::Deep(Deep {
            knockout_prefix: args.knock_out_prefix.clone(),
            sort_merged_arrays: args.sort_merged_arrays,
            merge_hash_arrays: args.merge_hash_arrays,
        }),
    }))
}
