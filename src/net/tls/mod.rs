//! TLS for clients and peers alike, with rustls on ring.
//!
//! The rules are Go's and etcd's, since certificates that work there are to work here:
//! - A server asks for a client certificate, and insists, as soon as it has a CA file or is told to
//!   authenticate clients. Without a CA file the system's roots are trusted.
//! - Certificate and key are read anew at each handshake, on both sides, so that they can be renewed
//!   without a restart; if they are broken then, that handshake fails, and the old pair is not used.
//!   The CA file is read once, at the start. The revocation list is read at each connection.
//! - ALPN offers `h2` only, yet a client that knows only `http/1.1` is served as if it had said nothing.
//! - What webpki refuses and Go accepts is accepted ([`verify`]).
//! - Who may connect beyond that (revocation, names, addresses) is judged after the handshake
//!   ([`ServerTls::check_peer`]): a refused peer sees a finished handshake and a closed connection.
//!
//! Left out: cipher suites with CBC or without forward secrecy (rustls has none; asking for one is
//! logged), keys on P-521 (ring has none; an ECDSA P-256 key takes its place in generated
//! certificates), reverse DNS for wildcard names in [`ServerTlsOptions::check_address`].

mod chain;
mod generate;
mod identity;
mod load;
mod verify;

#[cfg(all(test, feature = "real"))]
pub(crate) mod tests;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::ClientHello;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

pub use generate::{Generated, generate};
pub use identity::PeerIdentity;

use crate::runtime::Runtime;
use load::{Pair, Roots};

/// Why a TLS configuration is of no use, in words for the person who wrote it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("open {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}: {what}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The options contradict one another.
    #[error("{0}")]
    Options(String),
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What TLS takes from the machine: its cryptography, and the wall clock, since certificates are valid from one
/// moment to another.
#[derive(Clone)]
pub struct Platform {
    wall: Arc<dyn Fn() -> Duration + Send + Sync>,
    cryptography: Arc<CryptoProvider>,
}

impl Platform {
    /// Takes those of a runtime.
    pub fn of<R: Runtime>(runtime: &R) -> Self {
        let cryptography = Arc::new(runtime.cryptography());
        let runtime = runtime.clone();
        Self { wall: Arc::new(move || runtime.wall()), cryptography }
    }

    fn unix_time(&self) -> UnixTime {
        UnixTime::since_unix_epoch((self.wall)())
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Platform")
    }
}

impl TimeProvider for Platform {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.unix_time())
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2, the default minimum.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// What both sides can choose about the protocol.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    /// The lowest version spoken.
    pub version_min: Version,
    /// The highest version spoken; `None` is the highest there is.
    pub version_max: Option<Version>,
    /// TLS 1.2 suites by their IANA names, best first; empty for all. TLS 1.3's are not chosen, as in Go.
    pub cipher_suites: Vec<String>,
}

/// How a listener speaks TLS.
#[derive(Clone, Debug, Default)]
pub struct ServerTlsOptions {
    /// The certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM (PKCS#8, PKCS#1 or SEC1).
    pub key_file: PathBuf,
    /// The CAs that client certificates must chain to, PEM.
    pub trusted_ca_file: Option<PathBuf>,
    /// Insists on a client certificate, also without a CA file.
    pub client_cert_auth: bool,
    /// A revocation list, DER: a connection that shows one of its serials is closed.
    pub crl_file: Option<PathBuf>,
    /// If not empty, a client's common name must be one of these.
    pub allowed_cns: Vec<String>,
    /// If not empty, a client's certificate must be valid for one of these host names.
    pub allowed_hostnames: Vec<String>,
    /// Insists that a client certificate with addresses or names in it covers the client's address.
    pub check_address: bool,
    /// Versions and suites.
    pub protocol: Protocol,
}

impl ServerTlsOptions {
    fn asks_for_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }
}

/// A listener's TLS, its files checked once.
pub struct ServerTls {
    options: ServerTlsOptions,
    platform: Platform,
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<Roots>>,
    current: Mutex<ServerConfigs>,
}

/// The configurations for one certificate. Kept while the files stay as they are, because the
/// sessions that clients may resume live in them.
#[derive(Clone)]
struct ServerConfigs {
    pair: Pair,
    /// Offers `h2`.
    http2: Arc<ServerConfig>,
    /// Says nothing about protocols.
    silent: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads all files and reports what is wrong with them.
    ///
    /// # Errors
    /// When a file is missing or holds something else, or key and certificate do not match.
    pub fn load(options: ServerTlsOptions, platform: Platform) -> Result<Self, TlsError> {
        if !options.allowed_cns.is_empty() && !options.allowed_hostnames.is_empty() {
            return Err(TlsError::Options(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={:?}, hostnames={:?})",
                options.allowed_cns, options.allowed_hostnames
            )));
        }
        let provider = Arc::new(provider(&platform.cryptography, &options.protocol)?);
        let roots = match &options.trusted_ca_file {
            Some(path) => Some(Arc::new(Roots::load(path)?)),
            None if options.client_cert_auth => Some(Arc::new(Roots::of_the_system()?)),
            None => None,
        };
        let pair = Pair::read(&options.cert_file, &options.key_file)?;
        let current = server_configs(&options, &platform, &provider, roots.as_ref(), pair)?;
        Ok(Self { options, platform, provider, roots, current: Mutex::new(current) })
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// When it fails, the alert having been sent; with the stream, where it is still of use, so that
    /// it can be closed in a way that lets the alert arrive.
    pub(super) async fn accept<S>(
        &self,
        stream: S,
    ) -> Result<tokio_rustls::server::TlsStream<S>, (io::Error, Option<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
        let mut hello = match (&mut hello).await {
            Ok(hello) => hello,
            Err(error) => return Err((error, hello.take_io())),
        };
        match self.config(&hello.client_hello()) {
            Ok(config) => {
                let accepted = hello.into_stream(config).into_fallible().await;
                accepted.map_err(|(error, stream)| (error, Some(stream)))
            }
            Err(error) => {
                // The peer is told that it is our fault; that it may not hear it changes nothing.
                let _ = hello.io.write_all(&ALERT_INTERNAL_ERROR).await;
                Err((error.into(), Some(hello.io)))
            }
        }
    }

    /// Chooses the configuration for a client, from the files as they are now.
    fn config(&self, hello: &ClientHello<'_>) -> Result<Arc<ServerConfig>, TlsError> {
        let configs = self.configs()?;
        let offered: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
        let only_old = offered.contains(&&b"http/1.1"[..]) && !offered.contains(&&b"h2"[..]);
        Ok(if only_old { configs.silent } else { configs.http2 })
    }

    fn configs(&self) -> Result<ServerConfigs, TlsError> {
        let pair = Pair::read(&self.options.cert_file, &self.options.key_file)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.pair != pair {
            let roots = self.roots.as_ref();
            *current = server_configs(&self.options, &self.platform, &self.provider, roots, pair)?;
            tracing::info!(file = %self.options.cert_file.display(), "certificate was replaced");
        }
        Ok(current.clone())
    }

    /// Judges whom the handshake has shown: revocation, names, address. `None` is a client without a
    /// certificate, where none is asked for.
    ///
    /// # Errors
    /// With etcd's words, when the peer is not let in.
    pub(super) async fn check_peer<R: Runtime>(
        &self,
        runtime: &R,
        shown: &[CertificateDer<'_>],
        remote: Option<IpAddr>,
    ) -> io::Result<Option<PeerIdentity>> {
        let Some(leaf) = shown.first() else { return Ok(None) };
        let identity = PeerIdentity::read(leaf).map_err(refused)?;
        if let Some(path) = &self.options.crl_file {
            identity::check_revocation(path, shown)?;
        }
        let allowed_cns = &self.options.allowed_cns;
        if !allowed_cns.is_empty() && !allowed_cns.iter().any(|cn| cn == identity.common_name()) {
            return Err(refused("client certificate authentication failed"));
        }
        let allowed_hostnames = &self.options.allowed_hostnames;
        if !allowed_hostnames.is_empty()
            && !allowed_hostnames.iter().any(|host| identity::covers_host(leaf, host))
        {
            return Err(refused("client certificate authentication failed"));
        }
        if let (true, Some(remote)) = (self.options.check_address, remote) {
            identity::check_address(runtime, &identity, remote).await?;
        }
        Ok(Some(identity))
    }
}

/// A fatal alert `internal_error` as the only record of a connection.
const ALERT_INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

fn refused(words: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, words.into())
}

fn server_configs(
    options: &ServerTlsOptions,
    platform: &Platform,
    provider: &Arc<CryptoProvider>,
    roots: Option<&Arc<Roots>>,
    pair: Pair,
) -> Result<ServerConfigs, TlsError> {
    let key = pair.certified(provider, &options.cert_file, &options.key_file)?;
    let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(platform.clone()))
        .with_protocol_versions(&versions(&options.protocol))
        .map_err(|error| TlsError::Options(error.to_string()))?;
    let builder = match roots {
        Some(roots) if options.asks_for_certificates() => {
            builder.with_client_cert_verifier(verify::clients(roots.clone(), provider)?)
        }
        _ => builder.with_no_client_auth(),
    };
    let silent = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    let mut http2 = silent.clone();
    http2.alpn_protocols = vec![b"h2".to_vec()];
    Ok(ServerConfigs { pair, http2: Arc::new(http2), silent: Arc::new(silent) })
}

/// How a client speaks TLS.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsOptions {
    /// The CAs that the server must chain to; `None` for the system's.
    pub trusted_ca_file: Option<PathBuf>,
    /// The client's own certificate and key.
    pub cert_and_key_files: Option<(PathBuf, PathBuf)>,
    /// The name the server's certificate must have; `None` for the host that is connected to.
    pub server_name: Option<String>,
    /// Accepts any certificate.
    pub insecure_skip_verify: bool,
    /// Versions and suites.
    pub protocol: Protocol,
}

/// A client's TLS, its files checked once.
#[derive(Debug)]
pub struct ClientTls {
    options: ClientTlsOptions,
    platform: Platform,
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<Roots>>,
    current: Mutex<(Option<Pair>, Arc<ClientConfig>)>,
}

impl ClientTls {
    /// Reads all files and reports what is wrong with them.
    ///
    /// # Errors
    /// When a file is missing or holds something else, or key and certificate do not match.
    pub fn load(options: ClientTlsOptions, platform: Platform) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(&platform.cryptography, &options.protocol)?);
        let roots = match &options.trusted_ca_file {
            _ if options.insecure_skip_verify => None,
            Some(path) => Some(Arc::new(Roots::load(path)?)),
            None => Some(Arc::new(Roots::of_the_system()?)),
        };
        let pair = read_own_pair(&options)?;
        let config = client_config(&options, &platform, &provider, roots.as_ref(), pair.as_ref())?;
        Ok(Self { options, platform, provider, roots, current: Mutex::new((pair, config)) })
    }

    /// Does the handshake with a server that was reached as `host`.
    ///
    /// # Errors
    /// When it fails, or the server does not choose HTTP/2.
    pub(super) async fn connect<S>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<tokio_rustls::client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.options.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a server name"))?;
        let connector = TlsConnector::from(self.config()?);
        let stream = connector.connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the server speaks no HTTP/2"));
        }
        Ok(stream)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let pair = read_own_pair(&self.options)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != pair {
            let (roots, own) = (self.roots.as_ref(), pair.as_ref());
            let config = client_config(&self.options, &self.platform, &self.provider, roots, own)?;
            *current = (pair, config);
        }
        Ok(current.1.clone())
    }
}

fn read_own_pair(options: &ClientTlsOptions) -> Result<Option<Pair>, TlsError> {
    options.cert_and_key_files.as_ref().map(|(cert, key)| Pair::read(cert, key)).transpose()
}

fn client_config(
    options: &ClientTlsOptions,
    platform: &Platform,
    provider: &Arc<CryptoProvider>,
    roots: Option<&Arc<Roots>>,
    pair: Option<&Pair>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = match roots {
        Some(roots) => verify::servers(roots.clone(), provider)?,
        None => verify::anybody(provider),
    };
    let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(platform.clone()))
        .with_protocol_versions(&versions(&options.protocol))
        .map_err(|error| TlsError::Options(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (pair, &options.cert_and_key_files) {
        (Some(pair), Some((cert_file, key_file))) => {
            let key = pair.certified(provider, cert_file, key_file)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn versions(protocol: &Protocol) -> Vec<&'static SupportedProtocolVersion> {
    let max = protocol.version_max.unwrap_or(Version::Tls13);
    let spoken = |version: &Version| (protocol.version_min..=max).contains(version);
    [(Version::Tls13, &rustls::version::TLS13), (Version::Tls12, &rustls::version::TLS12)]
        .into_iter()
        .filter_map(|(version, it)| spoken(&version).then_some(it))
        .collect()
}

/// Returns the cryptography with the suites asked for.
fn provider(all: &CryptoProvider, protocol: &Protocol) -> Result<CryptoProvider, TlsError> {
    let mut provider = all.clone();
    if protocol.cipher_suites.is_empty() {
        return Ok(provider);
    }
    let all = std::mem::take(&mut provider.cipher_suites);
    let is_13 =
        |suite: &rustls::SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
    provider.cipher_suites = all.iter().copied().filter(is_13).collect();
    for name in &protocol.cipher_suites {
        // Go's old aliases lack the hash at the end.
        let known = |suite: &&rustls::SupportedCipherSuite| {
            let iana = format!("{:?}", suite.suite());
            iana == *name || iana.strip_suffix("_SHA256") == Some(name)
        };
        match all.iter().find(known) {
            Some(suite) if !provider.cipher_suites.contains(suite) => {
                provider.cipher_suites.push(*suite);
            }
            Some(_) => {}
            None => tracing::warn!(suite = %name, "cipher suite is not offered: it is not secure"),
        }
    }
    let has_12 = provider.cipher_suites.iter().any(|suite| !is_13(suite));
    if !has_12 && protocol.version_max == Some(Version::Tls12) {
        return Err(TlsError::Options("none of the cipher suites asked for is supported".into()));
    }
    Ok(provider)
}
