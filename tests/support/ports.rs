//! Ports for servers that are stopped and started again.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the kernel begins to take ports for connections, where it does not say.
const USUAL_EPHEMERAL: u16 = 32_768;
/// The first port that is given out.
const FIRST: u16 = 10_000;

/// A port that is nobody else's for as long as this lives, also while no server listens on it.
///
/// The kernel gives none of these to a connection: one that was made meanwhile, as by a client that tries again and again,
/// would keep the server from its port for as long as it lasts. And no other test takes it: its file is locked.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _held: File,
}

impl Port {
    pub fn free() -> Port {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = std::env::temp_dir().join(format!("fencron-ports-{}", nix::unistd::getuid()));
        fs::create_dir_all(&directory).unwrap();
        let last = first_ephemeral().max(FIRST + 1_000);
        let among = u32::from(last - FIRST);
        for _ in 0..among {
            // Others begin elsewhere.
            let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97));
            let number = FIRST + u16::try_from(step % among).unwrap();
            if let Some(port) = Port::take(number, directory.join(number.to_string())) {
                return port;
            }
        }
        panic!("no port from {FIRST} to {last} is free");
    }

    fn take(number: u16, file: PathBuf) -> Option<Port> {
        let held = File::create(file).unwrap();
        held.try_lock().ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Port { number, _held: held })
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

fn first_ephemeral() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(USUAL_EPHEMERAL)
}
