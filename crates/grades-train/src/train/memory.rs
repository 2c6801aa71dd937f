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
    Some(
        groups
            .lines()
            .filter_map(|line| left_in_group(Path::new("/sys/fs/cgroup"), line))
            .fold(kilobytes * 1024, u64::min),
    )
}

/// What a control group may still take, by its line in `/proc/self/cgroup`, `hierarchy:controllers:path`. The pages of files that the system
/// keeps count as used there, but are given back when memory is asked for.
fn left_in_group(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    let (root, limit, used, of_files) = match controllers {
        "" => (root.to_owned(), "memory.max", "memory.current", ["inactive_file", "active_file"]),
        "memory" => (
            root.join("memory"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            ["total_inactive_file", "total_active_file"],
        ),
        _ => return None,
    };
    let number =
        |folder: &Path, name| -> Option<u64> { std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    let of_files = |folder: &Path| -> u64 {
        let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let counts = stat.lines().filter_map(|line| line.split_once(' '));
        counts
            .filter(|(name, _)| of_files.contains(name))
            .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
            .sum()
    };
    let left = |folder: &Path| {
        let held = number(folder, used)?.saturating_sub(of_files(folder));
        Some(number(folder, limit)?.saturating_sub(held))
    };
    // A limit holds for all groups below; inside a container the path from outside may not exist.
    let folder = root.join(path);
    folder.ancestors().take_while(|folder| folder.starts_with(&root)).filter_map(left).min()
}

/// The processor's name (Linux only).
#[must_use]
pub fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::left_in_group;

    #[test]
    fn pages_of_files_are_no_memory_that_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let write = |files: &[(&str, &str)]| {
            for (name, text) in files {
                let path = root.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        };
        let left = |line| left_in_group(root.path(), line);
        write(&[("a/b/memory.max", "1000\n"), ("a/b/memory.current", "900\n")]);
        assert_eq!(left("0::/a/b"), Some(100));
        write(&[("a/b/memory.stat", "anon 300\ninactive_file 400\nactive_file 150\nfile 600\n")]);
        assert_eq!(left("0::/a/b"), Some(650));
        // A group above leaves less.
        write(&[("a/memory.max", "2000\n"), ("a/memory.current", "1990\n"), ("a/memory.stat", "inactive_file 20\n")]);
        assert_eq!(left("0::/a/b"), Some(30));
        write(&[("a/memory.max", "max\n")]);
        assert_eq!(left("0::/a/b"), Some(650));
        // The first version of their files.
        write(&[
            ("memory/x/memory.limit_in_bytes", "1000\n"),
            ("memory/x/memory.usage_in_bytes", "999\n"),
            ("memory/x/memory.stat", "inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 100\n"),
        ]);
        assert_eq!(left("4:memory:/x"), Some(601));
        assert_eq!((left("3:cpu:/x"), left("0::/nothing/here")), (None, None));
    }
}
