//! TLS whose every byte is decided by the seed.
//!
//! ring draws its randomness from the kernel and takes none from its caller, so what draws is replaced:
//! random bytes come from the run's own stream, and keys are exchanged by a method without a secret, since
//! nobody listens in a simulation. The rest is ring's and draws nothing: suites, hashes, and Ed25519, whose
//! signatures are a function of key and message. All certificates are therefore of that kind.
//!
//! The stream belongs to the thread of the run: [`begin`] starts it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use mainstay::net::tls::ClientTlsOptions;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::{Error, NamedGroup, PeerMisbehaved};

use crate::rng::Rng;

thread_local! {
    static STREAM: RefCell<Option<Rng>> = const { RefCell::new(None) };
}

/// Starts the randomness of a run on this thread.
pub fn begin(seed: u64) {
    STREAM.set(Some(Rng::new(seed, "cryptography")));
}

fn fill(bytes: &mut [u8]) {
    STREAM.with_borrow_mut(|stream| {
        let stream = stream.as_mut().expect("a run has begun");
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&stream.next_u64().to_le_bytes()[..chunk.len()]);
        }
    });
}

/// Returns the cryptography of a run.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![&Open],
        secure_random: &Seeded,
        ..rustls::crypto::ring::default_provider()
    }
}

/// Random bytes from the run's stream.
#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill(bytes);
        Ok(())
    }
}

/// An exchange under X25519's name and of its length, whose secret follows from what both sides show.
#[derive(Debug)]
struct Open;

const SHARE: usize = 32;

impl SupportedKxGroup for Open {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut share = [0; SHARE];
        fill(&mut share);
        Ok(Box::new(Shown(share)))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// What one side shows.
struct Shown([u8; SHARE]);

impl ActiveKeyExchange for Shown {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        if peer.len() != SHARE {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        let mixed: Vec<u8> = self.0.iter().zip(peer).map(|(own, other)| own ^ other).collect();
        Ok(SharedSecret::from(mixed))
    }

    fn pub_key(&self) -> &[u8] {
        &self.0
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// The files that everybody in a run shows and trusts.
#[derive(Clone, Debug)]
pub struct Files {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The certificate of all members and clients.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Files {
    /// Makes the files, for these hosts.
    pub fn make(dir: &Path, hosts: Vec<String>) -> Self {
        let authority_key = key(1);
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.distinguished_name.push(DnType::CommonName, "the run's authority");
        let root = authority.self_signed(&authority_key).expect("an authority is no trouble");
        let issuer = Issuer::from_params(&authority, &authority_key);
        let own_key = key(2);
        let mut own = CertificateParams::new(hosts).expect("hosts have plain names");
        own.distinguished_name.push(DnType::CommonName, "everybody");
        own.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let own = own.signed_by(&own_key, &issuer).expect("an authority signs");
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a fresh temporary directory takes files");
            path
        };
        Self {
            authority: write("authority.pem", root.pem()),
            certificate: write("certificate.pem", own.pem()),
            key: write("key.pem", own_key.serialize_pem()),
        }
    }

    /// What a client of the run says and trusts.
    pub fn client(&self) -> ClientTlsOptions {
        ClientTlsOptions {
            trusted_ca_file: Some(self.authority.clone()),
            cert_and_key_files: Some((self.certificate.clone(), self.key.clone())),
            ..ClientTlsOptions::default()
        }
    }
}

/// An Ed25519 key, from a byte; RFC 8410 says how one is written down.
fn key(byte: u8) -> KeyPair {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend([byte; 32]);
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(der);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).expect("a key is 32 bytes")
}
