//! URLs as the server's flags and membership carry them: `scheme://host:port`, or a Unix socket's
//! path. They are compared, sorted and hashed (member ids!) by their text, so the text of a parsed
//! URL is fixed to the one that Go would print for it.
//!
//! Invariants:
//! - An `http` or `https` URL has an address of the form `host:port` and no path; `port` may be
//!   empty or too large for a port, which only the listener or dialler can refuse.
//! - `Url::parse(text)?.to_string()` parses again, to an equal value.
//! - Order and equality are those of the text.
//!
//! Left out: host names beyond ASCII, escaped or not, which are refused (Go takes them). User, query and fragment are kept in the text and otherwise without meaning, as in etcd.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

use super::goflag::quote;

/// How a URL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TCP in the clear.
    Http,
    /// TCP with TLS.
    Https,
    /// A Unix socket in the clear.
    Unix,
    /// A Unix socket with TLS.
    Unixs,
}

impl Scheme {
    /// Returns the scheme's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }

    /// Tells whether TLS is spoken.
    pub const fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    /// Tells whether the address is a socket in the file system.
    pub const fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

/// A URL to listen on, or to be found at.
#[derive(Clone)]
pub struct Url {
    scheme: Scheme,
    address: String,
    path: String,
    text: String,
}

impl Url {
    /// Reads one URL; the error is etcd's sentence.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let parts = Parts::cut(text)
            .map_err(|why| format!("parse {}: {why}", quote(without_fragment(text))))?;
        let scheme = match parts.scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => {
                return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
            }
        };
        if !scheme.is_unix() {
            if split_host_port(&parts.host).is_none() {
                return Err(format!("URL address does not have the form \"host:port\": {text}"));
            }
            if !parts.path.is_empty() {
                return Err(format!("URL must not contain a path: {text}"));
            }
        }
        Ok(Url { scheme, address: parts.host, path: parts.path, text: parts.text })
    }

    /// Reads a list of URLs and sorts it by text, as etcd sorts every list it reads.
    pub fn parse_list<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Url>, String> {
        let mut urls = texts.into_iter().map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        Ok(urls)
    }

    /// Puts a URL together from a scheme and an address `host:port`.
    ///
    /// # Panics
    /// If they make no URL: the caller has both from one.
    pub(super) fn from_parts(scheme: Scheme, address: &str) -> Url {
        let text = format!("{}://{address}", scheme.as_str());
        Url::parse(&text).expect("a scheme and an address of parsed URLs make a URL")
    }

    /// Returns the scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Tells whether TLS is spoken here.
    pub fn is_tls(&self) -> bool {
        self.scheme.is_tls()
    }

    /// Tells whether this is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.scheme.is_unix()
    }

    /// Returns `host:port` as written, brackets included; for a Unix socket what stood for it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the path of a Unix socket (`unix:///run/x.sock` and `unix://x.sock` alike), or `None`
    /// for TCP.
    pub fn socket_path(&self) -> Option<String> {
        self.is_unix().then(|| format!("{}{}", self.address, self.path))
    }

    /// Returns the host without port and brackets; empty where there is none.
    pub fn host(&self) -> &str {
        split_host_port(&self.address).map_or(self.address.as_str(), |(host, _)| host)
    }

    /// Returns the port, or `None` where the text holds none that is a port number.
    pub fn port(&self) -> Option<u16> {
        split_host_port(&self.address).and_then(|(_, port)| port.parse().ok())
    }

    /// Returns the port as written.
    pub(super) fn port_text(&self) -> &str {
        split_host_port(&self.address).map_or("", |(_, port)| port)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Tells whether both name the same place when IP addresses are compared as numbers: the test of
    /// whether two lists of URLs agree without asking DNS.
    pub(super) fn names_same_place(&self, other: &Url) -> bool {
        self.scheme == other.scheme
            && normal_address(&self.address) == normal_address(&other.address)
            && self.path == other.path
    }

    /// Returns this URL with another address.
    pub(super) fn with_address(&self, address: &str) -> Url {
        let text = self.text.replacen(&self.address, address, 1);
        Url { scheme: self.scheme, address: address.to_owned(), path: self.path.clone(), text }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Url {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Url {}

impl PartialOrd for Url {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Url {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

/// The texts of a list of URLs, as membership records carry them.
pub fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// A URL cut at its joints, before its scheme is looked at.
struct Parts {
    scheme: String,
    host: String,
    path: String,
    text: String,
}

impl Parts {
    /// Cuts the text where Go cuts it; the error is Go's reason.
    fn cut(text: &str) -> Result<Parts, String> {
        let (body, fragment) = match text.split_once('#') {
            Some((body, fragment)) => (body, Some(fragment).filter(|f| !f.is_empty())),
            None => (text, None),
        };
        if body.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = split_scheme(body)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        if scheme.is_empty() && !rest.starts_with('/') {
            let segment = rest.split('/').next().unwrap_or_default();
            if segment.contains(':') {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
        }
        let (host, path) = match rest.strip_prefix("//") {
            Some(after) => {
                let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
                let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
                let host = check_host(&scheme, host)?;
                check_user(user)?;
                (host, path)
            }
            None if scheme.is_empty() || rest.starts_with('/') => ("", rest),
            // `unix:run/x.sock` has neither host nor path for Go; the name is kept as the address, so
            // that it is not lost.
            None if scheme.starts_with("unix") => (rest, ""),
            None => ("", ""),
        };
        check_escapes(path)?;
        let before_path = rest.strip_suffix(path).expect("the path ends the rest");
        if let Some(fragment) = fragment {
            check_escapes(fragment)?;
        }
        let mut printed = match before_path {
            "//" if path.is_empty() => format!("{scheme}:"),
            _ => format!("{scheme}:{before_path}{}", escaped_path(path)),
        };
        if let Some(query) = query {
            printed.push_str(&format!("?{query}"));
        }
        if let Some(fragment) = fragment {
            printed.push_str(&format!("#{fragment}"));
        }
        let (host, path) = (host.to_owned(), unescaped(path));
        Ok(Parts { scheme, host, path, text: printed })
    }
}

/// Returns the part that Go's message quotes.
fn without_fragment(text: &str) -> &str {
    text.split_once('#').map_or(text, |(body, _)| body)
}

/// Splits the scheme off, in lower case; empty where there is none.
fn split_scheme(text: &str) -> Result<(String, &str), String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((text[..i].to_ascii_lowercase(), &text[i + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

/// Checks a host with its optional port and gives it back.
fn check_host<'a>(scheme: &str, host: &'a str) -> Result<&'a str, String> {
    let check_port = |port: &str| match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(format!("invalid port {} after host", quote(port))),
    };
    match host.rfind('[') {
        Some(0) => {
            let close = host.rfind(']').ok_or("missing ']' in host")?;
            check_port(&host[close + 1..])?;
            let (inner, zone) = match host[1..close].split_once("%25") {
                Some((inner, zone)) => (inner, Some(zone)),
                None => (&host[1..close], None),
            };
            check_host_characters(inner)?;
            match (inner.parse::<IpAddr>(), zone) {
                (Ok(IpAddr::V6(_)), _) => {}
                (Ok(IpAddr::V4(_)), None) => return Err("invalid IP-literal".to_owned()),
                _ => {
                    let reason = "unable to parse IP";
                    return Err(format!("invalid host: ParseAddr({}): {reason}", quote(inner)));
                }
            }
        }
        Some(_) => return Err("invalid IP-literal".to_owned()),
        None => {
            // NB: `http` is strict about a second colon, other schemes take the last one.
            let strict = scheme == "http" || scheme == "https";
            if let Some(colon) = if strict { host.find(':') } else { host.rfind(':') } {
                check_port(&host[colon..])?;
            }
            check_host_characters(host)?;
        }
    }
    Ok(host)
}

/// Refuses what cannot stand in a host name.
fn check_host_characters(host: &str) -> Result<(), String> {
    check_escapes(host)?;
    // An escaped percent sign stands for itself; no other ASCII character may be escaped.
    if let Some((at, _)) = host.match_indices('%').find(|(at, _)| !host[*at..].starts_with("%25")) {
        return Err(format!("invalid URL escape {}", quote(&escape_at(host, at))));
    }
    let odd = |c: &char| !c.is_ascii_alphanumeric() && !"-_.~!$&'()*+,;=:[]<>\"%".contains(*c);
    match host.chars().find(odd) {
        Some(c) => Err(format!("invalid character {} in host name", quote(&c.to_string()))),
        None => Ok(()),
    }
}

/// Refuses what cannot stand before the `@`.
fn check_user(user: &str) -> Result<(), String> {
    let odd = |c: char| !c.is_ascii_alphanumeric() && !"-._:~!$&'()*+,;=%@".contains(c);
    if user.contains(odd) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    check_escapes(user)
}

/// Escapes what cannot stand in a path, and leaves what is escaped.
fn escaped_path(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:@[]%/".contains(c) {
            escaped.push(c);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Undoes the escapes of a path that [`check_escapes`] has passed. Bytes that are no UTF-8 are
/// replaced, since a path in a flag is text.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits follow"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Refuses a percent sign that two hexadecimal digits do not follow.
fn check_escapes(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)) {
            return Err(format!("invalid URL escape {}", quote(&escape_at(text, at))));
        }
    }
    Ok(())
}

/// Returns the escape that begins at `at`, up to three characters.
fn escape_at(text: &str, at: usize) -> String {
    text[at..].chars().take(3).collect()
}

/// Splits `host:port` as Go's network library does, brackets removed; `None` where there is no port
/// or too many colons.
pub(super) fn split_host_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let clean = |text: &str| !text.contains(['[', ']']);
    (clean(host) && clean(port)).then_some((host, port))
}

/// Puts `host:port` together, with brackets where the host has colons.
pub(super) fn join_host_port(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Returns an address in which equal IP addresses are spelled alike.
fn normal_address(address: &str) -> String {
    let (host, port) = split_host_port(address).unwrap_or((address, ""));
    let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() else {
        return address.to_owned();
    };
    match ip.to_canonical() {
        IpAddr::V4(ip) if port.is_empty() => ip.to_string(),
        IpAddr::V6(ip) if port.is_empty() => format!("[{ip}]"),
        ip => join_host_port(&ip.to_string(), port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_cut_and_printed_as_in_etcd() {
        for (text, address, host, port, printed) in [
            ("http://localhost:2379", "localhost:2379", "localhost", Some(2379), ""),
            (" https://10.0.0.1:1 ", "10.0.0.1:1", "10.0.0.1", Some(1), "https://10.0.0.1:1"),
            ("HTTP://Host:80", "Host:80", "Host", Some(80), "http://Host:80"),
            ("http://[::1]:2380", "[::1]:2380", "::1", Some(2380), ""),
            ("http://[fe80::1%25eth0]:1", "[fe80::1%25eth0]:1", "fe80::1%25eth0", Some(1), ""),
            ("http://:2379", ":2379", "", Some(2379), ""),
            ("http://h:", "h:", "h", None, ""),
            ("http://h:99999", "h:99999", "h", None, ""),
            ("http://u:p@h:1?q=1#f", "h:1", "h", Some(1), ""),
            ("http://h:1#", "h:1", "h", Some(1), "http://h:1"),
            ("http://h:1?", "h:1", "h", Some(1), ""),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.address(), url.host(), url.port()), (address, host, port), "{text}");
            let printed = if printed.is_empty() { text } else { printed };
            assert_eq!(url.to_string(), printed);
            assert_eq!(Url::parse(printed).as_ref(), Ok(&url));
            assert_eq!(url.socket_path(), None);
        }
        for (text, path) in [
            ("unix:///run/m.sock", "/run/m.sock"),
            ("unixs://m.sock", "m.sock"),
            ("unix://localhost:123", "localhost:123"),
            ("unix:/run/m.sock", "/run/m.sock"),
            ("unix:m.sock", "m.sock"),
            ("unix:///run/a%20b", "/run/a b"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!(url.socket_path().as_deref(), Some(path), "{text}");
            assert_eq!(url.to_string(), text);
        }
        let url = Url::parse("unix:///run/é b").expect("a path may hold anything");
        assert_eq!(url.to_string(), "unix:///run/%C3%A9%20b");
        assert_eq!(url.socket_path().as_deref(), Some("/run/é b"));
        assert_eq!(
            Url::parse(url.as_str()).map(|again| again.socket_path()),
            Ok(url.socket_path())
        );
    }

    #[test]
    fn refused_urls_are_refused_in_etcds_words() {
        for (text, error) in [
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("ftp://h:1", "URL scheme must be http, https, unix, or unixs: ftp://h:1"),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            (
                "127.0.0.1:2379",
                "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon",
            ),
            (":2379", "parse \":2379\": missing protocol scheme"),
            ("http://h", "URL address does not have the form \"host:port\": http://h"),
            ("http:h:1", "URL address does not have the form \"host:port\": http:h:1"),
            ("http://[::1]", "URL address does not have the form \"host:port\": http://[::1]"),
            ("http://h:1/", "URL must not contain a path: http://h:1/"),
            ("http://h:1/x", "URL must not contain a path: http://h:1/x"),
            ("http://h:x", "parse \"http://h:x\": invalid port \":x\" after host"),
            ("http://::1:2", "parse \"http://::1:2\": invalid port \"::1:2\" after host"),
            ("http://[::1:2", "parse \"http://[::1:2\": missing ']' in host"),
            ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name"),
            ("http://a%zz:1", "parse \"http://a%zz:1\": invalid URL escape \"%zz\""),
            ("http://é:1", "parse \"http://é:1\": invalid character \"é\" in host name"),
            ("http://a%41:1", "parse \"http://a%41:1\": invalid URL escape \"%41\""),
            ("http://u v@h:1", "parse \"http://u v@h:1\": net/url: invalid userinfo"),
            (
                "http://a\u{1}b:1",
                "parse \"http://a\\x01b:1\": net/url: invalid control character in URL",
            ),
        ] {
            assert_eq!(Url::parse(text).err().as_deref(), Some(error), "{text}");
        }
    }

    #[test]
    fn a_list_is_sorted_by_text() {
        let urls = Url::parse_list(["http://b:1", "http://a:2", "http://a:1"]).expect("all parse");
        assert_eq!(texts(&urls), ["http://a:1", "http://a:2", "http://b:1"]);
        assert!(Url::parse_list(["http://a:1", ""]).is_err());
    }

    #[test]
    fn ip_addresses_are_compared_as_numbers() {
        let same = |a: &str, b: &str| {
            let parse = |text| Url::parse(text).expect("the URL is well formed");
            parse(a).names_same_place(&parse(b))
        };
        assert!(same("http://[::1]:1", "http://[0:0:0:0:0:0:0:1]:1"));
        assert!(same("http://[::ffff:10.0.0.1]:1", "http://10.0.0.1:1"));
        assert!(!same("http://[::1]:1", "http://[::1]:2"));
        assert!(!same("http://h:1", "https://h:1"));
        assert!(!same("http://localhost:1", "http://127.0.0.1:1"));
    }
}
