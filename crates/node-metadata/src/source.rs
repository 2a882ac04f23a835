//! Where metadata comes from, in order: cloud-init's instance data, the config drive, the metadata
//! service, the local file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use toolkit::dirs::under_root;
use toolkit::{Io, files, redact};

use crate::cache;
use crate::cli;
use crate::error::Error;
use crate::service::{self, Answer, Patience};

/// What cloud-init leaves for others to read.
pub const INSTANCE_DATA: &str = "/run/cloud-init/instance-data.json";
/// Where bootstrap mounts the config drive.
pub const CONFIG_DRIVE: &str = "/mnt/config";
/// What an operator or an image without a cloud provides.
pub const LOCAL_FILE: &str = "/etc/stacktira/metadata.json";
/// Where the answer is kept.
pub const CACHE: &str = "/run/stacktira/meta_data.json";
/// How many bytes a source may have; instance data quotes the user data.
pub const LIMIT: u64 = 4 << 20;

/// All places that are looked at.
#[derive(Debug)]
pub struct Sources {
    instance_data: PathBuf,
    config_drive: PathBuf,
    url: String,
    local_file: PathBuf,
    cache: PathBuf,
    refresh: bool,
    timeout: Duration,
}

impl Sources {
    /// Builds the places from the command line and the environment.
    ///
    /// # Errors
    /// `STACKTIRA_METADATA_URL` is no address.
    pub fn from_env(from: &cli::From) -> Result<Sources, Error> {
        let base = std::env::var("STACKTIRA_METADATA_URL").ok().filter(|url| !url.is_empty());
        let drive = from.config_drive.clone().unwrap_or_else(|| under_root(CONFIG_DRIVE.as_ref()));
        Ok(Sources {
            instance_data: under_root(INSTANCE_DATA.as_ref()),
            config_drive: drive.join("openstack/latest/meta_data.json"),
            url: service::document_url(base.as_deref().unwrap_or(service::DEFAULT_URL))?,
            local_file: under_root(LOCAL_FILE.as_ref()),
            cache: under_root(CACHE.as_ref()),
            refresh: from.refresh,
            timeout: from.timeout,
        })
    }

    /// Returns the metadata: what was kept, or what the first source says that is there.
    ///
    /// # Errors
    /// No source is there, or the first one is broken or may not be read.
    pub fn metadata(&self, io: &mut Io) -> Result<Value, Error> {
        if !self.refresh {
            let files = [self.instance_data.as_path(), &self.config_drive, &self.local_file];
            if let Some(kept) = cache::load(&self.cache, &files, io) {
                io.detail(format_args!("metadata from {}", self.cache.display()));
                return Ok(kept);
            }
        }
        let asked_at = SystemTime::now();
        let metadata = self.fetch(io)?;
        cache::store(&self.cache, &metadata, asked_at, io);
        Ok(metadata)
    }

    fn fetch(&self, io: &mut Io) -> Result<Value, Error> {
        if let Some(metadata) = read(&self.instance_data)?.and_then(from_instance_data) {
            io.detail(format_args!("metadata from {}", self.instance_data.display()));
            return Ok(metadata);
        }
        if let Some(metadata) = read(&self.config_drive)? {
            io.detail(format_args!("metadata from {}", self.config_drive.display()));
            return Ok(metadata);
        }
        let local = read(&self.local_file)?;
        let patience = match local {
            Some(_) => Patience::Once,
            None => Patience::Until(Instant::now() + self.timeout),
        };
        let shown = redact::url(&self.url);
        let failure = match service::ask(&self.url, patience, io)? {
            Answer::Document(bytes) => {
                io.detail(format_args!("metadata from {shown}"));
                return crate::object(&bytes, &shown);
            }
            Answer::None { status } => Error::Nowhere { url: shown, status },
            Answer::Silent { attempts, reason } => Error::Unreachable { url: shown, attempts, reason },
        };
        match local {
            Some(metadata) => {
                io.detail(format_args!("metadata from {}", self.local_file.display()));
                Ok(metadata)
            }
            None => Err(failure),
        }
    }
}

/// Reads a file as a JSON object; `None` when it is not there.
fn read(path: &Path) -> Result<Option<Value>, Error> {
    match files::read_given(path, LIMIT) {
        Ok(bytes) => crate::object(&bytes, &path.display().to_string()).map(Some),
        Err(source) => match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
            ErrorKind::FileTooLarge => Err(Error::TooLarge { place: path.display().to_string(), limit: LIMIT }),
            _ => Err(Error::Read { path: path.to_owned(), source }),
        },
    }
}

/// Returns the metadata inside cloud-init's instance data, if there is more in it than cloud-init's own.
///
/// On a machine without a cloud, cloud-init runs with its `NoCloud` or `None` source and knows only the names that it
/// made up itself; such a file says nothing, and the next source is asked.
fn from_instance_data(mut data: Value) -> Option<Value> {
    const MADE_UP: [&str; 7] =
        ["dsmode", "hostname", "instance-id", "instance_id", "local-hostname", "local_hostname", "network-interfaces"];
    let metadata = data.get_mut("ds")?.get_mut("meta_data")?.take();
    let told = metadata.as_object()?.keys().any(|key| !MADE_UP.contains(&key.as_str()));
    told.then_some(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn instance_data_without_a_cloud_says_nothing() {
        let nothing = json!({"ds": {"meta_data": {"instance-id": "i-1", "local-hostname": "web", "dsmode": "local"}}});
        assert_eq!(from_instance_data(nothing), None);
        assert_eq!(from_instance_data(json!({"v1": {}})), None);
        assert_eq!(from_instance_data(json!({"ds": {"meta_data": []}})), None);
        let cloud = json!({"ds": {"meta_data": {"instance-id": "i-1", "meta": {"role": "proxy"}}}});
        assert_eq!(from_instance_data(cloud), Some(json!({"instance-id": "i-1", "meta": {"role": "proxy"}})));
    }
}
