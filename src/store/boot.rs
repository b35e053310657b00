//! What ties a reading of the boot clock to the boot, and the view of its clock, that it was made in.

#[cfg(target_os = "linux")]
use std::fs;
#[cfg(not(target_os = "linux"))]
use std::process::Command;

use super::StoreError;

/// What distinguishes this boot from every other: macOS gives each session between two boots an id.
#[cfg(not(target_os = "linux"))]
pub(super) fn identity() -> Result<String, StoreError> {
    let asked = Command::new("/usr/sbin/sysctl").args(["-n", "kern.bootsessionuuid"]).output();
    let boot = asked.ok().filter(|asked| asked.status.success()).map(|asked| asked.stdout).unwrap_or_default();
    match String::from_utf8_lossy(&boot).trim() {
        "" => Err(StoreError::Unusable(
            "this system has no `sysctl kern.bootsessionuuid`, by which leases are tied to a boot".to_owned(),
        )),
        boot => Ok(boot.to_owned()),
    }
}

/// What distinguishes this boot, and this view of its clock, from every other: the kernel's id of the boot, and the
/// time namespace, in which `CLOCK_BOOTTIME` may be set off.
#[cfg(target_os = "linux")]
pub(super) fn identity() -> Result<String, StoreError> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read_to_string(BOOT_ID).map_err(|error| {
        StoreError::Unusable(format!("{BOOT_ID}, which ties leases to a boot, cannot be read ({error})"))
    })?;
    // Kernels before 5.6 have no time namespaces: then there is only one.
    let namespace = fs::read_link("/proc/self/ns/time").map(|link| link.display().to_string()).unwrap_or_default();
    Ok(format!("{} {namespace}", boot.trim()))
}
