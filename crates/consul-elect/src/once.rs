//! `once`: choose one node for good.
//!
//! The first caller whose compare-and-swap makes the key is chosen; everybody reads the key afterwards. A
//! caller that dies in between leaves either no key or the choice; the token, which the record only repeats, is
//! filled in by whoever comes next.

use consul_client::{Client, Query};
use toolkit::Io;

use crate::Error;
use crate::record::{Record, Stored, key};

/// How often a choice is tried while others change it.
const ATTEMPTS: u32 = 10;

/// Returns the choice, making it if nobody has.
pub(crate) fn choose(client: &Client, name: &str, io: &mut Io) -> Result<Record, Error> {
    for _ in 0..ATTEMPTS {
        let Some(stored) = Stored::read(client, name, &Query::consistent())? else {
            let record = Record::new(&client.agent().info()?, None);
            if client.kv().cas(&key(name), &record.bytes(), 0)? {
                io.note(format_args!("chose {} for {name}", record.node));
            }
            continue;
        };
        if stored.is_held() {
            return Err(Error::Led { name: name.to_owned(), node: stored.record.node });
        }
        if stored.complete {
            return Ok(stored.record);
        }
        // Only the token is missing in the stored form; if another caller adds it first, read that.
        client.kv().cas(&key(name), &stored.record.bytes(), stored.pair.modify_index)?;
    }
    Err(Error::Contended { name: name.to_owned(), attempts: ATTEMPTS })
}

/// Forgets the choice; no error when there is none.
pub(crate) fn reset(client: &Client, name: &str) -> Result<(), Error> {
    for _ in 0..ATTEMPTS {
        // A record that cannot be read can still be forgotten.
        let Some(pair) = client.kv().get(&key(name), &Query::consistent())?.value else { return Ok(()) };
        if pair.session.is_some() {
            let node = Stored::read(client, name, &Query::consistent())?.map_or_else(String::new, |s| s.record.node);
            return Err(Error::Led { name: name.to_owned(), node });
        }
        if client.kv().delete_cas(&key(name), pair.modify_index)? {
            return Ok(());
        }
    }
    Err(Error::Contended { name: name.to_owned(), attempts: ATTEMPTS })
}
