//! Keys that ask Consul's catalog for a service (`service_hash__TAG__SERVICE__PROPERTY`), and can never be answered.

/// Properties of a service's instance that the catalog's keys answer.
const PROPERTIES: [&str; 21] = [
    "ID",
    "Node",
    "Address",
    "Datacenter",
    "TaggedAddresses",
    "NodeMeta",
    "ServiceKind",
    "ServiceName",
    "ServiceTags",
    "ServiceAddress",
    "ServiceTaggedAddresses",
    "ServiceWeights",
    "ServiceMeta",
    "ServicePort",
    "ServiceSocketPath",
    "ServiceEnableTagOverride",
    "ServiceProxy",
    "ServiceConnect",
    "Namespace",
    "CreateIndex",
    "ModifyIndex",
];

/// Says what is wrong with a key of the catalog that can never be answered as meant.
pub(super) fn misspelt(key: &str) -> Option<String> {
    let rest = key.strip_prefix("service_hash_")?;
    let Some(rest) = rest.strip_prefix('_') else {
        return Some("two underscores stand after service_hash".to_owned());
    };
    let parts: Vec<&str> = rest.split('.').next().unwrap_or_default().split("__").collect();
    let property = |name: &str| PROPERTIES.contains(&name);
    match parts[..] {
        [] | [""] | ["", ..] => Some("the tag is missing".to_owned()),
        [_] => None,
        [tag, service] => {
            let (name, last) = service.rsplit_once('_')?;
            property(last).then(|| {
                format!(
                    "asks for a service '{service}', which is found and empty even when there is none; \
                     write service_hash__{tag}__{name}__{last}"
                )
            })
        }
        [_, _, "ServiceID", ..] => Some("ServiceID is never answered".to_owned()),
        [_, _, name, ..] if !property(name) => Some(format!("'{name}' is no property of a service in Consul")),
        [_, _, _] | [_, _, _, "array" | "hash"] => None,
        [_, _, _, last] => Some(format!("'{last}' is neither array nor hash: the key is never answered")),
        _ => Some("has more than four parts: the key is never answered".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_can_never_be_answered_are_found() {
        for key in [
            "service_hash_lb__mysql__Address",
            "service_hash__lb__mysql_Address",
            "service_hash__lb__mysql__Adress",
            "service_hash__lb__mysql__ServiceID",
            "service_hash__lb__mysql__Address__list",
            "service_hash__lb__mysql__Address__array__x",
            "service_hash__",
        ] {
            assert!(misspelt(key).is_some(), "{key}");
        }
        for key in [
            "service_hash",
            "service_hash__lb",
            "service_hash__lb__web_front",
            "service_hash__haproxy::balanced__mysql__Address",
            "service_hash__lb__mysql__Address__array",
            "service_hashes",
            "other",
        ] {
            assert_eq!(misspelt(key), None, "{key}");
        }
    }
}
