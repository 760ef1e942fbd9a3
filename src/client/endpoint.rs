//! Where a server is, in the forms that etcd's clients take.

use std::str::FromStr;

use crate::runtime::Address;

/// One server: `host:port`, `http://host:port`, `https://host:port`, `unix:path` or `unixs:path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Whether the scheme asks for TLS, or for none; `None` if there is no scheme.
    pub tls: Option<bool>,
}

/// Why a text is no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {0:?} is not host:port, http(s)://host:port or unix(s):path")]
pub struct BadEndpoint(String);

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => match text.split_once(':') {
                Some((scheme @ ("unix" | "unixs"), rest)) => (Some(scheme), rest),
                _ => (None, text),
            },
        };
        let tls = match scheme {
            None => None,
            Some("http" | "unix") => Some(false),
            Some("https" | "unixs") => Some(true),
            Some(_) => return Err(bad()),
        };
        let address = if matches!(scheme, Some("unix" | "unixs")) {
            if rest.is_empty() {
                return Err(bad());
            }
            Address::Unix(rest.into())
        } else {
            let rest = rest.split('/').next().unwrap_or_default();
            let address: Address = rest.parse().map_err(|_| bad())?;
            match address {
                // A port alone is one on this host.
                Address::Tcp { host, port } if host.is_empty() => Address::tcp("localhost", port),
                address => address,
            }
        };
        Ok(Self { address, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_decides_about_tls_and_no_scheme_leaves_it_open() {
        let read = |text: &str| text.parse::<Endpoint>().map(|it| (it.address.to_string(), it.tls));
        assert_eq!(read("127.0.0.1:2379"), Ok(("127.0.0.1:2379".to_owned(), None)));
        assert_eq!(read("http://h:1/"), Ok(("h:1".to_owned(), Some(false))));
        assert_eq!(read("https://[::1]:1"), Ok(("[::1]:1".to_owned(), Some(true))));
        assert_eq!(read("unix:/run/s"), Ok(("unix:/run/s".to_owned(), Some(false))));
        assert_eq!(read("unixs:///run/s"), Ok(("unix:/run/s".to_owned(), Some(true))));
        for bad in ["", "h", "ftp://h:1", "http://h", "unix:", "h:port"] {
            assert_eq!(read(bad), Err(BadEndpoint(bad.to_owned())), "{bad}");
        }
    }
}
