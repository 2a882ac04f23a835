//! `consul-kv`: read, write and wait for keys of Consul, for scripts.
//!
//! Values are bytes and stay exactly what they are. "Absent" is exit code 1 and nothing else is: a denied,
//! unreachable or leaderless Consul has codes of its own (77, 69), and a list that looks empty is checked
//! against the token's rights first, because servers before 1.11 leave out silently what may not be seen.

pub mod cli;
mod error;
mod wait;

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use consul_client::{Client, Config, KvPair, Query, Right, VALUE_LIMIT};
use serde::Serialize;
use toolkit::{Io, exit};

pub use error::Error;

use cli::{Action, Cli};

/// Does what the command line says; returns the exit code.
///
/// # Errors
/// Whatever keeps the answer away.
pub fn run(cli: &Cli, io: &mut Io) -> Result<u8, Error> {
    let config = Config::from_env(|name| std::env::var_os(name))?.with(&cli.consul.overrides())?;
    let client = Client::new(&config)?;
    match &cli.action {
        Action::Get { key, json, consistent } => get(&client, key, *json, &reading(*consistent), io),
        Action::Put { cas, key, value } => put(&client, key, value.as_ref(), *cas, io),
        Action::Delete { cas, key } => delete(&client, key, *cas, io),
        Action::List { json, consistent, prefix } => list(&client, prefix, *json, &reading(*consistent), io),
        Action::Wait { timeout, not, json, key } => {
            let unwanted: Vec<&[u8]> = not.iter().map(|value| value.as_bytes()).collect();
            match wait::until(&client, key, &unwanted, *timeout, io)? {
                Some(pair) => print(&pair, *json, io),
                None => Ok(exit::NO),
            }
        }
    }
}

fn reading(consistent: bool) -> Query {
    if consistent { Query::consistent() } else { Query::new() }
}

fn get(client: &Client, key: &str, json: bool, query: &Query, io: &mut Io) -> Result<u8, Error> {
    match client.kv().get(key, query)?.value {
        Some(pair) => print(&pair, json, io),
        None => {
            io.note(format_args!("{key} is not there"));
            Ok(exit::NO)
        }
    }
}

fn put(client: &Client, key: &str, value: Option<&OsString>, cas: Option<u64>, io: &mut Io) -> Result<u8, Error> {
    let value = match value {
        Some(value) if value != "-" => value.as_bytes().to_vec(),
        _ => read_value()?,
    };
    match cas {
        None => client.kv().put(key, &value)?,
        Some(index) => {
            if !client.kv().cas(key, &value, index)? {
                return Ok(mismatch(key, index, io));
            }
        }
    }
    io.detail(format_args!("stored {} bytes at {key}", value.len()));
    Ok(exit::OK)
}

/// Reads stdin up to one byte more than Consul takes: enough for the refusal to be certain.
fn read_value() -> Result<Vec<u8>, Error> {
    let mut value = Vec::new();
    let limit = VALUE_LIMIT as u64 + 1;
    std::io::stdin().lock().take(limit).read_to_end(&mut value).map_err(Error::Input)?;
    Ok(value)
}

fn delete(client: &Client, key: &str, cas: Option<u64>, io: &mut Io) -> Result<u8, Error> {
    match cas {
        None => client.kv().delete(key)?,
        Some(index) => {
            if !client.kv().delete_cas(key, index)? {
                return Ok(mismatch(key, index, io));
            }
        }
    }
    Ok(exit::OK)
}

fn mismatch(key: &str, index: u64, io: &mut Io) -> u8 {
    match index {
        0 => io.note(format_args!("{key} is there already")),
        _ => io.note(format_args!("the modify index of {key} is not {index}")),
    }
    exit::NO
}

fn list(client: &Client, prefix: &str, json: bool, query: &Query, io: &mut Io) -> Result<u8, Error> {
    let mut count = 0_usize;
    if json {
        for pair in client.kv().list(prefix, query)?.value {
            count += 1;
            io.json(&Shown::of(&pair))?;
        }
    } else {
        for key in client.kv().keys(prefix, query)?.value {
            count += 1;
            io.out(key.as_bytes())?;
            io.out(b"\n")?;
        }
    }
    if count == 0 {
        client.rights().check(Right::Keys(prefix))?;
        io.note(format_args!("no key starts with {prefix}"));
        return Ok(exit::NO);
    }
    Ok(exit::OK)
}

fn print(pair: &KvPair, json: bool, io: &mut Io) -> Result<u8, Error> {
    if json {
        io.json(&Shown::of(pair))?;
    } else {
        io.out(&pair.value)?;
    }
    Ok(exit::OK)
}

/// A pair as `--json` shows it.
#[derive(Serialize)]
struct Shown<'a> {
    r#type: &'static str,
    v: u8,
    key: &'a str,
    /// In base64.
    value: String,
    /// The value again where it is text.
    text: Option<&'a str>,
    flags: u64,
    create_index: u64,
    modify_index: u64,
    lock_index: u64,
    session: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(pair: &'a KvPair) -> Shown<'a> {
        Shown {
            r#type: "key",
            v: 1,
            key: &pair.key,
            value: STANDARD.encode(&pair.value),
            text: std::str::from_utf8(&pair.value).ok(),
            flags: pair.flags,
            create_index: pair.create_index,
            modify_index: pair.modify_index,
            lock_index: pair.lock_index,
            session: pair.session.as_deref(),
        }
    }
}
