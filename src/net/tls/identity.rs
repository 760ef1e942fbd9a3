//! Who a verified certificate says its holder is, and whether that holder may come in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{load, refused};
use crate::runtime::Runtime;

/// The names in a client certificate that was verified. Cheap to clone: it goes with every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(Arc<Names>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
}

impl PeerIdentity {
    /// Returns the subject's common name; empty if it has none.
    pub fn common_name(&self) -> &str {
        &self.0.common_name
    }

    /// Returns the subject's organizations.
    pub fn organizations(&self) -> &[String] {
        &self.0.organizations
    }

    /// Returns the host names of the subject alternative names.
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }

    /// Returns the addresses of the subject alternative names.
    pub fn ip_addresses(&self) -> &[IpAddr] {
        &self.0.ip_addresses
    }

    /// Reads the names from a certificate.
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, &'static str> {
        let malformed = "x509: malformed certificate";
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed)?;
        let mut names = Names::default();
        let subject = certificate.subject();
        // Go takes the last of several common names.
        for name in subject.iter_common_name() {
            names.common_name = name.as_str().unwrap_or_default().to_owned();
        }
        for name in subject.iter_organization() {
            names.organizations.push(name.as_str().unwrap_or_default().to_owned());
        }
        let alternatives = certificate.subject_alternative_name().map_err(|_| malformed)?;
        for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.ip_addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(Self(Arc::new(names)))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(|four| IpAddr::V4(Ipv4Addr::from(four)));
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|six| IpAddr::V6(Ipv6Addr::from(six)))).ok()
}

/// Says whether a certificate is valid for a host name or address.
pub(super) fn covers_host(der: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else { return false };
    ParsedCertificate::try_from(der)
        .is_ok_and(|leaf| rustls::client::verify_server_name(&leaf, &name).is_ok())
}

/// Refuses certificates whose serial number is on the revocation list. As in etcd, the list's own
/// signature, issuer and dates are not looked at: the file is the operator's.
pub(super) fn check_revocation(path: &Path, shown: &[CertificateDer<'_>]) -> io::Result<()> {
    let der = load::read(path)?;
    let malformed = || refused("x509: malformed crl");
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| malformed())?;
    for certificate in shown {
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|_| refused("x509: malformed certificate"))?;
        let serial = &certificate.tbs_certificate.serial;
        if list.iter_revoked_certificates().any(|revoked| revoked.serial() == serial) {
            return Err(refused(format!("transport: certificate serial {serial:x} revoked")));
        }
    }
    Ok(())
}

/// Refuses a certificate with addresses or names in it of which none is the peer's address, names
/// being looked up. A wildcard would need the address's own name, which is not looked up: it matches
/// nothing.
pub(super) async fn check_address<R: Runtime>(
    runtime: &R,
    identity: &PeerIdentity,
    remote: IpAddr,
) -> io::Result<()> {
    let remote = remote.to_canonical();
    let (addresses, names) = (identity.ip_addresses(), identity.dns_names());
    if addresses.is_empty() && names.is_empty() || addresses.contains(&remote) {
        return Ok(());
    }
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        // A name that can't be looked up is one that does not match.
        let found = runtime.resolve(name).await.unwrap_or_default();
        if found.iter().any(|found| found.to_canonical() == remote) {
            return Ok(());
        }
    }
    if names.is_empty() {
        let valid: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let valid = valid.join(", ");
        return Err(refused(format!("x509: certificate is valid for {valid}, not {remote}")));
    }
    Err(refused(format!("tls: \"{remote}\" does not match any of DNSNames {names:?}")))
}
