//! Tells the service manager how the server is: `READY=1` once clients are served, as etcd does for units
//! of `Type=notify`, and `STOPPING=1` when a signal has come, so that a slow hand-over is not taken for a
//! hang.
//!
//! The manager names a datagram socket in `NOTIFY_SOCKET`: a path, or a name in the abstract name space
//! with `@` in the place of the zero byte. Without the variable there is nobody to tell. A failure is
//! logged and changes nothing: whether the server serves does not depend on who is told.
//!
//! NB: the variable stays in the environment; the server starts no other process that could inherit it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that clients are served. The two lines are etcd's, and are there without a manager, too.
pub fn ready() {
    tracing::info!("notifying init daemon");
    match tell("READY=1") {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify systemd for readiness"),
    }
}

/// Says that the server is about to end.
pub fn stopping() {
    if let Err(error) = tell("STOPPING=1") {
        tracing::warn!(%error, "failed to notify systemd of the stop");
    }
}

fn tell(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(name) if !name.is_empty() => send(name.as_encoded_bytes(), state),
        _ => Ok(()),
    }
}

fn send(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => {
            let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
            SocketAddr::from_pathname(path)?
        }
        _ => {
            let words = "NOTIFY_SOCKET is neither a path nor an abstract name";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // A manager whose queue is full must not keep the server from going on.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let n = socket.recv(&mut bytes).expect("something was sent");
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    #[test]
    fn a_state_goes_to_a_path_and_to_an_abstract_name() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        send(path.as_os_str().as_encoded_bytes(), "READY=1").expect("sent");
        assert_eq!(heard(&socket), "READY=1");
        let name = format!("mainstay-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        send(format!("@{name}").as_bytes(), "STOPPING=1").expect("sent");
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn a_socket_that_is_not_there_is_an_error_and_no_more() {
        assert!(send(b"/nowhere/at/all", "READY=1").is_err());
        assert!(send(b"vsock:2:9999", "READY=1").is_err());
    }
}
