//! A client's connection: one HTTP/2 connection to one server, in clear or over mTLS.
//!
//! The whole of it is a `tower` service, which is all that tonic's generated clients ask for. A broken
//! connection is not mended: every later request fails with `Unavailable`, and the caller decides whether
//! to connect anew. A request is never sent twice.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::ReadBufCursor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::body::Body;
use tower_service::Service;

/// Where a server listens, and how it is spoken to.
#[derive(Clone)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The client's side of mTLS, if the server wants it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl Endpoint {
    /// A server in clear, at `http://host:port` or plain `host:port`.
    pub fn clear(url: &str) -> Self {
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { address, tls: None }
    }

    /// Connects, within `limit`.
    pub async fn connect(&self, limit: Duration) -> Result<Channel> {
        tokio::time::timeout(limit, self.connect_patiently())
            .await
            .map_err(|_| anyhow::anyhow!("{} did not answer within {limit:?}", self.address))?
    }

    async fn connect_patiently(&self) -> Result<Channel> {
        let tcp = TcpStream::connect(&self.address).await.context(self.address.clone())?;
        tcp.set_nodelay(true)?;
        let (sender, scheme) = match &self.tls {
            None => (handshake(tcp).await?, Scheme::HTTP),
            Some(config) => {
                let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
                let name = ServerName::try_from(host.to_owned())?;
                let tls = tokio_rustls::TlsConnector::from(config.clone()).connect(name, tcp).await?;
                (handshake(tls).await?, Scheme::HTTPS)
            }
        };
        Ok(Channel { sender, scheme, authority: self.address.parse()? })
    }
}

/// Reads a client's certificate and the CA it trusts, in PEM.
pub fn mutual_tls(ca: &Path, certificate: &Path, key: &Path) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).context("the CA's file")? {
        roots.add(root?)?;
    }
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

async fn handshake<T>(stream: T) -> Result<SendRequest<Body>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(Tasks)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 16)
        .handshake(Io { stream, scratch: vec![0; 64 << 10].into_boxed_slice() })
        .await?;
    // Its end is seen by every later request; the reason goes to nobody.
    tokio::spawn(connection);
    Ok(sender)
}

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Channel {
    sender: SendRequest<Body>,
    scheme: Scheme,
    authority: Authority,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path_and_query().cloned();
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build();
        *request.uri_mut() = uri.expect("its parts are valid");
        Box::pin(self.sender.send_request(request))
    }
}

/// Runs hyper's tasks on tokio.
#[derive(Clone)]
struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(task);
    }
}

/// A tokio stream in hyper's terms. Reads go through `scratch`, which spares `unsafe` and costs a copy.
struct Io<T> {
    stream: T,
    scratch: Box<[u8]>,
}

impl<T: AsyncRead + Unpin> hyper::rt::Read for Io<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = into.remaining().min(this.scratch.len());
        let mut buffer = ReadBuf::new(&mut this.scratch[..room]);
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer))?;
        into.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for Io<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }
}
