//! Verifies certificates as webpki does, and where webpki says no, as Go does.
//!
//! webpki is asked first, and its yes is enough. Its no is given a second hearing by [`chain`],
//! because three kinds of certificates work with etcd and not with webpki: a leaf that stands in the
//! CA file itself, a leaf marked as a CA, and a client certificate of X.509 version 1 (what
//! `openssl x509 -req` makes when nobody mentions extensions). The second hearing knows few features
//! and refuses what it does not know. The error reported is webpki's.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::TlsError;
use super::chain::{self, Usage};
use super::load::Roots;

/// Returns the verifier of clients' certificates, which must chain to `roots`.
pub(super) fn clients(
    roots: Arc<Roots>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let webpki = if roots.store.is_empty() {
        None // webpki takes none of them for a root; the second hearing is the only one.
    } else {
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider.clone());
        Some(builder.build().map_err(|error| TlsError::Options(error.to_string()))?)
    };
    let algorithms = provider.signature_verification_algorithms;
    Ok(Arc::new(Clients { webpki, roots, algorithms }))
}

/// Returns the verifier of servers' certificates, which must chain to `roots`.
pub(super) fn servers(
    roots: Arc<Roots>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let webpki = if roots.store.is_empty() {
        None
    } else {
        let builder =
            WebPkiServerVerifier::builder_with_provider(roots.store.clone(), provider.clone());
        Some(builder.build().map_err(|error| TlsError::Options(error.to_string()))?)
    };
    let algorithms = provider.signature_verification_algorithms;
    Ok(Arc::new(Servers { webpki, roots, algorithms }))
}

/// Returns a verifier that accepts any server (`--insecure-skip-tls-verify`, generated certificates).
pub(super) fn anybody(provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody { algorithms: provider.signature_verification_algorithms })
}

#[derive(Debug)]
struct Clients {
    webpki: Option<Arc<dyn ClientCertVerifier>>,
    roots: Arc<Roots>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // The hints can leave out a root that only the second hearing takes, and a client may then
        // not offer its certificate. No hints: it offers what it has.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let first = match &self.webpki {
            Some(webpki) => webpki.verify_client_cert(leaf, intermediates, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        };
        first.or_else(|error| {
            let (roots, all) = (&self.roots.certificates, self.algorithms.all);
            let usage = Usage::Client;
            match chain::verify(leaf, intermediates, roots, now, usage, all) {
                Ok(()) => Ok(ClientCertVerified::assertion()),
                Err(_) => Err(error),
            }
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature_12(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature_13(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Servers {
    webpki: Option<Arc<WebPkiServerVerifier>>,
    roots: Arc<Roots>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let first = match &self.webpki {
            Some(webpki) => webpki.verify_server_cert(leaf, intermediates, name, ocsp, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        };
        first.or_else(|error| {
            let (roots, all) = (&self.roots.certificates, self.algorithms.all);
            let chained = chain::verify(leaf, intermediates, roots, now, Usage::Server, all);
            let named = ParsedCertificate::try_from(leaf)
                .and_then(|leaf| rustls::client::verify_server_name(&leaf, name));
            match (chained, named) {
                (Ok(()), Ok(())) => Ok(ServerCertVerified::assertion()),
                _ => Err(error),
            }
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature_12(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature_13(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Anybody {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature_12(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature_13(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks that the peer holds the key of its certificate, under TLS 1.2's rules.
fn signature_12(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if !chain::is_version_1(cert) {
        return rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms);
    }
    let tried = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let tried = tried.map(|(_, algorithms)| *algorithms).unwrap_or_default();
    if chain::signed_by_key_of(cert, message, signed.signature(), tried) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

/// Checks that the peer holds the key of its certificate, under TLS 1.3's rules.
fn signature_13(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if !chain::is_version_1(cert) {
        return rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms);
    }
    let bad = Error::InvalidCertificate(CertificateError::BadEncoding);
    let key = chain::public_key_info(cert).ok_or(bad)?;
    rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}
