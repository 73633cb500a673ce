//! A credential's leaf and key in a directory (a tmpfs of the proxy's container), so that a proxy which restarts while
//! the control plane is away serves at once.
//!
//! One file of mode 0600, put in place whole: a line with format version and checksum, then key and chain as PEM. What
//! cannot be read, or has ended, is an error for the caller to log; it then asks for a new one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::bundle::{TrustBundles, certificates_to_pem};
use crate::credential::{Credential, CredentialError};
use crate::file::{self, Put};
use crate::key::{Key, KeyError, hex};
use crate::verify::{CHAIN_MAX, VerifyError};

const FILE: &str = "credential.pem";
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The first word of the first line. Another format is another word.
const FORMAT: &str = "weft-credential-1";

/// Why a credential was not stored or not loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its directory cannot be used.
    #[error("cannot use {FILE}")]
    Io(#[source] io::Error),
    /// The file has another format version, or is no such file.
    #[error("{FILE} is not of the format {FORMAT}")]
    Format,
    /// The checksum is wrong.
    #[error("{FILE} is damaged")]
    Checksum,
    /// The key in it cannot be used.
    #[error("the key in {FILE} cannot be used")]
    Key(#[source] KeyError),
    /// Leaf and key are no credential.
    #[error("{FILE} holds no credential")]
    Credential(#[source] CredentialError),
    /// No peer would accept it: it has ended, say, or its root is gone.
    #[error("the credential in {FILE} does not verify any more")]
    Verify(#[source] VerifyError),
}

/// Stores leaf and key. The directory is made, 0700, if it is not there; one that is there keeps its mode, because it is
/// the volume's.
pub fn save(directory: &Path, credential: &Credential) -> Result<(), StoreError> {
    let body = Zeroizing::new(format!(
        "{}{}",
        *credential.key().to_pem(),
        certificates_to_pem(credential.chain())
    ));
    let text = Zeroizing::new(format!("{FORMAT} {}\n{}", checksum(body.as_bytes()), *body));
    file::directory(directory).map_err(StoreError::Io)?;
    file::write(&directory.join(FILE), text.as_bytes(), Put::Replace).map_err(StoreError::Io)
}

/// Loads what [`save`] stored, if it is there, and if it verifies now against these bundles.
pub fn load(
    directory: &Path,
    bundles: Arc<TrustBundles>,
    generation: u64,
    now: SystemTime,
) -> Result<Option<Credential>, StoreError> {
    let Some(text) = file::read(&directory.join(FILE), FILE_BYTES_MAX).map_err(StoreError::Io)? else {
        return Ok(None);
    };
    let body = body(&text)?;
    let key = Key::from_pem(body).map_err(StoreError::Key)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(body).take(CHAIN_MAX).collect();
    let chain = chain.map_err(|_| StoreError::Format)?;
    let credential = Credential::new(chain, key, bundles, generation).map_err(StoreError::Credential)?;
    credential.verify(now).map_err(StoreError::Verify)?;
    Ok(Some(credential))
}

/// Takes the stored credential away, if there is one.
pub fn discard(directory: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::Io(error)),
        _ => Ok(()),
    }
}

fn body(text: &[u8]) -> Result<&[u8], StoreError> {
    let end = text.iter().position(|&byte| byte == b'\n').ok_or(StoreError::Format)?;
    let (line, body) = (&text[..end], &text[end + 1..]);
    let line = std::str::from_utf8(line).map_err(|_| StoreError::Format)?;
    let (format, sum) = line.split_once(' ').ok_or(StoreError::Format)?;
    if format != FORMAT {
        return Err(StoreError::Format);
    }
    if sum != checksum(body) {
        return Err(StoreError::Checksum);
    }
    Ok(body)
}

fn checksum(body: &[u8]) -> String {
    hex(digest(&SHA256, body).as_ref())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::testing::Mesh;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_credential_comes_back() {
        let (mesh, dir) = (Mesh::new("a"), tempfile::tempdir().unwrap());
        let saved = mesh.credential("web");
        save(&dir.path().join("state"), &saved).unwrap();
        let loaded = load(&dir.path().join("state"), mesh.bundles(), 3, SystemTime::now())
            .unwrap()
            .unwrap();
        assert_eq!(loaded.identity(), saved.identity());
        assert_eq!(loaded.chain(), saved.chain());
        assert_eq!(loaded.key().pkcs8(), saved.key().pkcs8());
        assert_eq!(loaded.generation(), 3);
    }

    #[test]
    fn the_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let (mesh, dir) = (Mesh::new("a"), tempfile::tempdir().unwrap());
        save(dir.path(), &mesh.credential("web")).unwrap();
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nothing_stored_is_nothing_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Mesh::new("a").bundles();
        assert!(
            load(dir.path(), bundles.clone(), 1, SystemTime::now())
                .unwrap()
                .is_none()
        );
        assert!(
            load(&dir.path().join("no/such"), bundles, 1, SystemTime::now())
                .unwrap()
                .is_none()
        );
        discard(dir.path()).unwrap();
    }

    #[test]
    fn what_is_damaged_or_of_another_format_is_refused() {
        let (mesh, dir) = (Mesh::new("a"), tempfile::tempdir().unwrap());
        save(dir.path(), &mesh.credential("web")).unwrap();
        let path = dir.path().join(FILE);
        let good = fs::read_to_string(&path).unwrap();
        let load = |text: &str| {
            fs::write(&path, text).unwrap();
            load(dir.path(), mesh.bundles(), 1, SystemTime::now())
        };
        let key = good.find("PRIVATE KEY-----").unwrap() + 40;
        let mut flipped = good.clone().into_bytes();
        flipped[key] = if flipped[key] == b'A' { b'B' } else { b'A' };
        assert!(matches!(
            load(std::str::from_utf8(&flipped).unwrap()),
            Err(StoreError::Checksum)
        ));
        assert!(
            matches!(load(&good[..good.len() / 2]), Err(StoreError::Checksum)),
            "cut short"
        );
        assert!(matches!(
            load(&good.replace(FORMAT, "weft-credential-2")),
            Err(StoreError::Format)
        ));
        assert!(matches!(load(""), Err(StoreError::Format)));
        assert!(load(&good).unwrap().is_some());
    }

    #[test]
    fn what_has_ended_or_lost_its_root_is_refused() {
        let (mesh, dir) = (Mesh::new("a"), tempfile::tempdir().unwrap());
        save(dir.path(), &mesh.credential("web")).unwrap();
        let later = SystemTime::now() + 25 * HOUR;
        assert!(matches!(
            load(dir.path(), mesh.bundles(), 1, later),
            Err(StoreError::Verify(_))
        ));
        let other = Mesh::new("a").bundles();
        assert!(matches!(
            load(dir.path(), other, 1, SystemTime::now()),
            Err(StoreError::Verify(_))
        ));
    }

    #[test]
    fn a_discarded_credential_is_gone() {
        let (mesh, dir) = (Mesh::new("a"), tempfile::tempdir().unwrap());
        save(dir.path(), &mesh.credential("web")).unwrap();
        discard(dir.path()).unwrap();
        assert!(
            load(dir.path(), mesh.bundles(), 1, SystemTime::now())
                .unwrap()
                .is_none()
        );
    }
}
