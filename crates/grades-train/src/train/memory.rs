//! What the process holds, as the operating system counts it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The highest peak that was reset.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// Bytes of one line of `/proc/self/status`; `None` where there is no such file.
fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Most memory that the process has held so far, in bytes (Linux only).
#[must_use]
pub fn peak() -> Option<u64> {
    peak_since_reset().map(|peak| peak.max(HIGHEST.load(Relaxed)))
}

/// Lets [`peak_since_reset`] begin anew; whether the system allows that. [`peak`] knows of what was before.
#[expect(clippy::disallowed_methods, reason = "a switch of the kernel, no file")]
pub fn reset_peak() -> bool {
    HIGHEST.fetch_max(peak_since_reset().unwrap_or(0), Relaxed);
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Most memory that the process has held since the last [`reset_peak`], in bytes (Linux only).
#[must_use]
pub fn peak_since_reset() -> Option<u64> {
    status("VmHWM:")
}

/// Memory that the process holds now, in bytes (Linux only).
#[must_use]
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// Memory that is left for this process, in bytes: what the system can give without swapping, and no more than what its
/// control group may still take (Linux only).
#[must_use]
pub fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(groups.lines().filter_map(left_in_group).fold(kilobytes * 1024, u64::min))
}

/// What a control group may still take, by its line in `/proc/self/cgroup`, `hierarchy:controllers:path`.
fn left_in_group(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    let (root, limit, used) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        _ => return None,
    };
    let number =
        |folder: &Path, name| -> Option<u64> { std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    // A limit holds for all groups below; inside a container the path from outside may not exist.
    let folder = Path::new(root).join(path);
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(root));
    folders.filter_map(|folder| Some(number(folder, limit)?.saturating_sub(number(folder, used)?))).min()
}

/// The processor's name (Linux only).
#[must_use]
pub fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
