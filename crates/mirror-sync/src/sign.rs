//! OpenPGP: the site's key pair, cleartext and detached signatures, and their verification.
//!
//! Keys are Ed25519 in the version 4 format, which every gpgv that apt and dnf call today understands;
//! signatures use SHA-512. Verification accepts signatures by the primary key or by a subkey that may
//! sign, made with SHA-256 or stronger, and only from certificates whose own bindings hold.

use std::io::Cursor;
use std::path::Path;

use base64::Engine as _;
use nix::sys::stat::Mode;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, Deserializable, DetachedSignature, EncryptionCaps, KeyType,
    SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails as _, Password, Timestamp};

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files::{self, under_root_if_there};

/// Largest key file that is read.
const MAX_KEY: u64 = 4 << 20;

/// Makes a key pair without a passphrase.
///
/// # Errors
/// [`Error::Bug`] when the parameters are refused.
pub(crate) fn generate(user_id: &str) -> Result<SigningKey> {
    let bug = |error: &dyn std::fmt::Display| Error::Bug(format!("key generation: {error}"));
    let parameters = SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .can_encrypt(EncryptionCaps::None)
        .primary_user_id(user_id.to_owned())
        .preferred_hash_algorithms([HashAlgorithm::Sha512, HashAlgorithm::Sha256].into_iter().collect())
        .build()
        .map_err(|error| bug(&error))?;
    let key = parameters.generate(rand::thread_rng()).map_err(|error| bug(&error))?;
    Ok(SigningKey(key))
}

/// The site's secret key.
pub(crate) struct SigningKey(SignedSecretKey);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.fingerprint())
    }
}

impl SigningKey {
    /// Reads the armoured secret key; a file that others may read is refused.
    ///
    /// # Errors
    /// [`Error::Denied`] or [`Error::Key`].
    pub(crate) fn load(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let bad = |message: String| Error::Key { path: path.to_owned(), message };
        let metadata = std::fs::metadata(path).map_err(|error| bad(format!("cannot read the signing key: {error}")))?;
        if metadata.mode() & (Mode::S_IRWXG | Mode::S_IRWXO).bits() != 0 {
            return Err(Error::Denied {
                path: path.to_owned(),
                message: format!(
                    "the signing key is open to others (mode {:04o}); chmod 600 it",
                    metadata.mode() & 0o7777
                ),
            });
        }
        let bytes = files::read_bounded(path, MAX_KEY).map_err(|error| bad(error.to_string()))?;
        let (key, _) = SignedSecretKey::from_reader_single(Cursor::new(bytes))
            .map_err(|error| bad(format!("not an OpenPGP secret key: {error}")))?;
        let key = Self(key);
        key.detached(b"probe").map_err(|_| bad("cannot sign with this key (has it a passphrase?)".into()))?;
        Ok(key)
    }

    /// Returns the fingerprint in hex.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:X}", self.0.fingerprint())
    }

    /// Returns the secret key, armoured.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn secret_armored(&self) -> Result<Vec<u8>> {
        self.0.to_armored_bytes(ArmorOptions::default()).map_err(bug)
    }

    /// Returns the public key: armoured, or in the binary form that apt wants in a `.gpg` file.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn public(&self, armored: bool) -> Result<Vec<u8>> {
        let public = self.0.to_public_key();
        if armored {
            public.to_armored_bytes(ArmorOptions::default()).map_err(bug)
        } else {
            public.to_bytes().map_err(bug)
        }
    }

    /// Returns the keyring that verifies what this key signs.
    pub(crate) fn keyring(&self) -> Keyring {
        Keyring(vec![self.0.to_public_key()])
    }

    /// Signs text in the cleartext framework (`InRelease`).
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn cleartext(&self, text: &str) -> Result<Vec<u8>> {
        let config = self.config(SignatureType::Text)?;
        CleartextSignedMessage::new(text, config, &self.0.primary_key, &Password::empty())
            .and_then(|message| message.to_armored_bytes(ArmorOptions::default()))
            .map_err(bug)
    }

    /// Makes an armoured detached signature over bytes.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn detached(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let config = self.config(SignatureType::Binary)?;
        config
            .sign(&self.0.primary_key, &Password::empty(), bytes)
            .and_then(|signature| DetachedSignature::new(signature).to_armored_bytes(ArmorOptions::default()))
            .map_err(bug)
    }

    fn config(&self, kind: SignatureType) -> Result<SignatureConfig> {
        let key = &self.0.primary_key;
        let mut config = SignatureConfig::v4(kind, key.algorithm(), HashAlgorithm::Sha512);
        config.hashed_subpackets = vec![
            Subpacket::regular(SubpacketData::SignatureCreationTime(Timestamp::now())).map_err(bug)?,
            Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint())).map_err(bug)?,
        ];
        config.unhashed_subpackets =
            vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id())).map_err(bug)?];
        Ok(config)
    }
}

fn bug(error: pgp::errors::Error) -> Error {
    Error::Bug(format!("OpenPGP: {error}"))
}

/// Public keys that are trusted.
#[derive(Debug)]
pub(crate) struct Keyring(Vec<SignedPublicKey>);

impl Keyring {
    /// Reads public keys, armoured or binary.
    ///
    /// # Errors
    /// [`Error::Key`] when a key in it cannot be used.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let bad = |message: String| Error::Key { path: path.to_owned(), message };
        Self::from_bytes(&read(path)?).map_err(bad)
    }

    /// Returns the keys that a mirror's own snapshots are verified with: the public half of `signing_key:`, or where
    /// there is none `node.keyring`.
    ///
    /// # Errors
    /// [`Error::Config`] when there is neither; those of reading them.
    pub(crate) fn of_site(config: &Config) -> Result<Self> {
        match (config.own_key(), config.node()) {
            (Some(path), _) => Ok(SigningKey::load(path)?.keyring()),
            (None, Ok(node)) => Self::load(&under_root_if_there(&node.keyring)),
            (None, Err(_)) => Err(Error::Config {
                path: config.path().to_owned(),
                message: "neither signing_key nor node.keyring is there, and snapshots are verified with them".into(),
                hint: Some("name the site's public keys as node.keyring; `import` takes --keyring".into()),
            }),
        }
    }

    /// As [`Keyring::load`], of keys in memory.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let keys = parse(bytes)?;
        for key in &keys {
            usable(key).map_err(|why| format!("key {:X}: {why}", key.fingerprint()))?;
        }
        Ok(Self(keys))
    }

    /// Reads the usable keys of somebody else's keyring, only those with one of the fingerprints if there
    /// are any; also returns the digest of the file.
    ///
    /// # Errors
    /// [`Error::Key`] when no key is left, or one that is named is not in it.
    pub(crate) fn restricted(path: &Path, fingerprints: &[String]) -> Result<(Self, Digest)> {
        let bad = |message: String| Error::Key { path: path.to_owned(), message };
        let bytes = read(path)?;
        let mut keys = parse(&bytes).map_err(bad)?;
        if !fingerprints.is_empty() {
            let accepted: Vec<String> =
                fingerprints.iter().map(|text| text.split_whitespace().collect::<String>().to_uppercase()).collect();
            let of = |key: &SignedPublicKey| format!("{:X}", key.fingerprint());
            if let Some(lost) = accepted.iter().find(|fingerprint| !keys.iter().any(|key| of(key) == **fingerprint)) {
                return Err(bad(format!("the key {lost} is not in it")));
            }
            keys.retain(|key| accepted.contains(&of(key)));
        }
        let mut last = String::new();
        keys.retain(|key| usable(key).map_err(|why| last = format!("{:X}: {why}", key.fingerprint())).is_ok());
        if keys.is_empty() {
            return Err(bad(format!("no usable key in it ({last})")));
        }
        Ok((Self(keys), Digest::of(&bytes)))
    }

    /// Returns the keys as one armoured block.
    ///
    /// # Errors
    /// [`Error::Bug`].
    pub(crate) fn armored(&self) -> Result<String> {
        let mut bytes = Vec::new();
        for key in &self.0 {
            bytes.extend(key.to_bytes().map_err(bug)?);
        }
        Ok(armor(&bytes))
    }

    /// Returns each key's fingerprint and first user id.
    pub(crate) fn described(&self) -> Vec<(String, String)> {
        let user = |key: &SignedPublicKey| {
            key.details
                .users
                .first()
                .map_or_else(String::new, |user| String::from_utf8_lossy(user.id.id()).into_owned())
        };
        self.0.iter().map(|key| (format!("{:X}", key.fingerprint()), user(key))).collect()
    }

    /// Checks a detached signature, armoured or binary; returns the fingerprint of the key that made it.
    ///
    /// # Errors
    /// Why none of the signatures is acceptable.
    pub(crate) fn verify_detached(&self, bytes: &[u8], signature: &[u8]) -> std::result::Result<String, String> {
        let (signatures, _) = DetachedSignature::from_reader_many(Cursor::new(signature))
            .map_err(|error| format!("not a signature: {error}"))?;
        for signature in signatures.take(16) {
            let signature = signature.map_err(|error| format!("not a signature: {error}"))?.signature;
            if signature.typ() == Some(SignatureType::Binary)
                && let Some(key) = self.signer(&signature, bytes)
            {
                return Ok(format!("{:X}", key.fingerprint()));
            }
        }
        Err("no valid signature by a trusted key".into())
    }

    /// Checks a cleartext-signed message and returns its text with LF line ends.
    ///
    /// # Errors
    /// Why it is not acceptable.
    pub(crate) fn verify_cleartext(&self, message: &[u8]) -> std::result::Result<String, String> {
        let text = std::str::from_utf8(message).map_err(|_| "not text".to_owned())?;
        let (message, _) =
            CleartextSignedMessage::from_string(text).map_err(|error| format!("not a signed message: {error}"))?;
        let signed = message.signed_text();
        let fine = message.signatures().iter().take(16).any(|signature| {
            signature.typ() == Some(SignatureType::Text) && self.signer(signature, signed.as_bytes()).is_some()
        });
        if fine { Ok(signed.replace("\r\n", "\n")) } else { Err("no valid signature by a trusted key".into()) }
    }

    /// Returns the key that made an acceptable signature.
    fn signer(&self, signature: &Signature, bytes: &[u8]) -> Option<&SignedPublicKey> {
        let strong =
            matches!(signature.hash_alg(), Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512));
        if !strong || expired(signature) {
            return None;
        }
        self.0.iter().find(|key| {
            signature.verify(&key.primary_key, bytes).is_ok()
                || key.public_subkeys.iter().any(|subkey| {
                    subkey.signatures.iter().any(|binding| binding.key_flags().sign())
                        && !subkey.signatures.iter().any(is_revocation)
                        && !outlived(subkey.key.created_at(), subkey.signatures.iter())
                        && signature.verify(&subkey.key, bytes).is_ok()
                })
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read_bounded(path, MAX_KEY)
        .map_err(|error| Error::Key { path: path.to_owned(), message: format!("cannot read the keyring: {error}") })
}

/// Reads keys: binary, or armoured in one block or several.
fn parse(bytes: &[u8]) -> std::result::Result<Vec<SignedPublicKey>, String> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let not = |error: pgp::errors::Error| format!("not an OpenPGP keyring: {error}");
    let mut keys = Vec::new();
    let mut add = |block: &[u8]| -> std::result::Result<(), String> {
        let (found, _) = SignedPublicKey::from_reader_many(Cursor::new(block)).map_err(not)?;
        for key in found {
            keys.push(key.map_err(not)?);
        }
        Ok(())
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains(BEGIN) => {
            for block in text.split(BEGIN).skip(1) {
                add(format!("{BEGIN}{block}").as_bytes())?;
            }
        }
        _ => add(bytes)?,
    }
    if keys.is_empty() { Err("no key in it".into()) } else { Ok(keys) }
}

/// Writes public keys as one armoured block.
fn armor(keys: &[u8]) -> String {
    let mut crc: u32 = 0x00B7_04CE;
    for byte in keys {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= 0x0186_4CFB;
            }
        }
    }
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut text = String::from("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n");
    for line in keys.chunks(48) {
        text.push_str(&encode(line));
        text.push('\n');
    }
    text.push_str(&format!("={}\n-----END PGP PUBLIC KEY BLOCK-----\n", encode(&crc.to_be_bytes()[1..])));
    text
}

/// Whether a key's own signatures hold, and it is neither revoked nor expired.
fn usable(key: &SignedPublicKey) -> std::result::Result<(), String> {
    key.verify_bindings().map_err(|error| format!("its own signatures are wrong: {error}"))?;
    if !key.details.revocation_signatures.is_empty() {
        return Err("it is revoked".into());
    }
    let own = key.details.users.iter().flat_map(|user| user.signatures.iter()).chain(&key.details.direct_signatures);
    if outlived(key.created_at(), own) {
        return Err("it has expired".into());
    }
    Ok(())
}

fn is_revocation(signature: &Signature) -> bool {
    matches!(signature.typ(), Some(SignatureType::KeyRevocation | SignatureType::SubkeyRevocation))
}

/// Whether the newest of a key's own signatures says that its time is over.
fn outlived<'a>(created: Timestamp, signatures: impl Iterator<Item = &'a Signature>) -> bool {
    let newest = signatures.max_by_key(|signature| signature.created().map(Timestamp::as_secs));
    let lifetime = newest.and_then(Signature::key_expiration_time).map_or(0, |time| u64::from(time.as_secs()));
    lifetime > 0 && u64::from(created.as_secs()) + lifetime < files::now()
}

/// Whether a signature's own time is over.
fn expired(signature: &Signature) -> bool {
    let lifetime = signature.signature_expiration_time().map_or(0, |time| u64::from(time.as_secs()));
    let created = signature.created().map_or(0, |time| u64::from(time.as_secs()));
    lifetime > 0 && created + lifetime < files::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_key_signs_another_does_not_verify() {
        let (ours, other) = (generate("ours").expect("made"), generate("other").expect("made"));
        let signature = ours.detached(b"text").expect("signs");
        assert!(ours.keyring().verify_detached(b"text", &signature).is_ok());
        assert!(ours.keyring().verify_detached(b"texT", &signature).is_err());
        assert!(other.keyring().verify_detached(b"text", &signature).is_err());
        assert!(ours.keyring().verify_detached(b"text", b"").is_err());
    }

    #[test]
    fn signed_text_comes_back_as_it_was() {
        let key = generate("site").expect("made");
        let text = "Origin: x\nSHA256:\n 00 1 - dash\n- first\n";
        let message = key.cleartext(text).expect("signs");
        assert_eq!(key.keyring().verify_cleartext(&message).expect("verifies"), text);
        let forged = String::from_utf8(message.clone()).expect("text").replace("Origin: x", "Origin: y");
        assert!(key.keyring().verify_cleartext(forged.as_bytes()).is_err());
        let mut prefixed = b"Origin: evil\n".to_vec();
        prefixed.extend(&message);
        assert!(key.keyring().verify_cleartext(&prefixed).is_err());
    }

    #[test]
    fn several_keys_are_one_block_and_a_fingerprint_chooses() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("keys.asc");
        let (one, two) = (generate("one").expect("made"), generate("two").expect("made"));
        let both = [one.public(true).expect("armours"), two.public(true).expect("armours")].concat();
        std::fs::write(&path, both).expect("writable");
        let (keyring, _) = Keyring::restricted(&path, &[]).expect("both");
        std::fs::write(&path, keyring.armored().expect("armours")).expect("writable");
        let (keyring, _) = Keyring::restricted(&path, &[]).expect("one block");
        assert_eq!(keyring.0.len(), 2);
        let signature = two.detached(b"text").expect("signs");
        assert!(keyring.verify_detached(b"text", &signature).is_ok());
        let (keyring, _) = Keyring::restricted(&path, &[one.fingerprint().to_lowercase()]).expect("there");
        assert!(keyring.verify_detached(b"text", &signature).is_err());
        assert!(Keyring::restricted(&path, &["0".repeat(40)]).is_err());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("site.sec.asc");
        std::fs::write(&path, generate("site").expect("made").secret_armored().expect("armours")).expect("writable");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
        assert!(matches!(SigningKey::load(&path), Err(Error::Denied { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
        assert!(SigningKey::load(&path).is_ok());
    }
}
