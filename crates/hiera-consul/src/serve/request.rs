//! Requests, and what may stand in them.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::consul::Level;
use crate::error::Error;
use crate::value::{Hash, Value};

const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// A request, its fields taken one by one so that an unknown one is noticed.
pub(super) struct Request {
    pub(super) fields: Map<String, Json>,
}

impl Request {
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.fields.remove(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(Error::data(format!("field '{name}' must be a string that is not empty"))),
        }
    }

    pub(super) fn required(&mut self, name: &str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| Error::data(format!("field '{name}' is missing")))
    }

    pub(super) fn flag(&mut self, name: &str, missing: bool) -> Result<bool, Error> {
        match self.fields.remove(name) {
            None | Some(Json::Null) => Ok(missing),
            Some(Json::Bool(on)) => Ok(on),
            Some(_) => Err(Error::data(format!("field '{name}' must be true or false"))),
        }
    }

    /// The timeout: seconds, or a text such as `2m`.
    pub(super) fn timeout(&mut self) -> Result<Duration, Error> {
        let bad = || Error::data("field 'timeout' must be seconds or a text such as \"2m\", at most a day");
        let timeout = match self.fields.remove("timeout") {
            Some(Json::Number(n)) => n.as_f64().and_then(|n| Duration::try_from_secs_f64(n).ok()).ok_or_else(bad)?,
            Some(Json::String(text)) => toolkit::duration::parse(&text).map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        if timeout > LONGEST_WAIT { Err(bad()) } else { Ok(timeout) }
    }

    /// The options of a level.
    pub(super) fn options(&mut self) -> Result<Hash, Error> {
        self.hash("options")
    }

    pub(super) fn hash(&mut self, name: &str) -> Result<Hash, Error> {
        match self.fields.remove(name).map(Value::from_json) {
            None | Some(Value::Null) => Ok(Hash::new()),
            Some(Value::Hash(hash)) => Ok(hash),
            Some(_) => Err(Error::data(format!("field '{name}' must be an object"))),
        }
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let bad = || Error::data(format!("field '{name}' must be a list of strings"));
        match self.fields.remove(name) {
            Some(Json::Array(list)) => {
                list.into_iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(bad)).collect()
            }
            _ => Err(bad()),
        }
    }

    /// The options of levels that will be asked too. They are a hint: what is wrong with one is said when
    /// it is asked.
    pub(super) fn with(&mut self) -> Result<Vec<Level>, Error> {
        match self.fields.remove("with") {
            None | Some(Json::Null) => Ok(Vec::new()),
            Some(Json::Array(list)) => Ok(list
                .into_iter()
                .filter_map(|options| match Value::from_json(options) {
                    Value::Hash(options) => Level::from_options(&options).ok(),
                    _ => None,
                })
                .collect()),
            Some(_) => Err(Error::data("field 'with' must be a list")),
        }
    }

    pub(super) fn done(&self) -> Result<(), Error> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::data(format!("field '{name}' is not known to this request"))),
        }
    }
}
