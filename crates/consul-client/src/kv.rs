//! Keys and values, and the locks on them.

use serde::Deserialize;

use crate::Error;
use crate::client::Client;
use crate::query::{Answer, Query};
use crate::request::{Method, Request, encode};
use crate::wire;

/// The largest value that Consul stores unless its servers are configured otherwise.
pub const VALUE_LIMIT: usize = 512 * 1024;

/// The most prefixes that [`Kv::trees`] reads at once: what Consul puts into one transaction.
pub const MOST_TREES: usize = 64;

/// The most writes that [`Kv::apply`] makes at once: what Consul puts into one transaction.
pub const MOST_WRITES: usize = 64;

/// The longest request of [`Kv::apply`] that Consul takes, unless its servers are configured otherwise.
pub const TRANSACTION_LIMIT: usize = 512 * 1024;

/// One write of a transaction, made only if the key's modify index still is `index`; 0 means that it must not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write<'a> {
    /// Stores a value.
    Set {
        /// The key.
        key: &'a str,
        /// The exact bytes.
        value: &'a [u8],
        /// What the key's modify index must be.
        index: u64,
    },
    /// Removes a key.
    Remove {
        /// The key.
        key: &'a str,
        /// What the key's modify index must be.
        index: u64,
    },
}

impl Write<'_> {
    /// Returns the key.
    pub fn key(&self) -> &str {
        match self {
            Write::Set { key, .. } | Write::Remove { key, .. } => key,
        }
    }

    /// Returns an upper bound of what it adds to the length of a transaction's request.
    pub fn length(&self) -> usize {
        match self {
            // Escapes make six bytes of one.
            Write::Set { key, value, .. } => 6 * key.len() + value.len().div_ceil(3) * 4 + 100,
            Write::Remove { key, .. } => 6 * key.len() + 100,
        }
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KvPair {
    /// The key.
    pub key: String,
    /// The exact bytes stored.
    #[serde(default, deserialize_with = "wire::base64")]
    pub value: Vec<u8>,
    /// A number for applications' own use.
    #[serde(default)]
    pub flags: u64,
    /// Index of the write that made the key.
    pub create_index: u64,
    /// Index of the last write; what a compare-and-swap compares.
    pub modify_index: u64,
    /// How often the lock on the key was taken.
    #[serde(default)]
    pub lock_index: u64,
    /// The session that holds the lock.
    #[serde(default)]
    pub session: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnDone {
    // Null where nothing was found; not there in what no Consul sent.
    #[serde(deserialize_with = "wire::nullable")]
    results: Vec<TxnResult>,
}

#[derive(Deserialize)]
struct TxnResult {
    #[serde(rename = "KV")]
    kv: KvPair,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnRefused {
    errors: Vec<TxnError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnError {
    what: String,
}

/// Access to keys and values; see [`Client::kv`].
#[derive(Debug, Clone, Copy)]
pub struct Kv<'a> {
    client: &'a Client,
}

impl<'a> Kv<'a> {
    pub(crate) fn new(client: &'a Client) -> Kv<'a> {
        Kv { client }
    }

    /// Returns a key's value, `None` when it is certainly not there.
    pub fn get(&self, key: &str, query: &Query) -> Result<Answer<Option<KvPair>>, Error> {
        let response = self.client.send_maybe(&Request::get(path(key)?).query(query))?;
        if !response.found {
            return Ok(Answer { value: None, meta: response.meta });
        }
        let pairs: Vec<KvPair> = response.json()?;
        match <[KvPair; 1]>::try_from(pairs) {
            Ok([pair]) if pair.key == key => Ok(Answer { value: Some(pair), meta: response.meta }),
            _ => Err(response.malformed("it is not the one key asked for")),
        }
    }

    /// Returns all keys that start with `prefix` with their values, in the order of the keys; the
    /// empty prefix means all. An empty list may also mean that the token may see none:
    /// see [`crate::rights`].
    pub fn list(&self, prefix: &str, query: &Query) -> Result<Answer<Vec<KvPair>>, Error> {
        let request = Request::get(prefix_path(prefix)?).with("recurse", "").query(query);
        let response = self.client.send_maybe(&request)?;
        let mut pairs: Vec<KvPair> = if response.found { response.json()? } else { Vec::new() };
        if pairs.iter().any(|pair| !pair.key.starts_with(prefix)) {
            return Err(response.malformed("it holds keys that were not asked for"));
        }
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Answer { value: pairs, meta: response.meta })
    }

    /// Returns all keys that start with any of the prefixes, of one moment, in the order of the keys; none
    /// of the prefixes may lie inside of another. At most [`MOST_TREES`] of them.
    ///
    /// It is one transaction, for which Consul tells no index: that of the answer is the highest modify index
    /// of a key in it, 0 when there is none. What [`Kv::list`] says of empty lists holds here too.
    pub fn trees(&self, prefixes: &[&str], query: &Query) -> Result<Answer<Vec<KvPair>>, Error> {
        if prefixes.len() > MOST_TREES {
            return Err(Error::Config {
                setting: "prefixes of one read".to_owned(),
                reason: format!("there are {}, Consul takes {MOST_TREES}", prefixes.len()),
            });
        }
        for prefix in prefixes {
            // Refuses what the other calls refuse, though this one does not go through a path.
            prefix_path(prefix)?;
        }
        let steps: Vec<_> =
            prefixes.iter().map(|prefix| serde_json::json!({"KV": {"Verb": "get-tree", "Key": prefix}})).collect();
        let body = serde_json::to_vec(&steps).expect("strings serialise");
        let response = self.client.send(&Request::put("txn", &body).reading().query(query))?;
        let done: TxnDone = response.json()?;
        let mut pairs: Vec<KvPair> = done.results.into_iter().map(|result| result.kv).collect();
        if pairs.iter().any(|pair| !prefixes.iter().any(|prefix| pair.key.starts_with(prefix))) {
            return Err(response.malformed("it holds keys that were not asked for"));
        }
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        let mut meta = response.meta;
        meta.index = pairs.iter().map(|pair| pair.modify_index).max().unwrap_or(0);
        Ok(Answer { value: pairs, meta })
    }

    /// Returns all keys that start with `prefix`, sorted; as [`Kv::list`] without the values.
    pub fn keys(&self, prefix: &str, query: &Query) -> Result<Answer<Vec<String>>, Error> {
        let request = Request::get(prefix_path(prefix)?).with("keys", "").query(query);
        let response = self.client.send_maybe(&request)?;
        let mut keys: Vec<String> = if response.found { response.json()? } else { Vec::new() };
        if keys.iter().any(|key| !key.starts_with(prefix)) {
            return Err(response.malformed("it holds keys that were not asked for"));
        }
        keys.sort();
        Ok(Answer { value: keys, meta: response.meta })
    }

    /// Stores a value.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        match self.write(key, value, None)? {
            true => Ok(()),
            false => Err(Error::Status {
                address: self.client.address().to_owned(),
                request: format!("PUT /v1/{}", path(key)?),
                code: 200,
                body: "the write was not made".to_owned(),
            }),
        }
    }

    /// Stores a value if the key's modify index still is `index`; 0 means that the key must not
    /// exist. Returns whether it was stored.
    pub fn cas(&self, key: &str, value: &[u8], index: u64) -> Result<bool, Error> {
        self.write(key, value, Some(("cas", index.to_string())))
    }

    /// Stores a value and takes the lock on the key for `session`. `false` when another session
    /// holds it, or its last holder was lost less than the lock delay ago. Taking again what the
    /// session holds stores the value.
    pub fn acquire(&self, key: &str, value: &[u8], session: &str) -> Result<bool, Error> {
        self.write(key, value, Some(("acquire", session.to_owned()))).map_err(|error| session_gone(error, session))
    }

    /// Makes a key and takes the lock on it for `session`, in one step. Returns the key's create index;
    /// `None` when the key exists, locked or not, or its lock delay runs.
    pub fn acquire_new(&self, key: &str, value: &[u8], session: &str) -> Result<Option<u64>, Error> {
        // Refuses keys that the other calls refuse, though this one does not go through a path.
        path(key)?;
        if value.len() > VALUE_LIMIT {
            return Err(too_large(key, value));
        }
        let body = serde_json::json!([
            {"KV": {"Verb": "check-not-exists", "Key": key}},
            {"KV": {"Verb": "lock", "Key": key, "Value": wire::to_base64(value), "Session": session}},
        ]);
        let body = serde_json::to_vec(&body).expect("strings and numbers serialise");
        let request = Request::put("txn", &body);
        let raw = self.client.exchange(&request)?;
        let malformed = |detail: String| Error::Body {
            address: self.client.address().to_owned(),
            request: request.to_string(),
            detail,
        };
        match raw.status {
            200 => {
                let done: TxnDone = serde_json::from_slice(&raw.body).map_err(|e| malformed(e.to_string()))?;
                match done.results.as_slice() {
                    [TxnResult { kv }] if kv.key == key && kv.session.as_deref() == Some(session) => {
                        Ok(Some(kv.create_index))
                    }
                    _ => Err(malformed("it does not name the one key that was locked".to_owned())),
                }
            }
            409 => {
                let refused: TxnRefused = serde_json::from_slice(&raw.body).map_err(|e| malformed(e.to_string()))?;
                let says = |text: &str| refused.errors.iter().any(|e| e.what.contains(text));
                if says("invalid session") {
                    Err(Error::SessionGone { session: session.to_owned() })
                } else if says("exists") || says("already held") || says("lock delay") {
                    Ok(None)
                } else {
                    Err(raw.into_error(self.client.address(), &request))
                }
            }
            _ => Err(raw.into_error(self.client.address(), &request)),
        }
    }

    /// Makes all writes or none, as one transaction. `false` when a key is no longer as a write expects it: nothing
    /// was changed then. At most [`MOST_WRITES`] of them, in a request no longer than [`TRANSACTION_LIMIT`].
    pub fn apply(&self, writes: &[Write<'_>]) -> Result<bool, Error> {
        let mut steps = Vec::with_capacity(writes.len());
        for write in writes {
            // Refuses keys that the other calls refuse, though this one does not go through a path.
            path(write.key())?;
            steps.push(match *write {
                Write::Set { key, value, .. } if value.len() > VALUE_LIMIT => return Err(too_large(key, value)),
                Write::Set { key, value, index } => {
                    let value = wire::to_base64(value);
                    serde_json::json!({"KV": {"Verb": "cas", "Key": key, "Value": value, "Index": index}})
                }
                Write::Remove { key, index } => {
                    serde_json::json!({"KV": {"Verb": "delete-cas", "Key": key, "Index": index}})
                }
            });
        }
        let body = serde_json::to_vec(&steps).expect("strings and numbers serialise");
        let request = Request::put("txn", &body);
        let raw = self.client.exchange(&request)?;
        match raw.status {
            200 => Ok(true),
            409 => {
                let refused: Result<TxnRefused, _> = serde_json::from_slice(&raw.body);
                let stale =
                    refused.is_ok_and(|refused| refused.errors.iter().any(|e| e.what.contains("index is stale")));
                if stale { Ok(false) } else { Err(raw.into_error(self.client.address(), &request)) }
            }
            _ => Err(raw.into_error(self.client.address(), &request)),
        }
    }

    /// Stores a value and gives the lock back. `false` when the session does not hold it.
    pub fn release(&self, key: &str, value: &[u8], session: &str) -> Result<bool, Error> {
        self.write(key, value, Some(("release", session.to_owned()))).map_err(|error| session_gone(error, session))
    }

    /// Removes a key; no error when it is not there.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        let response = self.client.send(&Request::new(Method::Delete, path(key)?))?;
        match response.truth()? {
            true => Ok(()),
            false => Err(response.malformed("the key was not removed")),
        }
    }

    /// Removes a key if its modify index still is `index`. Returns whether it is gone.
    ///
    /// An index of 0 is refused: Consul would delete nothing and report success.
    pub fn delete_cas(&self, key: &str, index: u64) -> Result<bool, Error> {
        if index == 0 {
            return Err(Error::Config {
                setting: "index of a delete".to_owned(),
                reason: "it must be the modify index of an existing key, not 0".to_owned(),
            });
        }
        let request = Request::new(Method::Delete, path(key)?).with("cas", index.to_string());
        self.client.send(&request)?.truth()
    }

    /// Removes all keys that start with `prefix`.
    pub fn delete_tree(&self, prefix: &str) -> Result<(), Error> {
        let request = Request::new(Method::Delete, prefix_path(prefix)?).with("recurse", "");
        let response = self.client.send(&request)?;
        match response.truth()? {
            true => Ok(()),
            false => Err(response.malformed("the keys were not removed")),
        }
    }

    fn write(&self, key: &str, value: &[u8], condition: Option<(&'static str, String)>) -> Result<bool, Error> {
        if value.len() > VALUE_LIMIT {
            return Err(too_large(key, value));
        }
        let mut request = Request::put(path(key)?, value);
        if let Some((name, value)) = condition {
            request = request.with(name, value);
        }
        match self.client.send(&request) {
            Ok(response) => response.truth(),
            Err(Error::Status { code: 413, .. }) => Err(too_large(key, value)),
            Err(error) => Err(error),
        }
    }
}

fn too_large(key: &str, value: &[u8]) -> Error {
    Error::ValueTooLarge { key: key.to_owned(), size: value.len(), limit: VALUE_LIMIT }
}

fn session_gone(error: Error, session: &str) -> Error {
    match error {
        Error::Status { ref body, .. } if body.contains("invalid session") => {
            Error::SessionGone { session: session.to_owned() }
        }
        other => other,
    }
}

/// Returns the path of one key.
fn path(key: &str) -> Result<String, Error> {
    if key.is_empty() {
        return Err(Error::Key { key: String::new(), reason: "it is empty" });
    }
    prefix_path(key)
}

/// Returns the path of a key or prefix, refusing what would reach the agent as another one: its
/// HTTP server takes `//`, `.` and `..` out of paths, encoded or not.
fn prefix_path(key: &str) -> Result<String, Error> {
    let refuse = |reason| Err(Error::Key { key: key.to_owned(), reason });
    if key.starts_with('/') {
        return refuse("it starts with a slash");
    }
    if key.contains("//") {
        return refuse("it holds an empty part (//)");
    }
    if key.split('/').any(|part| part == "." || part == "..") {
        return refuse("it holds a part that is . or ..");
    }
    let mut path = String::from("kv/");
    for (n, part) in key.split('/').enumerate() {
        if n > 0 {
            path.push('/');
        }
        path.push_str(&encode(part));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_part_by_part() {
        assert_eq!(path("a/b c?d#e%2F/ü").unwrap(), "kv/a/b%20c%3Fd%23e%252F/%C3%BC");
        assert_eq!(path("a/").unwrap(), "kv/a/");
        assert_eq!(prefix_path("").unwrap(), "kv/");
        for key in ["", "/a", "a//b", "a/../b", ".", "a/."] {
            assert!(matches!(path(key), Err(Error::Key { .. })), "{key:?}");
        }
    }
}
