//! Who may sign: a file with ssh keys, OpenPGP keys, or both.
//!
//! Lines are those of ssh-keygen's ALLOWED SIGNERS (`principals [options] type key`), armoured blocks
//! are OpenPGP certificates, and a file that is not text is a binary OpenPGP keyring. A key that has
//! expired or was revoked, or that its owner has not made for signing, signs nothing. What a line asks
//! for and is not understood here makes the file an error rather than a line that says less.

use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use pgp::composed::{Deserializable as _, DetachedSignature, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, Signature, SignatureType};
use pgp::types::KeyDetails as _;
use ssh_key::{HashAlg, PublicKey, SshSig};
use toolkit::files;

/// Largest file that is read.
const MAX_BYTES: u64 = 4 << 20;
/// What git signs for.
const NAMESPACE: &str = "git";
const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Keys whose signatures count.
#[derive(Debug, Default)]
pub(crate) struct Signers {
    ssh: Vec<SshSigner>,
    pgp: Vec<SignedPublicKey>,
}

#[derive(Debug)]
struct SshSigner {
    key: PublicKey,
    /// Seconds since 1970.
    after: Option<u64>,
    before: Option<u64>,
}

impl Signers {
    /// Reads the file at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let fail = |why: String| format!("signers {}: {why}", path.display());
        let bytes = files::read_bounded(path, MAX_BYTES).map_err(|err| fail(err.to_string()))?;
        Self::parse(&bytes).map_err(fail)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut signers = Self::default();
        match std::str::from_utf8(bytes) {
            Err(_) => signers.add_pgp(bytes)?,
            Ok(text) => {
                let mut block: Option<String> = None;
                for (number, line) in text.lines().enumerate() {
                    let line = line.trim();
                    match &mut block {
                        Some(open) => {
                            open.push_str(line);
                            open.push('\n');
                            if line == END {
                                signers.add_pgp(open.as_bytes())?;
                                block = None;
                            }
                        }
                        None if line == BEGIN => block = Some(format!("{line}\n")),
                        None if line.is_empty() || line.starts_with('#') => {}
                        None => signers
                            .ssh
                            .push(SshSigner::parse(line).map_err(|why| format!("line {}: {why}", number + 1))?),
                    }
                }
                if block.is_some() {
                    return Err("a block of OpenPGP keys does not end".to_owned());
                }
            }
        }
        if signers.ssh.is_empty() && signers.pgp.is_empty() {
            return Err("there is no key in it".to_owned());
        }
        Ok(signers)
    }

    fn add_pgp(&mut self, bytes: &[u8]) -> Result<(), String> {
        let bad = |err: pgp::errors::Error| format!("not an OpenPGP key: {err}");
        let (keys, _) = SignedPublicKey::from_reader_many(Cursor::new(bytes)).map_err(bad)?;
        for key in keys {
            let key = key.map_err(bad)?;
            key.verify_bindings().map_err(|err| format!("a key's own signatures are wrong: {err}"))?;
            self.pgp.push(key);
        }
        Ok(())
    }

    /// Checks an armoured signature over `data`, made at `time`; returns the key's fingerprint.
    pub(crate) fn verify(&self, signature: &str, data: &[u8], time: u64) -> Result<String, String> {
        if signature.trim_start().starts_with("-----BEGIN SSH SIGNATURE-----") {
            self.verify_ssh(signature, data, time)
        } else if signature.trim_start().starts_with("-----BEGIN PGP SIGNATURE-----") {
            self.verify_pgp(signature, data)
        } else {
            Err("the signature is neither of ssh nor of OpenPGP".to_owned())
        }
    }

    /// Whether the key of this fingerprint is still one of those whose signatures count.
    pub(crate) fn has(&self, fingerprint: &str) -> bool {
        self.ssh.iter().any(|signer| ssh_print(&signer.key) == fingerprint)
            || self.pgp.iter().any(|key| !is_revoked(key) && pgp_print(key) == fingerprint)
    }

    fn verify_ssh(&self, signature: &str, data: &[u8], time: u64) -> Result<String, String> {
        let signature = SshSig::from_pem(signature.trim()).map_err(|err| format!("not an ssh signature: {err}"))?;
        if !matches!(signature.hash_alg(), HashAlg::Sha256 | HashAlg::Sha512) {
            return Err("the signature uses a weak digest".to_owned());
        }
        let known = self.ssh.iter().find(|signer| signer.key.key_data() == signature.public_key());
        let Some(signer) = known else {
            let print = signature.public_key().fingerprint(HashAlg::Sha256);
            return Err(format!("signed by {print}, which is not an allowed signer"));
        };
        if signer.after.is_some_and(|after| time < after) || signer.before.is_some_and(|before| time >= before) {
            return Err(format!("signed at a time when {} was not valid", ssh_print(&signer.key)));
        }
        signer
            .key
            .verify(NAMESPACE, data, &signature)
            .map_err(|_| format!("the signature by {} does not fit the content", ssh_print(&signer.key)))?;
        Ok(ssh_print(&signer.key))
    }

    fn verify_pgp(&self, signature: &str, data: &[u8]) -> Result<String, String> {
        let bad = |err: pgp::errors::Error| format!("not an OpenPGP signature: {err}");
        let (signatures, _) = DetachedSignature::from_armor_many(signature.as_bytes()).map_err(bad)?;
        let mut why = "no allowed signer has signed it".to_owned();
        for signature in signatures.take(16) {
            let signature = signature.map_err(bad)?.signature;
            let strong = matches!(
                signature.hash_alg(),
                Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)
            );
            if !strong || !matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text)) {
                "the signature uses a weak digest or is of another kind".clone_into(&mut why);
                continue;
            }
            for key in &self.pgp {
                match accepts(key, &signature, data) {
                    Some(Ok(())) => return Ok(pgp_print(key)),
                    Some(Err(reason)) => why = format!("signed by {}, {reason}", pgp_print(key)),
                    None => {}
                }
            }
        }
        Err(why)
    }
}

/// Whether `key` or a subkey of it made the signature, and if so whether it may.
fn accepts(key: &SignedPublicKey, signature: &Signature, data: &[u8]) -> Option<Result<(), String>> {
    let made = signature.created().map(|time| u64::from(time.as_secs()))?;
    let judge = |created: u64, lasts: Option<Duration>, may_sign: bool, revoked: bool| {
        let ended = |from: u64, lasts: Option<Duration>| {
            lasts.filter(|lasts| !lasts.is_zero()).map(|lasts| from.saturating_add(lasts.as_secs()))
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let own = signature.signature_expiration_time().map(|lasts| Duration::from_secs(u64::from(lasts.as_secs())));
        if revoked || is_revoked(key) {
            Err("which was revoked".to_owned())
        } else if !may_sign {
            Err("which is not a signing key".to_owned())
        } else if made < created || ended(created, lasts).is_some_and(|end| made >= end) {
            Err("when it was not valid".to_owned())
        } else if ended(made, own).is_some_and(|end| now >= end) {
            Err("and the signature has expired".to_owned())
        } else {
            Ok(())
        }
    };
    let seconds =
        |lasts: Option<pgp::types::Duration>| lasts.map(|lasts| Duration::from_secs(u64::from(lasts.as_secs())));
    let primary = &key.primary_key;
    if signature.verify(primary, data).is_ok() {
        let own: Vec<&Signature> = own_signatures(key).collect();
        let latest = own.iter().max_by_key(|own| own.created().map(|time| time.as_secs()));
        let flags = latest.map(|own| own.key_flags()).unwrap_or_default();
        let may_sign = flags.sign() || flags == KeyFlags::default();
        let lasts = seconds(latest.and_then(|own| own.key_expiration_time()));
        return Some(judge(u64::from(primary.created_at().as_secs()), lasts, may_sign, false));
    }
    let subkey = key.public_subkeys.iter().find(|subkey| signature.verify(&subkey.key, data).is_ok())?;
    let revoked = subkey.signatures.iter().any(|own| own.typ() == Some(SignatureType::SubkeyRevocation));
    let bindings = subkey.signatures.iter().filter(|own| own.typ() == Some(SignatureType::SubkeyBinding));
    let latest = bindings.max_by_key(|own| own.created().map(|time| time.as_secs()));
    let lasts = seconds(latest.and_then(|own| own.key_expiration_time()));
    let may_sign = latest.is_some_and(|own| own.key_flags().sign());
    // A subkey is no longer than the key that it belongs to.
    let whole = own_signatures(key).max_by_key(|own| own.created().map(|time| time.as_secs()));
    let end = seconds(whole.and_then(|own| own.key_expiration_time()));
    let primary_ended = end
        .filter(|lasts| !lasts.is_zero())
        .is_some_and(|lasts| made >= u64::from(primary.created_at().as_secs()) + lasts.as_secs());
    if primary_ended {
        return Some(Err("when it was not valid".to_owned()));
    }
    Some(judge(u64::from(subkey.key.created_at().as_secs()), lasts, may_sign, revoked))
}

/// The signatures by which a key says what it is for.
fn own_signatures(key: &SignedPublicKey) -> impl Iterator<Item = &Signature> {
    let users = key.details.users.iter().flat_map(|user| &user.signatures);
    users.chain(&key.details.direct_signatures).filter(|own| own.typ() != Some(SignatureType::CertRevocation))
}

fn is_revoked(key: &SignedPublicKey) -> bool {
    !key.details.revocation_signatures.is_empty()
}

fn pgp_print(key: &SignedPublicKey) -> String {
    format!("OpenPGP:{}", key.fingerprint())
}

fn ssh_print(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

impl SshSigner {
    /// Reads `principals [options] type key [comment]`.
    fn parse(line: &str) -> Result<Self, String> {
        let words = words(line);
        let is_type = |word: &String| ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start));
        let kind = words.iter().skip(1).position(is_type).map(|index| index + 1);
        let kind = kind.ok_or("not `principals [options] type key`, as in `git@example.org ssh-ed25519 AAAA…`")?;
        if kind > 2 {
            return Err("more than one word of options".to_owned());
        }
        let key = words.get(kind + 1).ok_or("there is no key after its type")?;
        let key = PublicKey::from_openssh(&format!("{} {key}", words[kind]))
            .map_err(|err| format!("not an ssh key: {err}"))?;
        let mut signer = Self { key, after: None, before: None };
        for option in words[1..kind].iter().flat_map(|options| commas(options)) {
            let (name, value) = option.split_once('=').unwrap_or((&option, ""));
            let value = value.trim_matches('"');
            match name.to_ascii_lowercase().as_str() {
                "namespaces" if value.split(',').any(|namespace| namespace == NAMESPACE) => {}
                "namespaces" => return Err(format!("the key is not for the namespace {NAMESPACE}")),
                "valid-after" => signer.after = Some(time(value)?),
                "valid-before" => signer.before = Some(time(value)?),
                other => return Err(format!("the option '{other}' is not supported")),
            }
        }
        Ok(signer)
    }
}

/// Splits at spaces outside of quotes.
fn words(line: &str) -> Vec<String> {
    split(line, |c| c.is_ascii_whitespace())
}

/// Splits at commas outside of quotes.
fn commas(options: &str) -> Vec<String> {
    split(options, |c| c == ',')
}

fn split(text: &str, separates: impl Fn(char) -> bool) -> Vec<String> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        quoted ^= c == '"';
        if !quoted && separates(c) {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Reads `YYYYMMDD[HHMM[SS]]Z`. Without the Z it would be the time of whatever zone the machine is in.
fn time(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a time in UTC, as in 20260131Z or 202601311200Z");
    let digits = text.strip_suffix('Z').ok_or_else(wrong)?;
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number =
        |range: std::ops::Range<usize>| digits.get(range).map_or(Ok(0), str::parse::<u64>).map_err(|_| wrong());
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(8..10)?, number(10..12)?, number(12..14)?);
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return Err(wrong());
    }
    // Days since 1970 of the civil calendar, with years that begin in March.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = years * 365 + years / 4 - years / 100 + years / 400 + (months * 153 + 2) / 5 + day - 1 - 719_468;
    Ok(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJUhUyKyZ+lQR1bEbMcYkKAyxjJgvZ6xhyCD8nJSMJZW";

    #[test]
    fn lines_of_ssh_are_read_strictly() {
        for line in [
            format!("me@example.org {KEY} a comment"),
            format!("*@example.org,!you@example.org {KEY}"),
            format!("me namespaces=\"file,git\",valid-after=20200101Z,valid-before=\"203001011200Z\" {KEY}"),
        ] {
            assert!(Signers::parse(format!("# who\n\n{line}\n").as_bytes()).is_ok(), "{line}");
        }
        for (line, why) in [
            (KEY.to_owned(), "principals"),
            ("me ssh-ed25519".to_owned(), "no key"),
            ("me ssh-ed25519 AAAA".to_owned(), "not an ssh key"),
            (format!("me cert-authority {KEY}"), "'cert-authority' is not supported"),
            (format!("me namespaces=\"file\" {KEY}"), "not for the namespace git"),
            (format!("me valid-after=20200101 {KEY}"), "UTC"),
            (format!("me valid-after=20201301Z {KEY}"), "UTC"),
            (format!("me a b {KEY}"), "more than one word"),
            (format!("{BEGIN}\n"), "does not end"),
            (format!("{BEGIN}\n\nAAAA\n{END}\n"), "OpenPGP"),
            (String::new(), "no key"),
            ("# nobody".to_owned(), "no key"),
        ] {
            let err = Signers::parse(line.as_bytes()).expect_err(why);
            assert!(err.contains(why), "{line}: {err}");
        }
        assert!(Signers::parse(b"\xff\xfe\x00").is_err());
        assert!(
            Signers::load(Path::new("/dev/null")).expect_err("no file").contains("a device, where a file is expected")
        );
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, seconds) in [
            ("19700101Z", 0),
            ("20000229Z", 951_782_400),
            ("20260131Z", 1_769_817_600),
            ("202601311200Z", 1_769_860_800),
            ("20260131120001Z", 1_769_860_801),
        ] {
            assert_eq!(time(text), Ok(seconds), "{text}");
        }
    }
}
