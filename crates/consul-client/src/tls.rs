//! TLS settings for ureq, from files.

use std::path::Path;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::Error;
use crate::config::{Tls, read_file};

/// Where distributions keep the authorities that the system trusts.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

pub(crate) fn build(tls: &Tls) -> Result<TlsConfig, Error> {
    let mut builder = TlsConfig::builder().disable_verification(!tls.verify);
    if tls.verify {
        builder = builder.root_certs(roots(tls)?);
    }
    builder = match (&tls.client_cert, &tls.client_key) {
        (None, None) => builder,
        (Some(cert), Some(key)) => builder.client_cert(Some(client_cert(cert, key)?)),
        (Some(_), None) => {
            return Err(Error::Config {
                setting: "client certificate".to_owned(),
                reason: "its key is missing (CONSUL_CLIENT_KEY)".to_owned(),
            });
        }
        (None, Some(_)) => {
            return Err(Error::Config {
                setting: "client key".to_owned(),
                reason: "its certificate is missing (CONSUL_CLIENT_CERT)".to_owned(),
            });
        }
    };
    Ok(builder.build())
}

fn roots(tls: &Tls) -> Result<RootCerts, Error> {
    if let Some(path) = &tls.ca_file {
        return Ok(RootCerts::from(certificates("CA file", path)?));
    }
    if let Some(dir) = &tls.ca_path {
        return Ok(RootCerts::from(directory(dir)?));
    }
    for bundle in SYSTEM_BUNDLES {
        let path = Path::new(bundle);
        if path.exists() {
            return Ok(RootCerts::from(certificates("system's CA file", path)?));
        }
    }
    Ok(RootCerts::WebPki)
}

fn directory(dir: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let fail = |reason: String| Error::File { setting: "CA directory".to_owned(), path: dir.to_owned(), reason };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| fail(e.to_string()))? {
        let path = entry.map_err(|e| fail(e.to_string()))?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        all.extend(certificates("CA directory", &path)?);
    }
    if all.is_empty() {
        return Err(fail("it holds no certificate".to_owned()));
    }
    Ok(all)
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let mut found = Vec::new();
    for item in items(setting, path)? {
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(no_pem(setting, path, "it holds no PEM certificate"));
    }
    Ok(found)
}

fn client_cert(cert: &Path, key: &Path) -> Result<ClientCert, Error> {
    let chain = certificates("client certificate", cert)?;
    let key: PrivateKey<'static> = items("client key", key)?
        .into_iter()
        .find_map(|item| match item {
            PemItem::PrivateKey(key) => Some(key),
            _ => None,
        })
        .ok_or_else(|| no_pem("client key", key, "it holds no PEM private key"))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn items(setting: &str, path: &Path) -> Result<Vec<PemItem<'static>>, Error> {
    let bytes = read_file(setting, path)?;
    parse_pem(&bytes).collect::<Result<Vec<_>, _>>().map_err(|_| no_pem(setting, path, "it is not valid PEM"))
}

fn no_pem(setting: &str, path: &Path, reason: &str) -> Error {
    Error::File { setting: setting.to_owned(), path: path.to_owned(), reason: reason.to_owned() }
}
