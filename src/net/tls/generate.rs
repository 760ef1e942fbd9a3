//! Self-signed certificates (`--auto-tls`, `--peer-auto-tls`): encryption without identity.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

use super::TlsError;

/// Where the generated files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The certificate, PEM.
    pub cert_file: PathBuf,
    /// The key, PEM.
    pub key_file: PathBuf,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a self-signed certificate for `hosts` under `dir` (`<data-dir>/fixtures/client` or
/// `…/peer`), valid for `years` from `wall`. Files that are there already are used as they are.
///
/// # Errors
/// When `years` is 0 or the files can't be written.
pub fn generate(
    dir: &Path,
    hosts: &[String],
    years: u32,
    wall: Duration,
) -> Result<Generated, TlsError> {
    let files = Generated { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") };
    if files.cert_file.exists() && files.key_file.exists() {
        return Ok(files);
    }
    if years == 0 {
        return Err(TlsError::Options(
            "selfSignedCertValidity is invalid,it should be greater than 0".into(),
        ));
    }
    let failed = |error: rcgen::Error| TlsError::Options(error.to_string());
    let mut params = CertificateParams::new(hosts).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + wall;
    params.not_after = params.not_before + DAY * 365 * years;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    std::fs::create_dir_all(dir)
        .map_err(|error| TlsError::Read { path: dir.to_path_buf(), error })?;
    // The key last: a crash in between leaves a certificate without one, which is made anew.
    write(&files.cert_file, certificate.pem().as_bytes(), 0o644)?;
    write(&files.key_file, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(files)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let written = options.open(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| TlsError::Read { path: path.to_path_buf(), error })
}
