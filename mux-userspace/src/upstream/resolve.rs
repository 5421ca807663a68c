//! Names to addresses, by the system's resolver, remembered for a while.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long an answer is used. The system's resolver tells no TTL.
const FRESH: Duration = Duration::from_secs(30);

/// A core's memory of names.
#[derive(Debug, Default)]
pub struct Resolver {
    known: RefCell<HashMap<Arc<str>, Known>>,
}

#[derive(Debug)]
struct Known {
    addresses: Rc<[IpAddr]>,
    at: Instant,
}

impl Resolver {
    /// All addresses of a name, in the order of getaddrinfo(3) (RFC 6724). An old answer is used
    /// when a new one cannot be had.
    ///
    /// # Errors
    /// The resolver's; `NotFound` for a name without addresses.
    pub async fn resolve(&self, host: &Arc<str>) -> io::Result<Vec<IpAddr>> {
        if let Some(known) = self.known.borrow().get(host)
            && known.at.elapsed() < FRESH
        {
            return Ok(known.addresses.to_vec());
        }
        let answer = tokio::net::lookup_host((&**host, 0)).await.and_then(|found| {
            let mut addresses = Vec::new();
            for address in found.map(|address| address.ip()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(addresses)
        });
        let mut known = self.known.borrow_mut();
        match (answer, known.get(host)) {
            (Ok(addresses), _) => {
                let entry = Known { addresses: addresses.clone().into(), at: Instant::now() };
                known.insert(Arc::clone(host), entry);
                Ok(addresses)
            }
            (Err(_), Some(old)) => Ok(old.addresses.to_vec()),
            (Err(error), None) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_has_a_loopback_address_and_is_remembered() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let resolver = Resolver::default();
            let host: Arc<str> = "localhost".into();
            let addresses = resolver.resolve(&host).await.unwrap();
            assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
            assert!(resolver.known.borrow().contains_key("localhost"));
        });
    }
}
