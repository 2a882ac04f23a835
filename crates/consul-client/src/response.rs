//! What an agent answered, and whether it may be believed.
//!
//! Everything above this module sees only answers that a cluster with a leader gave; everything
//! else became an [`Error`] here.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::HeaderMap;

use crate::Error;
use crate::error::excerpt;
use crate::query::{Answer, Consistency, Meta};
use crate::request::Request;

/// Status, headers and body, not judged yet.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) status: u16,
    has_index: bool,
    meta: Meta,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(status: u16, headers: &HeaderMap, body: Vec<u8>) -> Raw {
        Raw { status, has_index: headers.contains_key("X-Consul-Index"), meta: meta(headers), body }
    }

    /// Returns whether the agent says that it runs without ACLs.
    pub(crate) fn acl_disabled(&self) -> bool {
        self.status == 401 && contains(&self.body, "ACL support disabled")
    }

    /// Tells an answer that may be believed from everything else.
    pub(crate) fn judge(self, address: &str, request: &Request<'_>) -> Result<Response, Error> {
        let Raw { status, has_index, meta, body } = self;
        let response =
            Response { address: address.to_owned(), request: request.to_string(), meta, found: status == 200, body };
        let absent = status == 404 && has_index;
        if status != 200 && !absent {
            return Err(response.unexpected(status));
        }
        if !meta.known_leader && request.consistency != Consistency::Stale {
            return Err(Error::NoLeader {
                address: response.address,
                request: response.request,
                detail: "the answering server knows no leader".to_owned(),
            });
        }
        if meta.filtered_by_acl && !request.allow_filtered {
            return Err(Error::Filtered { request: response.request });
        }
        Ok(response)
    }

    pub(crate) fn into_error(self, address: &str, request: &Request<'_>) -> Error {
        let status = self.status;
        Response {
            address: address.to_owned(),
            request: request.to_string(),
            meta: self.meta,
            found: false,
            body: self.body,
        }
        .unexpected(status)
    }
}

/// An answer that may be believed: a 200, or a 404 of the store itself.
#[derive(Debug)]
pub(crate) struct Response {
    address: String,
    request: String,
    pub(crate) meta: Meta,
    pub(crate) found: bool,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|e| self.malformed(&e.to_string()))
    }

    pub(crate) fn malformed(&self, detail: &str) -> Error {
        Error::Body {
            address: self.address.clone(),
            request: self.request.clone(),
            detail: format!("{detail} ({})", excerpt(&self.body)),
        }
    }

    pub(crate) fn answer<T: DeserializeOwned>(self) -> Result<Answer<T>, Error> {
        Ok(Answer { value: self.json()?, meta: self.meta })
    }

    pub(crate) fn optional_answer<T: DeserializeOwned>(self) -> Result<Answer<Option<T>>, Error> {
        let value = if self.found { Some(self.json()?) } else { None };
        Ok(Answer { value, meta: self.meta })
    }

    /// Reads a body that is `true` or `false`.
    pub(crate) fn truth(&self) -> Result<bool, Error> {
        self.json()
    }

    /// Judges a status that does not carry an answer.
    pub(crate) fn unexpected(self, code: u16) -> Error {
        let Response { address, request, body, .. } = self;
        let detail = excerpt(&body);
        let has = |text: &str| contains(&body, text);
        // Agents pass refusals of servers on as 500 in places.
        if matches!(code, 401 | 403) || has("Permission denied") || has("ACL not found") {
            return Error::Denied { what: request, detail };
        }
        let away = [
            "No cluster leader",
            "No known Consul servers",
            "No path to datacenter",
            "rpc error",
            "leadership lost",
            "leadership transfer",
            "failed to get conn",
            "not ready to serve",
            "raft is already shutdown",
        ];
        if code >= 500 && away.iter().any(|text| has(text)) {
            return Error::NoLeader { address, request, detail };
        }
        Error::Status { address, request, code, body: detail }
    }
}

fn contains(body: &[u8], text: &str) -> bool {
    // Messages are short; what a proxy sends need not be searched to its end.
    body[..body.len().min(4096)].windows(text.len()).any(|part| part == text.as_bytes())
}

fn meta(headers: &HeaderMap) -> Meta {
    let number =
        |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse::<u64>().ok());
    let flag =
        |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(|v| v.trim().eq_ignore_ascii_case("true"));
    Meta {
        index: number("X-Consul-Index").unwrap_or(0),
        known_leader: flag("X-Consul-KnownLeader").unwrap_or(true),
        last_contact: Duration::from_millis(number("X-Consul-LastContact").unwrap_or(0)),
        filtered_by_acl: flag("X-Consul-Results-Filtered-By-ACLs").unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;
    use crate::query::Query;

    fn judged(status: u16, headers: &[(&'static str, &'static str)], body: &str, query: &Query) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let request = Request::get("kv/a").query(query);
        match Raw::new(status, &map, body.as_bytes().to_vec()).judge("http://c:8500", &request) {
            Ok(response) => if response.found { "found" } else { "absent" }.to_owned(),
            Err(error) => format!("{error:?}").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn only_the_store_itself_says_that_something_is_absent() {
        let index = ("X-Consul-Index", "7");
        let leaderless = ("X-Consul-KnownLeader", "false");
        let filtered = ("X-Consul-Results-Filtered-By-ACLs", "true");
        let plain = Query::default();
        for (status, headers, body, is) in [
            (200, &[index][..], "[]", "found"),
            (404, &[index], "", "absent"),
            (404, &[], "404 page not found", "Status"),
            (403, &[index], "Permission denied", "Denied"),
            (500, &[], "rpc error making call: Permission denied", "Denied"),
            (500, &[], "rpc error making call: EOF", "NoLeader"),
            (500, &[], "No cluster leader", "NoLeader"),
            (404, &[], "No cluster leader", "Status"),
            (502, &[], "<html>", "Status"),
            (200, &[index, leaderless], "[]", "NoLeader"),
            (404, &[index, leaderless], "", "NoLeader"),
            (200, &[index, filtered], "[]", "Filtered"),
        ] {
            assert_eq!(judged(status, headers, body, &plain), is, "{status} {headers:?} {body}");
        }
        let stale = Query { consistency: Consistency::Stale, ..Query::default() };
        assert_eq!(judged(200, &[index, leaderless], "[]", &stale), "found");
        let allowed = Query { allow_filtered: true, ..Query::default() };
        assert_eq!(judged(200, &[index, filtered], "[]", &allowed), "found");
    }
}
