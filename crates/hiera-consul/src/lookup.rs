//! The `lookup` command.

use std::path::Path;
use std::rc::Rc;

use toolkit::{Io, exit};

use crate::cli::{Lookup, Merge, Render};
use crate::consul::{Access, Levels};
use crate::engine;
use crate::error::Error;
use crate::hiera3::{Hiera3, Resolution};
use crate::hierarchy::Hierarchy;
use crate::merge::{Deep, Strategy};
use crate::settings::Settings;
use crate::value::{Hash, Value};

/// Lookups nest as deep as data makes them; the limits of the engine fit into this.
const STACK: usize = 256 << 20;

struct Outcome {
    /// The answer as it is printed.
    found: Result<Option<String>, Error>,
    warnings: Vec<String>,
    explanation: Vec<String>,
}

pub(crate) fn run(args: &Lookup, settings: &Settings, access: Access, io: &mut Io) -> Result<u8, Error> {
    let merge = strategy(args)?;
    let sources = settings.sources(&args.place)?;
    let node = settings.node(&args.place)?;
    // Also what is read of the global layer's file belongs to the thread: memory that one thread frees is not another's.
    let work = || {
        let access = Rc::new(access);
        let levels = || match args.explain {
            // An explanation counts what is in a level.
            true => Levels::new(Rc::clone(&access)),
            false => Levels::of_keys(Rc::clone(&access), engine::roots(&args.keys)),
        };
        match Hierarchy::open(sources, node, &args.place, levels) {
            Hierarchy::Version3 { file, config, scope } => {
                let mut warnings = Vec::new();
                let found = version3(args, (&file, config), scope, merge.as_ref(), &access, &mut warnings);
                Outcome { found: finished(found, args), warnings, explanation: Vec::new() }
            }
            Hierarchy::Layers(engine) => {
                if args.explain {
                    engine.explain();
                }
                let found = engine.lookup_first(&args.keys, merge.as_ref());
                let default = || args.default.as_deref().map(Value::from);
                Outcome {
                    found: finished(found.map(|found| found.or_else(default)), args),
                    warnings: engine.take_warnings(),
                    explanation: engine.take_explanation(),
                }
            }
        }
    };
    let outcome = with_stack(work)?;
    for warning in outcome.warnings {
        io.warn(warning);
    }
    if args.explain {
        let mut text = outcome.explanation.join("\n");
        text.push('\n');
        io.out(text).map_err(Error::Write)?;
        return outcome.found.map(|_| exit::OK);
    }
    let Some(text) = outcome.found? else { return Ok(exit::NO) };
    io.out(text).map_err(Error::Write)?;
    Ok(exit::OK)
}

/// Runs `work` where lookups may nest as deep as their limits let them.
pub(crate) fn with_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|threads| {
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(threads, work)
            .map_err(|source| Error::Start { source })
            .map(|thread| thread.join().expect("a lookup does not panic"))
    })
}

/// Checks the type and renders; done where there is stack for a value as deep as lookups make it.
fn finished(found: Result<Option<Value>, Error>, args: &Lookup) -> Result<Option<String>, Error> {
    let Some(value) = found? else { return Ok(None) };
    if value.is_encrypted() {
        return Err(Error::Encrypted(args.keys.join(", ")));
    }
    if let Some(expected) = args.value_type.as_ref().filter(|expected| !expected.kind.accepts(&value)) {
        return Err(Error::data(format!(
            "key '{}': the value has the wrong type, expects {}, got {}",
            args.keys.join("', '"),
            expected.text,
            value.type_name()
        )));
    }
    render(&value, args.render_as).map(Some)
}

/// Looks up as the `hiera` command does.
fn version3(
    args: &Lookup,
    (file, config): (&Path, Value),
    scope: Hash,
    merge: Option<&Strategy>,
    access: &Access,
    warnings: &mut Vec<String>,
) -> Result<Option<Value>, Error> {
    if args.explain {
        return Err(Error::Argument("--explain needs a version 5 file".to_owned()));
    }
    let resolution = Resolution::from_strategy(merge)?;
    let hiera = Hiera3::new(config, file, scope, access)?;
    for key in &args.keys {
        let found = hiera.lookup(key, resolution);
        warnings.extend(hiera.take_warning());
        if let Some(value) = found.map_err(|e| e.asked_for(key))? {
            return Ok(Some(value));
        }
    }
    args.default.as_deref().map(|text| hiera.default(text)).transpose()
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
            preserve_unmergeables: false,
        }),
    }))
}
