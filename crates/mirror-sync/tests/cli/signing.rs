//! Digests, signatures and packed forms, as upstreams make them.

use std::fmt::Write as _;

use pgp::composed::{ArmorOptions, CleartextSignedMessage, Deserializable, DetachedSignature, SignedSecretKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::types::{KeyDetails as _, Password, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::support::Site;

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Signs as the key of a site's `keygen`: detached, or in the cleartext framework.
pub(crate) fn sign(site: &Site, key: &str, content: &str, detached: bool) -> Vec<u8> {
    let armored = std::fs::read(site.path(key)).expect("keygen made it");
    let (key, _) = SignedSecretKey::from_reader_single(&armored[..]).expect("a key");
    let kind = if detached { SignatureType::Binary } else { SignatureType::Text };
    let mut config = SignatureConfig::v4(kind, key.primary_key.algorithm(), HashAlgorithm::Sha512);
    config.hashed_subpackets = vec![
        Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::now())).expect("small"),
        Subpacket::regular(SubpacketData::IssuerFingerprint(key.primary_key.fingerprint())).expect("small"),
    ];
    config.unhashed_subpackets =
        vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.primary_key.legacy_key_id())).expect("small")];
    let (key, none) = (&key.primary_key, Password::empty());
    if detached {
        let signature = config.sign(key, &none, content.as_bytes()).expect("signs");
        DetachedSignature::new(signature).to_armored_bytes(ArmorOptions::default()).expect("armours")
    } else {
        let message = CleartextSignedMessage::new(content, config, key, &none).expect("signs");
        message.to_armored_bytes(ArmorOptions::default()).expect("armours")
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
}
