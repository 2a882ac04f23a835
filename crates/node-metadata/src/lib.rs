//! Reads the metadata that a cloud gave this machine: its role, its mirror, its keys.
//!
//! Metadata is what the OpenStack metadata API calls `meta_data.json`: an object whose `meta` mapping holds
//! what the owner of the machine wrote. It is taken whole from the first source that is there ([`source`]),
//! kept in a file of the running system ([`cache`]) so that all scripts of one boot see the same answer,
//! and looked up by dotted keys ([`lookup`]).
//!
//! What always holds: sources are not merged; a source that is there and broken is an error, never "next
//! source"; a metadata service that does not answer is an error unless the local file answers. Every request has a
//! limit of 5 s and never goes through a proxy.
//!
//! Exit codes: 0 printed, 1 no such key, 2 usage, 65 broken source, 69 no source, 73 output, 77 denied.

pub mod cache;
pub mod cli;
pub mod error;
pub mod lookup;
pub mod service;
pub mod source;

use serde_json::Value;
use toolkit::{Io, exit};

use crate::cli::{Action, Cli};
use crate::error::Error;
use crate::source::Sources;

/// Does what the command line says.
///
/// # Errors
/// Those of [`Error`].
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8, Error> {
    match &cli.action {
        Action::Dump { from } => {
            let metadata = Sources::from_env(from)?.metadata(io)?;
            io.json(&metadata).map_err(Error::Output)?;
            Ok(exit::OK)
        }
        Action::Get { key, default, from } => {
            let metadata = Sources::from_env(from)?.metadata(io)?;
            let text = match (lookup::find(&metadata, key), default) {
                (Some(value), _) => lookup::plain(value),
                (None, Some(default)) => default.clone(),
                (None, None) => {
                    io.note(format_args!("the metadata has no `{key}`"));
                    return Ok(exit::NO);
                }
            };
            io.out(text.as_bytes()).and_then(|()| io.out(b"\n")).map_err(Error::Output)?;
            Ok(exit::OK)
        }
    }
}

/// Reads bytes as a JSON object.
fn object(bytes: &[u8], place: &str) -> Result<Value, Error> {
    let value = serde_json::from_slice(bytes).map_err(|source| Error::Json { place: place.to_owned(), source })?;
    let found = match &value {
        Value::Object(_) => return Ok(value),
        Value::Array(_) => "a list",
        Value::String(_) => "a string",
        Value::Null => "null",
        Value::Bool(_) | Value::Number(_) => "a single value",
    };
    Err(Error::NotAnObject { place: place.to_owned(), found })
}
