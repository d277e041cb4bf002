//! What is set on a connection before anything goes over it.

#[cfg(any(target_os = "linux", test))]
use std::net::IpAddr;
use std::net::SocketAddr;

use tokio::net::TcpStream;

/// A congestion control that sends as fast as it is allowed to, and that every Linux has and allows to everybody
/// ([`tcp(7)`](https://man7.org/linux/man-pages/man7/tcp.7.html), `tcp_allowed_congestion_control`).
#[cfg(target_os = "linux")]
const UNPACED: &str = "reno";

/// Prepares a connection that was accepted from `peer`. What the system refuses costs time and nothing else, and is traced.
pub(super) fn tune(stream: &TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn off the delay of small packets");
    }
    #[cfg(target_os = "linux")]
    if is_here(peer.ip(), stream.local_addr().ok().map(|local| local.ip())) {
        // Where the system's choice paces what it sends (BBR does), each packet waits for a timer, and there is no network to spare.
        if let Err(error) = rustix::net::sockopt::set_tcp_congestion(stream, UNPACED) {
            tracing::debug!(%error, "cannot choose the congestion control");
        }
    }
}

/// Whether a peer is on this machine, on which it was accepted at `local`.
#[cfg(any(target_os = "linux", test))]
fn is_here(peer: IpAddr, local: Option<IpAddr>) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() || local.is_some_and(|local| local.to_canonical() == peer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn who_is_here_comes_from_loopback_or_from_our_own_address() {
        for (peer, local, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.1.2.3", "127.0.0.1", true),
            ("::1", "::1", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8::1", "2001:db8::1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::2", false),
            ("::ffff:192.0.2.1", "127.0.0.1", false),
        ] {
            let [peer, local] = [peer, local].map(|address| address.parse().expect("an address"));
            assert_eq!(is_here(peer, Some(local)), expected, "{peer} at {local}");
        }
        assert!(is_here("127.0.0.1".parse().expect("an address"), None));
        assert!(!is_here("192.0.2.1".parse().expect("an address"), None));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn nothing_is_paced_or_put_off_on_one_machine() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (stream, peer) = listener.accept().await.expect("accepts");
        tune(&stream, peer);
        assert_eq!(rustix::net::sockopt::tcp_congestion(&stream).expect("told"), UNPACED);
        assert!(stream.nodelay().expect("told"));
    }
}
