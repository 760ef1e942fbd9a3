//! Certificates for tests, and the rules of verification.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;

use super::chain::{self, NoChain, Usage};
use super::*;

/// A machine whose clock stands at the first of January 2030.
pub(crate) fn platform() -> Platform {
    Platform {
        wall: Arc::new(|| Duration::from_secs(1_893_456_000)),
        cryptography: Arc::new(rustls::crypto::ring::default_provider()),
    }
}

/// A certificate authority and the directory where its certificates go.
pub(crate) struct Authority {
    pub(crate) dir: TempDir,
    params: CertificateParams,
    key: KeyPair,
}

/// What a certificate is asked to be.
#[derive(Clone, Default)]
pub(crate) struct Ask {
    pub(crate) cn: &'static str,
    pub(crate) hosts: Vec<String>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) is_ca: bool,
    pub(crate) serial: Option<u64>,
}

impl Authority {
    pub(crate) fn new(cn: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("key");
        let dir = tempfile::tempdir().expect("dir");
        let certificate = params.self_signed(&key).expect("ca");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("write");
        Self { dir, params, key }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Signs a certificate and writes `<name>.pem` and `<name>.key`.
    pub(crate) fn sign(&self, name: &str, ask: &Ask) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(ask.hosts.clone()).expect("hosts");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, ask.cn);
        params.extended_key_usages = ask.usages.clone();
        params.serial_number = ask.serial.map(Into::into);
        if ask.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("key");
        let certificate =
            params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).expect("sign");
        let cert_file = self.dir.path().join(format!("{name}.pem"));
        let key_file = self.dir.path().join(format!("{name}.key"));
        std::fs::write(&cert_file, certificate.pem()).expect("write");
        std::fs::write(&key_file, key.serialize_pem()).expect("write");
        (cert_file, key_file)
    }

    /// Signs a server's certificate for loopback.
    pub(crate) fn server(&self) -> ServerTlsOptions {
        let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let (cert_file, key_file) =
            self.sign("server", &Ask { cn: "server", hosts, ..Ask::default() });
        ServerTlsOptions { cert_file, key_file, ..ServerTlsOptions::default() }
    }

    /// Signs a revocation list of one serial number.
    pub(crate) fn revoke(&self, serial: u64) -> PathBuf {
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2029, 1, 1),
            next_update: rcgen::date_time_ymd(2031, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: rcgen::date_time_ymd(2029, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&Issuer::from_params(&self.params, &self.key)).expect("crl");
        let path = self.dir.path().join("crl.der");
        std::fs::write(&path, list.der()).expect("write");
        path
    }
}

/// A client certificate of X.509 version 1 with its key and its CA, as OpenSSL 3.0 makes it.
pub(crate) fn version_1(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net/tls/fixtures").join(file)
}

fn der(path: &Path) -> CertificateDer<'static> {
    load::certificates(path, &std::fs::read(path).expect("read")).expect("PEM").remove(0)
}

fn verify(leaf: &Path, between: &[&Path], root: &Path, usage: Usage) -> Result<(), NoChain> {
    let now = platform().unix_time();
    verify_at(leaf, between, root, usage, now)
}

fn verify_at(
    leaf: &Path,
    between: &[&Path],
    root: &Path,
    usage: Usage,
    now: UnixTime,
) -> Result<(), NoChain> {
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let between: Vec<_> = between.iter().map(|path| der(path)).collect();
    chain::verify(&der(leaf), &between, &[der(root)], now, usage, algorithms.all)
}

#[test]
fn a_chain_is_found_directly_and_through_an_intermediate() {
    let root = Authority::new("root");
    let (leaf, _) = root.sign("leaf", &Ask { cn: "leaf", ..Ask::default() });
    assert_eq!(verify(&leaf, &[], &root.ca_file(), Usage::Client), Ok(()));
    // A leaf marked as a CA works as a signer, too.
    let (middle, middle_key) =
        root.sign("middle", &Ask { cn: "middle", is_ca: true, ..Ask::default() });
    assert_eq!(verify(&middle, &[], &root.ca_file(), Usage::Client), Ok(()));
    let mut below = Authority::new("middle");
    below.key =
        KeyPair::from_pem(&std::fs::read_to_string(middle_key).expect("read")).expect("key");
    let (deep, _) = below.sign("deep", &Ask { cn: "deep", ..Ask::default() });
    assert_eq!(verify(&deep, &[&middle], &root.ca_file(), Usage::Client), Ok(()));
    assert_eq!(verify(&deep, &[], &root.ca_file(), Usage::Client), Err(NoChain));
}

#[test]
fn a_leaf_that_is_no_ca_signs_nothing() {
    let root = Authority::new("root");
    let (middle, middle_key) = root.sign("middle", &Ask { cn: "middle", ..Ask::default() });
    let mut below = Authority::new("middle");
    below.key =
        KeyPair::from_pem(&std::fs::read_to_string(middle_key).expect("read")).expect("key");
    let (deep, _) = below.sign("deep", &Ask { cn: "deep", ..Ask::default() });
    assert_eq!(verify(&deep, &[&middle], &root.ca_file(), Usage::Client), Err(NoChain));
}

#[test]
fn a_foreign_ca_of_the_same_name_signs_nothing() {
    let (ours, foreign) = (Authority::new("root"), Authority::new("root"));
    let (leaf, _) = foreign.sign("leaf", &Ask { cn: "leaf", ..Ask::default() });
    assert_eq!(verify(&leaf, &[], &ours.ca_file(), Usage::Client), Err(NoChain));
    assert_eq!(verify(&leaf, &[&foreign.ca_file()], &ours.ca_file(), Usage::Client), Err(NoChain));
}

#[test]
fn a_leaf_in_the_ca_file_is_its_own_chain_for_its_own_uses_only() {
    let root = Authority::new("root");
    let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (leaf, _) = root.sign("leaf", &Ask { cn: "leaf", usages, ..Ask::default() });
    assert_eq!(verify(&leaf, &[], &leaf, Usage::Server), Ok(()));
    assert_eq!(verify(&leaf, &[], &leaf, Usage::Client), Err(NoChain));
}

#[test]
fn a_version_1_certificate_is_accepted_within_its_dates() {
    let (leaf, root) = (version_1("v1-client.pem"), version_1("v1-ca.pem"));
    assert_eq!(verify(&leaf, &[], &root, Usage::Client), Ok(()));
    let early = UnixTime::since_unix_epoch(Duration::from_secs(1_000_000_000));
    assert_eq!(verify_at(&leaf, &[], &root, Usage::Client, early), Err(NoChain));
    let late = UnixTime::since_unix_epoch(Duration::from_secs(5_000_000_000));
    assert_eq!(verify_at(&leaf, &[], &root, Usage::Client, late), Err(NoChain));
    let other = Authority::new("old CA");
    assert_eq!(verify(&leaf, &[], &other.ca_file(), Usage::Client), Err(NoChain));
}

#[test]
fn a_changed_certificate_is_not_signed_any_more() {
    let root = Authority::new("root");
    let (leaf, _) = root.sign("leaf", &Ask { cn: "leaf", ..Ask::default() });
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let good = der(&leaf).as_ref().to_vec();
    let roots = [der(&root.ca_file())];
    let now = platform().unix_time();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1;
        let bad = CertificateDer::from(bad);
        let verdict = chain::verify(&bad, &[], &roots, now, Usage::Client, algorithms.all);
        assert_eq!(verdict, Err(NoChain), "byte {i}");
    }
}

#[test]
fn errors_name_the_file_and_what_is_wrong_with_it() {
    let ca = Authority::new("root");
    let fails = |change: &dyn Fn(&mut ServerTlsOptions)| {
        let mut options = ca.server();
        change(&mut options);
        ServerTls::load(options, platform()).err().expect("an error").to_string()
    };
    let missing = fails(&|o| o.cert_file = "/nowhere/cert.pem".into());
    assert_eq!(missing, "open /nowhere/cert.pem: No such file or directory (os error 2)");
    let empty = ca.dir.path().join("empty.pem");
    std::fs::write(&empty, "").expect("write");
    assert!(fails(&|o| o.cert_file = empty.clone()).ends_with("certificate input"));
    assert!(fails(&|o| o.key_file = empty.clone()).ends_with("key input"));
    assert!(fails(&|o| o.trusted_ca_file = Some(empty.clone())).contains("empty.pem"));
    let (_, other_key) = ca.sign("other", &Ask::default());
    assert!(fails(&|o| o.key_file = other_key.clone()).ends_with("does not match public key"));
    assert_eq!(
        fails(&|o| {
            o.allowed_cns = vec!["a".into()];
            o.allowed_hostnames = vec!["b".into()];
        }),
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])"
    );
}

#[test]
fn cipher_suites_are_chosen_by_their_names_and_unsafe_ones_are_left_out() {
    let choose = |names: &[&str]| {
        let cipher_suites = names.iter().map(|&name| name.to_owned()).collect();
        let protocol =
            Protocol { cipher_suites, version_max: Some(Version::Tls12), ..Protocol::default() };
        let suites =
            provider(&platform().cryptography, &protocol).map(|provider| provider.cipher_suites);
        suites.map(|suites| suites.iter().map(|suite| format!("{:?}", suite.suite())).collect())
    };
    let chosen: Vec<String> =
        choose(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_RSA_WITH_AES_128_CBC_SHA"])
            .expect("one");
    assert!(
        chosen.contains(&"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256".to_owned()),
        "{chosen:?}"
    );
    assert_eq!(chosen.iter().filter(|name| name.starts_with("TLS_ECDHE")).count(), 1);
    let none: Result<Vec<String>, _> = choose(&["TLS_RSA_WITH_AES_128_CBC_SHA"]);
    none.expect_err("no suite is left");
}

#[test]
fn generated_certificates_are_kept_and_load() {
    let dir = tempfile::tempdir().expect("dir");
    let fixtures = dir.path().join("fixtures/client");
    let hosts = ["127.0.0.1".to_owned(), "node.example".to_owned()];
    let wall = (platform().wall)();
    generate(&fixtures, &hosts, 0, wall).expect_err("no validity");
    let files = generate(&fixtures, &hosts, 1, wall).expect("generated");
    let first = std::fs::read(&files.cert_file).expect("read");
    assert_eq!(generate(&fixtures, &hosts, 1, wall).expect("kept"), files);
    assert_eq!(std::fs::read(&files.cert_file).expect("read"), first);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&files.key_file).expect("key").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let identity = PeerIdentity::read(&der(&files.cert_file)).expect("parsed");
    assert_eq!(identity.organizations(), ["etcd"]);
    assert_eq!(identity.dns_names(), ["node.example"]);
    let Generated { cert_file, key_file } = files;
    let options = ServerTlsOptions { cert_file, key_file, ..ServerTlsOptions::default() };
    ServerTls::load(options, platform()).expect("usable");
}
