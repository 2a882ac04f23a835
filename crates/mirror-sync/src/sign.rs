//! OpenPGP: the site's key pair, cleartext and detached signatures, and their verification.
//!
//! Keys are Ed25519 in the version 4 format, which every gpgv that apt and dnf call today understands;
//! signatures use SHA-512. Verification accepts signatures by the primary key or by a subkey that may
//! sign, made with SHA-256 or stronger, and only from certificates whose own bindings hold.

use std::io::Cursor;
use std::path::Path;

use nix::sys::stat::Mode;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, Deserializable, DetachedSignature, EncryptionCaps, KeyType,
    SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails as _, Password, Timestamp};

use crate::error::{Error, Result};
use crate::files;

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
    /// [`Error::Key`].
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let bad = |message: String| Error::Key { path: path.to_owned(), message };
        let bytes =
            files::read_bounded(path, MAX_KEY).map_err(|error| bad(format!("cannot read the keyring: {error}")))?;
        let (keys, _) = SignedPublicKey::from_reader_many(Cursor::new(bytes))
            .map_err(|error| bad(format!("not an OpenPGP keyring: {error}")))?;
        let keys = keys
            .collect::<pgp::errors::Result<Vec<_>>>()
            .map_err(|error| bad(format!("not an OpenPGP keyring: {error}")))?;
        if keys.is_empty() {
            return Err(bad("no key in it".into()));
        }
        for key in &keys {
            key.verify_bindings().map_err(|error| bad(format!("a key's own signatures are wrong: {error}")))?;
        }
        Ok(Self(keys))
    }

    /// Checks an armoured detached signature.
    ///
    /// # Errors
    /// Why none of the signatures is acceptable.
    pub(crate) fn verify_detached(&self, bytes: &[u8], signature: &[u8]) -> std::result::Result<(), String> {
        let (signatures, _) =
            DetachedSignature::from_armor_many(signature).map_err(|error| format!("not a signature: {error}"))?;
        for signature in signatures.take(16) {
            let signature = signature.map_err(|error| format!("not a signature: {error}"))?.signature;
            if signature.typ() == Some(SignatureType::Binary) && self.accepts(&signature, bytes) {
                return Ok(());
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
            signature.typ() == Some(SignatureType::Text) && self.accepts(signature, signed.as_bytes())
        });
        if fine { Ok(signed.replace("\r\n", "\n")) } else { Err("no valid signature by a trusted key".into()) }
    }

    fn accepts(&self, signature: &Signature, bytes: &[u8]) -> bool {
        let strong =
            matches!(signature.hash_alg(), Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512));
        strong
            && self.0.iter().any(|key| {
                signature.verify(&key.primary_key, bytes).is_ok()
                    || key.public_subkeys.iter().any(|subkey| {
                        subkey.signatures.iter().any(|binding| binding.key_flags().sign())
                            && signature.verify(&subkey.key, bytes).is_ok()
                    })
            })
    }
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
