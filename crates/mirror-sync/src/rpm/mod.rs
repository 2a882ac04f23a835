//! RPM packages and their repositories: headers, versions, XML, metadata.

pub(crate) mod describe;
pub(crate) mod elements;
pub(crate) mod header;
pub(crate) mod metadata;
pub(crate) mod package;
pub(crate) mod version;
pub(crate) mod xml;
