//! Certificates, keys and CAs from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// Where distributions keep the CAs that come with the system; the first that exists is read.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A certificate file and its key file, as read. Equal when no byte has changed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    certificate: Arc<[u8]>,
    key: Arc<[u8]>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair") // The key is nobody's business.
    }
}

impl Pair {
    /// Reads both files.
    pub(super) fn read(cert_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        Ok(Self { certificate: read(cert_file)?.into(), key: read(key_file)?.into() })
    }

    /// Parses both and checks that they belong together.
    pub(super) fn certified(
        &self,
        provider: &CryptoProvider,
        cert_file: &Path,
        key_file: &Path,
    ) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(cert_file, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| contents(key_file, "tls: failed to find any PEM data in key input"))?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            contents(key_file, "tls: failed to parse private key (RSA, ECDSA on P-256 and P-384, and Ed25519 are supported)")
        })?;
        let certified = CertifiedKey::new(chain, key);
        // Only a proven mismatch counts: a certificate too old for rustls to parse may match as well.
        match certified.keys_match() {
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                Err(contents(cert_file, "tls: private key does not match public key"))
            }
            _ => Ok(certified),
        }
    }
}

/// The certificates trusted to sign others.
#[derive(Debug)]
pub(super) struct Roots {
    /// As webpki wants them.
    pub(super) store: Arc<RootCertStore>,
    /// As they stand in the file.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads a CA file.
    pub(super) fn load(path: &Path) -> Result<Self, TlsError> {
        let found = certificates(path, &read(path)?)?;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.iter().cloned());
        Ok(Self { store: Arc::new(store), certificates: found })
    }

    /// Reads the CAs that came with the system; an error if there are none.
    pub(super) fn of_the_system() -> Result<Self, TlsError> {
        let path = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
        Self::load(path.ok_or_else(|| {
            TlsError::Options("no CA file was given and the system has none".into())
        })?)
    }
}

/// Parses the certificates of a PEM file, of which there must be one at least.
pub(super) fn certificates(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| contents(path, &error.to_string()))?;
    if found.is_empty() {
        return Err(contents(path, "tls: failed to find any PEM data in certificate input"));
    }
    Ok(found)
}

// NB: these files are a person's and not a node's: they are read around the simulated disk.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read { path: path.into(), error })
}

fn contents(path: &Path, what: &str) -> TlsError {
    TlsError::Contents { path: PathBuf::from(path), what: what.into() }
}
