//! A second, small way to verify a certificate chain, for what webpki is too strict about.
//!
//! It accepts a leaf that is byte for byte one of the roots, or that is signed, directly or through
//! the intermediates shown, by one of them; of any X.509 version, and marked as a CA or not. All of:
//! - every certificate of the chain, the root included, is within its dates;
//! - each signer is a CA by its basic constraints (version 1 roots, which have none, may sign: a
//!   person has put them into the CA file), may sign certificates by its key usage, and has room for
//!   the path below it;
//! - the leaf's extended key usage, where it has one, allows the use;
//! - no certificate carries a critical extension that is not one of those understood here. Name
//!   constraints are among the ones that are not.

use rustls_pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Server,
}

/// Says that no acceptable chain was found; the caller has a better error to report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoChain;

/// Intermediates between a leaf and its root at most; it bounds the search.
const DEPTH_MAX: usize = 5;

type Algorithms<'a> = &'a [&'a dyn SignatureVerificationAlgorithm];

/// Looks for a chain from `leaf` to one of `roots`.
pub(super) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
    algorithms: Algorithms<'_>,
) -> Result<(), NoChain> {
    let now = i64::try_from(now.as_secs()).map_err(|_| NoChain)?;
    let now = ASN1Time::from_timestamp(now).map_err(|_| NoChain)?;
    let search = Search {
        roots: roots.iter().map(|der| der.as_ref()).collect(),
        intermediates: intermediates.iter().map(|der| der.as_ref()).collect(),
        now,
        algorithms,
    };
    let certificate = certificate(leaf.as_ref()).ok_or(NoChain)?;
    if !allows(&certificate, usage) || !search.is_usable(&certificate) {
        return Err(NoChain);
    }
    if search.reaches_root(leaf.as_ref(), 0) { Ok(()) } else { Err(NoChain) }
}

struct Search<'a> {
    roots: Vec<&'a [u8]>,
    intermediates: Vec<&'a [u8]>,
    now: ASN1Time,
    algorithms: Algorithms<'a>,
}

impl Search<'_> {
    /// Says whether a certificate, itself found usable, is a root or is signed by one in the end.
    /// `below` counts the intermediates on the way to it.
    fn reaches_root(&self, der: &[u8], below: usize) -> bool {
        if self.roots.contains(&der) {
            return true;
        }
        if self.roots.iter().any(|root| self.is_signed_by(der, root, below)) {
            return true;
        }
        let mut signers = self.intermediates.iter().filter(|signer| **signer != der);
        below < DEPTH_MAX
            && signers.any(|signer| {
                self.is_signed_by(der, signer, below) && self.reaches_root(signer, below + 1)
            })
    }

    fn is_signed_by(&self, der: &[u8], signer: &[u8], below: usize) -> bool {
        let (Some(child), Some(signer)) = (certificate(der), certificate(signer)) else {
            return false;
        };
        child.issuer().as_raw() == signer.subject().as_raw()
            && self.is_usable(&signer)
            && may_sign(&signer, below)
            && self.is_signature_of(der, &signer)
    }

    fn is_usable(&self, certificate: &X509Certificate<'_>) -> bool {
        let understood = |extension: &ParsedExtension<'_>| {
            matches!(
                extension,
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
            )
        };
        certificate.validity().is_valid_at(self.now)
            && certificate
                .extensions()
                .iter()
                .all(|extension| !extension.critical || understood(extension.parsed_extension()))
    }

    /// Says whether the signature on `der` was made with the signer's key.
    fn is_signature_of(&self, der: &[u8], signer: &X509Certificate<'_>) -> bool {
        let Some(signed) = Signed::read(der) else { return false };
        let Some(key) = Key::read(signer.public_key().raw) else { return false };
        self.algorithms
            .iter()
            .filter(|algorithm| {
                algorithm.signature_alg_id().as_ref() == signed.algorithm
                    && algorithm.public_key_alg_id().as_ref() == key.algorithm
            })
            .any(|algorithm| {
                algorithm.verify_signature(key.bits, signed.message, signed.signature).is_ok()
            })
    }
}

/// Says whether a certificate may sign one that has `below` intermediates under it.
fn may_sign(signer: &X509Certificate<'_>, below: usize) -> bool {
    let is_ca = match signer.basic_constraints() {
        Ok(Some(constraints)) => {
            let room = constraints
                .value
                .path_len_constraint
                .is_none_or(|max| usize::try_from(max).is_ok_and(|max| below <= max));
            constraints.value.ca && room
        }
        Ok(None) => signer.version() == X509Version::V1,
        Err(_) => false,
    };
    let usage = match signer.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    is_ca && usage
}

/// Says whether a leaf may be used so.
fn allows(leaf: &X509Certificate<'_>, usage: Usage) -> bool {
    match leaf.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(extended)) => {
            extended.value.any
                || match usage {
                    Usage::Client => extended.value.client_auth,
                    Usage::Server => extended.value.server_auth,
                }
        }
        Err(_) => false,
    }
}

/// Says whether a certificate is of X.509 version 1, which webpki does not parse.
pub(super) fn is_version_1(der: &CertificateDer<'_>) -> bool {
    certificate(der.as_ref()).is_some_and(|certificate| certificate.version() == X509Version::V1)
}

/// Returns the certificate's public key as the structure TLS knows it by.
pub(super) fn public_key_info(
    der: &CertificateDer<'_>,
) -> Option<SubjectPublicKeyInfoDer<'static>> {
    Some(certificate(der.as_ref())?.public_key().raw.to_vec().into())
}

/// Says whether one of `algorithms` finds `signature` to be the certificate's key's on `message`.
pub(super) fn signed_by_key_of(
    der: &CertificateDer<'_>,
    message: &[u8],
    signature: &[u8],
    algorithms: Algorithms<'_>,
) -> bool {
    let Some(certificate) = certificate(der.as_ref()) else { return false };
    let Some(key) = Key::read(certificate.public_key().raw) else { return false };
    algorithms
        .iter()
        .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key.algorithm)
        .any(|algorithm| algorithm.verify_signature(key.bits, message, signature).is_ok())
}

/// Parses a certificate that fills all of `der`.
fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(certificate)
}

/// The three parts of a signed structure, in the raw form that signatures are about.
struct Signed<'a> {
    message: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let outer = Element::read(der)?.expect(SEQUENCE)?;
        let message = Element::read(outer.contents)?.expect(SEQUENCE)?;
        let algorithm = Element::read(message.rest)?.expect(SEQUENCE)?;
        let signature = Element::read(algorithm.rest)?.bit_string()?;
        Some(Self { message: message.whole, algorithm: algorithm.contents, signature })
    }
}

/// The two parts of a public key.
struct Key<'a> {
    algorithm: &'a [u8],
    bits: &'a [u8],
}

impl<'a> Key<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let outer = Element::read(der)?.expect(SEQUENCE)?;
        let algorithm = Element::read(outer.contents)?.expect(SEQUENCE)?;
        let bits = Element::read(algorithm.rest)?.bit_string()?;
        Some(Self { algorithm: algorithm.contents, bits })
    }
}

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// One DER element with what follows it.
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    contents: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Element<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let (&tag, after) = der.split_first()?;
        let (&first, after) = after.split_first()?;
        let (len, after) = match first {
            0..=0x7f => (usize::from(first), after),
            0x81..=0x84 => {
                let (bytes, after) = after.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), after)
            }
            _ => return None,
        };
        let (contents, rest) = after.split_at_checked(len)?;
        Some(Self { tag, whole: &der[..der.len() - rest.len()], contents, rest })
    }

    fn expect(self, tag: u8) -> Option<Self> {
        (self.tag == tag).then_some(self)
    }

    /// Returns the bits of a bit string of whole bytes.
    fn bit_string(self) -> Option<&'a [u8]> {
        match self.expect(BIT_STRING)?.contents.split_first()? {
            (0, bytes) => Some(bytes),
            _ => None,
        }
    }
}
