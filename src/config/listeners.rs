//! TLS settings held against the listeners: what speaks TLS needs a certificate, what does not
//! ignores one with a warning.
//!
//! etcd finds these while it opens the listeners, peers first, so its complaints come after all
//! others and are told as `discovery failed`.

use std::path::PathBuf;

use super::goflag::{quote, quote_list};
use super::logline::LogLine;
use super::raw::Raw;
use super::settings::{TlsSettings, path};
use super::url::{Scheme, Url};
use super::validate::{Complaint, tls_version};

/// Cipher suites by the names of the standard, those considered insecure included: etcd takes them
/// all, and what the TLS library cannot do is its own to report.
const CIPHER_SUITES: [&str; 25] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// Reads a name of a cipher suite; two have a short one that older etcd documents.
fn cipher_suite(name: &str) -> Result<String, Complaint> {
    let full = match name {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => {
            format!("{name}_SHA256")
        }
        _ => name.to_owned(),
    };
    if !CIPHER_SUITES.contains(&full.as_str()) {
        return Err(Complaint::Start(format!("unexpected TLS cipher suite {}", quote(name))));
    }
    Ok(full)
}

/// Makes the TLS settings and compares them with the listeners; peers come before clients.
pub(super) fn check(raw: &Raw, log: &mut Vec<LogLine>) -> Result<[TlsSettings; 2], Complaint> {
    let suites =
        raw.cipher_suites.iter().map(|name| cipher_suite(name)).collect::<Result<Vec<_>, _>>()?;
    let common = TlsSettings {
        self_signed_cert_validity_years: raw.self_signed_cert_validity,
        min_version: tls_version(&raw.tls_min_version)?,
        max_version: tls_version(&raw.tls_max_version)?,
        cipher_suites: suites,
        ..TlsSettings::default()
    };
    let peer = TlsSettings {
        cert_file: path(&raw.peer_cert_file),
        key_file: path(&raw.peer_key_file),
        client_cert_file: path(&raw.peer_client_cert_file),
        client_key_file: path(&raw.peer_client_key_file),
        trusted_ca_file: path(&raw.peer_trusted_ca_file),
        crl_file: path(&raw.peer_crl_file),
        client_cert_auth: raw.peer_client_cert_auth,
        allowed_cns: raw.peer_cert_allowed_cn.clone(),
        allowed_hostnames: raw.peer_cert_allowed_hostname.clone(),
        skip_client_san_verification: raw.peer_skip_client_san_verification,
        auto_tls: raw.peer_auto_tls,
        ..common.clone()
    };
    check_peer_listeners(raw, &peer, log)?;
    let client = TlsSettings {
        cert_file: path(&raw.cert_file),
        key_file: path(&raw.key_file),
        client_cert_file: path(&raw.client_cert_file),
        client_key_file: path(&raw.client_key_file),
        trusted_ca_file: path(&raw.trusted_ca_file),
        crl_file: path(&raw.client_crl_file),
        client_cert_auth: raw.client_cert_auth,
        allowed_hostnames: raw.client_cert_allowed_hostname.clone(),
        auto_tls: raw.auto_tls,
        ..common
    };
    check_client_listeners(raw, &client, log)?;
    Ok([client, peer])
}

fn check_peer_listeners(
    raw: &Raw,
    tls: &TlsSettings,
    log: &mut Vec<LogLine>,
) -> Result<(), Complaint> {
    if tls.auto_tls && tls.has_files() {
        log.push(LogLine::warn("ignoring peer auto TLS since certs given", Vec::new()));
    }
    for url in &raw.listen_peer_urls.urls {
        let field = || vec![("peer-url", url.as_str().into())];
        if url.is_tls() {
            if !tls.is_enabled() {
                let address = url.address();
                return Err(Complaint::Start(format!(
                    "cannot listen on TLS for {address}: KeyFile and CertFile are not presented"
                )));
            }
            check_tls_files(tls)?;
        } else if url.scheme() == Scheme::Http {
            if tls.is_enabled() {
                let text = "scheme is HTTP while key and cert files are present; ignoring key \
                            and cert files";
                log.push(LogLine::warn(text, field()));
            }
            if tls.client_cert_auth {
                let text = "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring \
                            client cert auth for this URL";
                log.push(LogLine::warn(text, field()));
            }
        }
    }
    Ok(())
}

fn check_client_listeners(
    raw: &Raw,
    tls: &TlsSettings,
    log: &mut Vec<LogLine>,
) -> Result<(), Complaint> {
    if tls.auto_tls && tls.has_files() {
        log.push(LogLine::warn("ignoring client auto TLS since certs given", Vec::new()));
    }
    let (grpc, http) = (&raw.listen_client_urls.urls, &raw.listen_client_http_urls.urls);
    for url in grpc.iter().chain(http) {
        let field = || vec![("client-url", url.as_str().into())];
        if url.is_tls() {
            if !tls.is_enabled() {
                return Err(Complaint::Start(format!(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url \
                     {url} with HTTPS scheme"
                )));
            }
            continue;
        }
        if tls.is_enabled() {
            let text = "scheme is http or unix while key and cert files are present; ignoring \
                        key and cert files";
            log.push(LogLine::warn(text, field()));
        }
        if tls.client_cert_auth {
            let text = "scheme is http or unix while --client-cert-auth is enabled; ignoring \
                        client cert auth for this URL";
            log.push(LogLine::warn(text, field()));
        }
    }
    let place = |url: &Url| url.socket_path().unwrap_or_else(|| url.address().to_owned());
    if let Some(url) = http.iter().find(|url| grpc.iter().any(|other| place(other) == place(url))) {
        return Err(Complaint::Start(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             {url}"
        )));
    }
    if grpc.iter().chain(http).any(Url::is_tls) {
        check_tls_files(tls)?;
    }
    if raw.listen_metrics_urls.urls.iter().any(Url::is_tls) && !tls.is_enabled() {
        let text = "client TLS key/cert (--cert-file, --key-file) must be provided for metrics \
                    secure url";
        return Err(Complaint::Start(text.to_owned()));
    }
    Ok(())
}

/// Checks one side's files and lists where that side speaks TLS.
fn check_tls_files(tls: &TlsSettings) -> Result<(), Complaint> {
    let text = |file: &Option<PathBuf>| match file {
        Some(path) => path.display().to_string(),
        None => String::new(),
    };
    if !tls.makes_certificate() && tls.cert_file.is_some() != tls.key_file.is_some() {
        let (key, cert) = (text(&tls.key_file), text(&tls.cert_file));
        return Err(Complaint::Start(format!(
            "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
        )));
    }
    if tls.client_cert_file.is_some() != tls.client_key_file.is_some() {
        let (key, cert) = (text(&tls.client_key_file), text(&tls.client_cert_file));
        return Err(Complaint::Start(format!(
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, \
             cert: {cert}]"
        )));
    }
    if !tls.allowed_cns.is_empty() && !tls.allowed_hostnames.is_empty() {
        return Err(Complaint::Start(format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})",
            quote_list(&tls.allowed_cns),
            quote_list(&tls.allowed_hostnames)
        )));
    }
    Ok(())
}
