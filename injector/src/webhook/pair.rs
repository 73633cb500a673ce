//! The webhook's own CA, certificate and key.
//!
//! A CA signs one certificate, and its key is forgotten: there is nothing that could be stolen to sign another one, and both
//! are replaced together.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// How long before its making a certificate is valid, for clocks that are slow.
const BACKDATE: Duration = Duration::from_secs(120);

/// A certificate with its key, and the CA that vouches for it. All PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// The CA.
    pub(super) ca: String,
    /// The certificate, and what leads from it to the CA.
    pub(super) certificate: String,
    /// Its key.
    pub(super) key: String,
    not_before: SystemTime,
    not_after: SystemTime,
    names: Vec<String>,
}

impl Pair {
    /// Makes a new one for a Service of these names.
    pub(super) fn make(names: &[String], lifetime: Duration, now: SystemTime) -> Result<Self> {
        let (authority, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let serial = serial()?;
        // Several CAs are in the caBundle at once: each has a name of its own.
        let name: String = serial.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let mut params = dated(&format!("weft webhook {name}"), now, lifetime);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let ca = params.self_signed(&authority)?.pem();

        let mut leaf = dated("weft webhook", now, lifetime);
        leaf.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.serial_number = Some(SerialNumber::from_slice(&self::serial()?));
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &Issuer::new(params, authority))?.pem();
        Self::read(ca, certificate, key.serialize_pem())
    }

    /// Reads one that was kept, or supplied.
    ///
    /// # Errors
    /// It cannot be served with. For people.
    pub(super) fn read(ca: String, certificate: String, key: String) -> Result<Self> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).context("tls.crt is no certificate in PEM")?;
        let (_, parsed) = X509Certificate::from_der(&der).context("tls.crt is no certificate")?;
        let time = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).map(SystemTime::from);
        let validity = parsed.validity();
        let (not_before, not_after) = (
            time(validity.not_before.timestamp())?,
            time(validity.not_after.timestamp())?,
        );
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let names = alternatives.into_iter().flat_map(|names| &names.value.general_names);
        let names = names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        let pair = Self {
            ca,
            certificate,
            key,
            not_before,
            not_after,
            names,
        };
        pair.serve()?;
        Ok(pair)
    }

    /// What a server answers with. TLS 1.2 as well: an API server may be told to speak no newer one.
    pub(super) fn serve(&self) -> Result<Arc<ServerConfig>> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .context("tls.crt is not PEM")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).context("tls.key is no private key in PEM")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("tls.crt and tls.key do not belong together")?;
        Ok(Arc::new(config))
    }

    /// When two thirds of its life are over.
    pub(super) fn due(&self) -> SystemTime {
        let made = self.not_before + BACKDATE;
        let life = self.not_after.duration_since(made).unwrap_or_default();
        made + life * 2 / 3
    }

    /// When it ends.
    pub(super) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it is for a server of this name.
    pub(super) fn is_for(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("Pair")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

fn dated(name: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + lifetime);
    params
}

/// 127 random bits: a positive number (RFC 5280 section 4.1.2.2).
fn serial() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .ok()
        .context("there are no random bytes")?;
    bytes[0] = bytes[0] & 0x7f | 1;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    const NAME: &str = "weft-injector.weft-system.svc";

    fn pair() -> Pair {
        Pair::make(&[NAME.to_owned()], Duration::from_secs(300), SystemTime::now()).unwrap()
    }

    /// Whether a client that trusts these CAs and speaks these versions takes the server.
    fn shakes(bundle: &str, server: &Pair, versions: &[&'static rustls::SupportedProtocolVersion]) -> bool {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(NAME).unwrap()).unwrap();
        let mut server = ServerConnection::new(server.serve().unwrap()).unwrap();
        for _ in 0..8 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            let _ = server.process_new_packets();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            while !bytes.is_empty() {
                let read = client.read_tls(&mut bytes.as_slice()).unwrap();
                bytes.drain(..read);
                if client.process_new_packets().is_err() {
                    return false;
                }
            }
        }
        !client.is_handshaking()
    }

    #[test]
    fn a_client_with_its_ca_takes_it_and_one_with_another_does_not() {
        let (one, other) = (pair(), pair());
        assert!(shakes(&one.ca, &one, rustls::ALL_VERSIONS));
        assert!(shakes(&one.ca, &one, &[&rustls::version::TLS12]));
        assert!(!shakes(&other.ca, &one, rustls::ALL_VERSIONS));
        let both = format!("{}{}", other.ca, one.ca);
        assert!(shakes(&both, &one, rustls::ALL_VERSIONS) && shakes(&both, &other, rustls::ALL_VERSIONS));
    }

    #[test]
    fn what_was_kept_reads_as_it_was() {
        let made = pair();
        let read = Pair::read(made.ca.clone(), made.certificate.clone(), made.key.clone()).unwrap();
        assert_eq!(read, made);
        assert!(read.is_for(NAME) && !read.is_for("other"));
        let life = read.not_after().duration_since(read.due()).unwrap();
        assert!((95..=105).contains(&life.as_secs()), "{life:?}");
    }

    #[test]
    fn what_does_not_belong_together_is_told() {
        let (one, other) = (pair(), pair());
        let error = Pair::read(one.ca, one.certificate, other.key).unwrap_err();
        assert!(format!("{error:#}").contains("belong together"), "{error:#}");
        let error = Pair::read(String::new(), "-".to_owned(), String::new()).unwrap_err();
        assert!(format!("{error:#}").contains("tls.crt"), "{error:#}");
    }

    #[test]
    fn a_key_is_never_shown() {
        assert!(!format!("{:?}", pair()).contains("PRIVATE"));
    }
}
