//! How often one address may try to log in with a wrong token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::api::problem::{Kind, Problem};
use crate::time::Boot;

/// How many logins of one address, or of one network of IPv6 (/64), may fail within [`WITHIN`].
pub const FAILURES_MOST: usize = 5;

/// See [`FAILURES_MOST`].
pub const WITHIN: Duration = Duration::from_secs(60);

/// For how many addresses failures are kept. Beyond, addresses without one are refused as well until some are forgotten:
/// an attacker with so many addresses could otherwise try without end.
pub const ADDRESSES_MOST: usize = 4_096;

/// The logins that failed lately.
#[derive(Debug, Default)]
pub(super) struct Logins(Mutex<HashMap<IpAddr, Vec<Boot>>>);

impl Logins {
    /// That this address may be answered now that its token is wrong.
    pub fn begin(&self, address: IpAddr, now: Boot) -> Result<(), Problem> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, at| {
            at.retain(|at| now.since(*at) < WITHIN);
            !at.is_empty()
        });
        let of = failed.get(&crate::listen::network(address));
        let is_full = of.is_none() && failed.len() >= ADDRESSES_MOST;
        if is_full || of.is_some_and(|at| at.len() >= FAILURES_MOST) {
            let detail = format!("{FAILURES_MOST} logins have failed within {} s: wait that long", WITHIN.as_secs());
            return Err(Problem::new(Kind::TooManyTries, detail).again_after(WITHIN));
        }
        Ok(())
    }

    /// A login of this address has failed.
    pub fn failed(&self, address: IpAddr, now: Boot) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.entry(crate::listen::network(address)).or_default().push(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_try_in_a_minute_is_refused_and_other_addresses_are_not() {
        let (logins, address) = (Logins::default(), "10.0.0.1".parse().unwrap());
        let at = |seconds| Boot::from_duration(Duration::from_secs(seconds));
        for second in 0..5 {
            assert!(logins.begin(address, at(second)).is_ok());
            logins.failed(address, at(second));
        }
        assert_eq!(logins.begin(address, at(59)).unwrap_err().kind, Kind::TooManyTries);
        assert!(logins.begin("10.0.0.2".parse().unwrap(), at(59)).is_ok());
        assert!(logins.begin(address, at(60)).is_ok());
        for nth in 0..u32::try_from(ADDRESSES_MOST).unwrap() {
            logins.failed(std::net::Ipv4Addr::from_bits(nth).into(), at(100));
        }
        assert!(logins.begin("fd00::1".parse().unwrap(), at(100)).is_err());
        assert!(logins.begin("fd00::1".parse().unwrap(), at(160)).is_ok());
    }
}
