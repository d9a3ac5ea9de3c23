//! Keeps calls that a token's `aud` sends somewhere away from private networks.
//!
//! Anyone can write any `aud` into a document's token. So a server that only a token names is
//! spoken to by https alone and at public addresses alone. The check sits in the resolver, on the
//! very addresses that are connected to: a name that answers differently the second time gains
//! nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::Host;

use crate::domain::identity::ServiceUrl;

/// Why a server is not spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error("resolves to a private address; set PDS_ALLOW_PRIVATE=true if that is intended")]
    PrivateAddress,
    #[error("is not an https server; set PDS_ALLOW_PRIVATE=true if that is intended")]
    NotHttps,
}

/// What can be told without resolving: the scheme, and addresses that stand in the URL itself,
/// for which no resolver is ever asked.
pub(super) fn check(service: &ServiceUrl) -> Result<(), Refused> {
    if !service.as_str().starts_with("https://") {
        return Err(Refused::NotHttps);
    }
    let address = match service.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    if is_public(address) { Ok(()) } else { Err(Refused::PrivateAddress) }
}

/// The system's resolver, without names that lead to a private address. One such address among
/// public ones is enough: nobody has a reason to publish that.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if !found.iter().all(|socket| is_public(socket.ip())) {
                return Err(Refused::PrivateAddress.into());
            }
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

/// Globally reachable unicast, by IANA's special-purpose address registries.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., _, _)          // this network, private, loopback, multicast, reserved
            | (100, 64..=127, _)              // shared by carriers (CGNAT)
            | (169, 254, _)                   // link-local, cloud metadata
            | (172, 16..=31, _)               // private
            | (192, 0, 0 | 2)                 // protocol assignments, documentation
            | (192, 88, 99)                   // 6to4 relays, retired
            | (192, 168, _)                   // private
            | (198, 18 | 19, _)               // benchmarking
            | (198, 51, 100)                  // documentation
            | (203, 0, 113) // documentation
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let [first, second, third, .., seventh, eighth] = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (first, second) {
        // NAT64's well-known prefix leads to the IPv4 address in its last 32 bits.
        (0x64, 0xff9b) if third == 0 => v4(seventh, eighth),
        // So does 6to4, to the one in the middle.
        (0x2002, _) => v4(second, third),
        // Protocol assignments (Teredo, ORCHID, benchmarking), and documentation twice.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
        // What is not global unicast is loopback, unspecified, unique-local, link-local,
        // multicast, or not assigned.
        _ => (0x2000..=0x3fff).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1.1.1.1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn what_the_url_itself_says() {
        for (service, expected) in [
            ("https://pds.example.com", Ok(())),
            ("https://1.1.1.1", Ok(())),
            ("https://[2606:4700::1111]:8443", Ok(())),
            ("http://pds.example.com", Err(Refused::NotHttps)),
            ("https://127.0.0.1", Err(Refused::PrivateAddress)),
            ("https://2130706433", Err(Refused::PrivateAddress)),
            ("https://0x7f.1:6379", Err(Refused::PrivateAddress)),
            ("https://[::1]", Err(Refused::PrivateAddress)),
            ("https://[::ffff:169.254.169.254]", Err(Refused::PrivateAddress)),
        ] {
            assert_eq!(check(&service.parse().unwrap()), expected, "{service}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused() {
        for name in ["localhost", "127.0.0.1"] {
            let error = PublicOnly.resolve(name.parse().unwrap()).await.err().unwrap();
            assert_eq!(error.downcast_ref::<Refused>(), Some(&Refused::PrivateAddress), "{name}");
        }
    }
}
