//! What the process holds, as the operating system counts it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use grades_kernels::control_groups;

/// The highest peak that was reset.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// Bytes of one line of `/proc/self/status`; `None` where there is no such file.
fn status(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
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
    fs::write("/proc/self/clear_refs", "5").is_ok()
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
    available_below(Path::new("/"))
}

/// The same by the files of Linux below `root`.
fn available_below(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let groups = control_groups::folders(root, "memory");
    Some(groups.iter().filter_map(|folder| left_in_group(folder)).fold(kilobytes * 1024, u64::min))
}

/// What a control group may still take, by the files in its `folder`, of version 2 or 1. The pages of files that the system keeps count as used
/// there, but are given back when memory is asked for.
fn left_in_group(folder: &Path) -> Option<u64> {
    let number = |name| -> Option<u64> { fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    let (used, limit, of_files) = match (number("memory.current"), number("memory.usage_in_bytes")) {
        (Some(used), _) => (used, number("memory.max")?, ["inactive_file", "active_file"]),
        (None, used) => (used?, number("memory.limit_in_bytes")?, ["total_inactive_file", "total_active_file"]),
    };
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let counts = stat.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| of_files.contains(name));
    let given_back: u64 = counts.filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok()).sum();
    Some(limit.saturating_sub(used.saturating_sub(given_back)))
}

/// The processor's name (Linux only).
#[must_use]
pub fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::available_below;

    #[test]
    fn pages_of_files_are_no_memory_that_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limits = |files: &[(&str, &str)]| {
            files.iter().for_each(|(name, text)| write(&format!("sys/fs/cgroup/{name}"), text));
        };
        let left = |groups: &str| {
            write("proc/self/cgroup", groups);
            available_below(root.path())
        };
        write("proc/meminfo", "MemTotal: 8 kB\nMemAvailable: 4 kB\n");
        limits(&[("a/b/memory.max", "1000\n"), ("a/b/memory.current", "900\n")]);
        assert_eq!(left("0::/a/b\n"), Some(100));
        limits(&[("a/b/memory.stat", "anon 300\ninactive_file 400\nactive_file 150\nfile 600\n")]);
        assert_eq!(left("0::/a/b\n"), Some(650));
        // A group above leaves less.
        limits(&[("a/memory.max", "2000\n"), ("a/memory.current", "1990\n"), ("a/memory.stat", "inactive_file 20\n")]);
        assert_eq!(left("0::/a/b\n"), Some(30));
        limits(&[("a/memory.max", "max\n")]);
        assert_eq!(left("0::/a/b\n"), Some(650));
        // The first version of their files.
        limits(&[
            ("memory/x/memory.limit_in_bytes", "1000\n"),
            ("memory/x/memory.usage_in_bytes", "999\n"),
            ("memory/x/memory.stat", "inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 100\n"),
        ]);
        assert_eq!(left("5:cpu:/y\n4:memory:/x\n"), Some(601));
        // What the system has.
        assert_eq!((left("3:cpu:/x\n"), left("0::/nothing/here\n")), (Some(4096), Some(4096)));
    }
}
