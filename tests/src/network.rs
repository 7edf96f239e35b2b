//! Loopback addresses for servers under test.

use std::{fs::File, net::Ipv4Addr};

use crate::locks;

/// 254 loopback addresses, `127.x.y.1` to `127.x.y.254`, that no other test uses.
#[derive(Debug)]
pub struct Network {
    prefix: [u8; 2],
    /// The addresses are free again when it is closed.
    _lock: File,
}

impl Network {
    /// A network of its own.
    ///
    /// # Panics
    /// When none is left.
    #[must_use]
    pub fn take() -> Self {
        // 127.0 and 127.1 are taken by systems now and then.
        let all = (2..=254u8).flat_map(|x| (0..=255u8).map(move |y| [x, y]));
        let start = usize::try_from(std::process::id()).unwrap_or(0).wrapping_mul(97) % (253 * 256);
        let all: Vec<_> = all.collect();
        let (before, from) = all.split_at(start);
        let free = from.iter().chain(before).find_map(|&prefix| {
            let [x, y] = prefix;
            let lock = locks::take(&format!("network-{x}.{y}"))?;
            Some(Self { prefix, _lock: lock })
        });
        free.expect("a free loopback network")
    }

    /// One of its addresses.
    #[must_use]
    pub fn address(&self, number: u8) -> Ipv4Addr {
        let [x, y] = self.prefix;
        Ipv4Addr::new(127, x, y, number)
    }
}
