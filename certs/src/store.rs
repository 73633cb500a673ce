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

/// Stores leaf and key. The directory becomes 0700.
pub fn save(directory: &Path, credential: &Credential) -> Result<(), StoreError> {
    let body = Zeroizing::new(format!(
        "{}{}",
        *credential.key().to_pem(),
        certificates_to_pem(credential.chain())
    ));
    let text = Zeroizing::new(format!("{FORMAT} {}\n{}", checksum(body.as_bytes()), *body));
    file::private_directory(directory).map_err(StoreError::Io)?;
    file::write(&directory.join(FILE), text.as_bytes(), Put::Replace).map_err(StoreError::Io)
}

/// Loads what [`save`] stored, if it is there, and if it verifies now against these bundles.
pub fn load(
    directory: &Path,
    bundles: Arc<TrustBundles>,
    generation: u64,
    now: SystemTime,
) -> Result<Option<Credential>, StoreError> {
    let Some(text) = file::read(&directory.join(FILE), FILE_BYTES_MAX).map_err(StoreError::Io)?
    else {
        return Ok(None);
    };
    let body = body(&text)?;
    let key = Key::from_pem(body).map_err(StoreError::Key)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(body)
        .take(CHAIN_MAX)
        .collect();
    let chain = chain.map_err(|_| StoreError::Format)?;
    let credential =
        Credential::new(chain, key, bundles, generation).map_err(StoreError::Credential)?;
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
    let end = text
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or(StoreError::Format)?;
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
