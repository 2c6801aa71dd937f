//! How many threads fit this process: one for each physical core that it may run on, and no more than its control group gives time for.
//!
//! Two hyperthreads share the units that multiply, so a second thread on a core adds nothing to a product, and it waits, spinning, for
//! what the first one needs. Above a quota of time the system stops all threads of a group for the rest of each period.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use crate::control_groups;

/// The number of threads for kernels where none is asked for; at least 1.
pub(crate) fn fitting() -> usize {
    let logical = thread::available_parallelism().map_or(1, usize::from);
    within(Path::new("/")).map_or(logical, |count| count.min(logical)).max(1)
}

/// The same by the files of Linux below a root; `None` where they do not say.
fn within(root: &Path) -> Option<usize> {
    let cores = cores(root);
    let quota = quota(root);
    cores.into_iter().chain(quota).min()
}

/// Physical cores of the processors that the process may run on.
fn cores(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let siblings = |processor: usize| {
        let topology = root.join(format!("sys/devices/system/cpu/cpu{processor}/topology"));
        let list = ["core_cpus_list", "thread_siblings_list"].map(|name| fs::read_to_string(topology.join(name)));
        // A processor of which nothing is told is a core of its own.
        list.into_iter().flatten().next().map_or_else(|| processor.to_string(), |list| list.trim().to_owned())
    };
    let cores: BTreeSet<String> = list(allowed)?.into_iter().map(siblings).collect();
    Some(cores.len()).filter(|count| *count > 0)
}

/// The numbers of a list such as `0-3,8`.
pub(crate) fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // More processors than Linux can have are a mistake.
        (last < 1 << 16).then(|| numbers.extend(first..=last))?;
    }
    Some(numbers)
}

/// Whole processors of the time that the control groups of the process give it, at least 1; `None` without a limit.
fn quota(root: &Path) -> Option<usize> {
    control_groups::folders(root, "cpu").iter().filter_map(|folder| quota_of_folder(folder)).min()
}

/// That of one group, in version 2 or 1 of their files.
fn quota_of_folder(folder: &Path) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let (most, period) = match read("cpu.max") {
        Some(text) => {
            let mut numbers = text.split_whitespace();
            (numbers.next()?.parse::<usize>().ok()?, numbers.next()?.parse::<usize>().ok()?)
        }
        // −1 stands for no limit, and is no `usize`.
        None => (
            read("cpu.cfs_quota_us")?.trim().parse::<usize>().ok()?,
            read("cpu.cfs_period_us")?.trim().parse::<usize>().ok()?,
        ),
    };
    Some(most.checked_div(period)?.max(1))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files that they need")]
mod tests {
    use super::{fitting, list, within};
    use std::fs;
    use std::path::PathBuf;

    /// A root with these files, which goes with the value.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("grades-processors-{}-{name}", std::process::id()));
            for (file, text) in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn count(name: &str, files: &[(&str, &str)]) -> Option<usize> {
        within(&Root::new(name, files).0)
    }

    const STATUS: &str = "Name:\tgrades\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\nMems_allowed_list:\t0\n";
    /// Four cores of two hyperthreads, n and n + 4.
    const CORES: [(&str, &str); 8] = [
        ("sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0,4\n"),
        ("sys/devices/system/cpu/cpu1/topology/core_cpus_list", "1,5\n"),
        ("sys/devices/system/cpu/cpu2/topology/core_cpus_list", "2,6\n"),
        ("sys/devices/system/cpu/cpu3/topology/core_cpus_list", "3,7\n"),
        ("sys/devices/system/cpu/cpu4/topology/core_cpus_list", "0,4\n"),
        ("sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "1,5\n"),
        ("sys/devices/system/cpu/cpu6/topology/core_cpus_list", "2,6\n"),
        ("sys/devices/system/cpu/cpu7/topology/core_cpus_list", "3,7\n"),
    ];

    fn machine(name: &str, status: &str, groups: &[(&str, &str)]) -> Option<usize> {
        count(name, &[&CORES[..], &[("proc/self/status", status)], groups].concat())
    }

    #[test]
    fn hyperthreads_of_a_core_count_once() {
        assert_eq!(machine("all", STATUS, &[]), Some(4));
        // Affinity: two hyperthreads of core 1, and one of core 2.
        assert_eq!(machine("some", "Cpus_allowed_list:\t1,5-6\n", &[]), Some(2));
        // Nothing is told of the processors.
        assert_eq!(count("untold", &[("proc/self/status", STATUS)]), Some(8));
        assert_eq!(count("nothing", &[]), None);
    }

    #[test]
    fn the_quota_of_any_group_above_counts() {
        let second = ("proc/self/cgroup", "0::/a/b\n");
        let max = |text: &'static str| [second, ("sys/fs/cgroup/a/b/cpu.max", text)];
        assert_eq!(machine("three", STATUS, &max("300000 100000\n")), Some(3));
        assert_eq!(machine("half", STATUS, &max("50000 100000\n")), Some(1));
        assert_eq!(machine("between", STATUS, &max("290000 100000\n")), Some(2));
        assert_eq!(machine("none", STATUS, &max("max 100000\n")), Some(4));
        assert_eq!(machine("zero", STATUS, &max("100000 0\n")), Some(4));
        let above = [second, ("sys/fs/cgroup/a/cpu.max", "200000 100000"), ("sys/fs/cgroup/a/b/cpu.max", "max 100000")];
        assert_eq!(machine("above", STATUS, &above), Some(2));
        // In a container the path is that from outside, and the limit lies at the root.
        assert_eq!(machine("container", STATUS, &[second, ("sys/fs/cgroup/cpu.max", "100000 100000")]), Some(1));
    }

    #[test]
    fn groups_of_version_1_count() {
        let group = |quota: &'static str| {
            [
                ("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/x\n3:cpuset:/x\n"),
                ("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "50000\n"),
            ]
        };
        assert_eq!(machine("limited", STATUS, &group("100000\n")), Some(2));
        assert_eq!(machine("unlimited", STATUS, &group("-1\n")), Some(4));
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        assert_eq!(list("\t0-2,5\n"), Some(vec![0, 1, 2, 5]));
        for text in ["", "a", "1-", "0-99999999999", "1,,2"] {
            assert_eq!(list(text), None, "{text}");
        }
        assert!(fitting() >= 1);
    }
}
