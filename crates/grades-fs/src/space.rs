//! What a disk still holds.

use std::path::Path;

/// Bytes that this user may still write where `path` is or will be; `None` where the system does not tell.
#[cfg(unix)]
#[must_use]
pub fn free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists()).filter(|path| !path.as_os_str().is_empty());
    let disk = rustix::fs::statvfs(there.unwrap_or(Path::new("."))).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Bytes that this user may still write where `path` is or will be; `None` where the system does not tell.
#[cfg(not(unix))]
#[must_use]
pub fn free(_: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_the_one_around_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free(folder.path()).is_some_and(|bytes| bytes > 0));
        assert!(free(&folder.path().join("none/of/these")).is_some());
        assert!(free(Path::new("none/of/these")).is_some());
        // A file system that holds nothing.
        if Path::new("/proc/self").exists() {
            assert_eq!(free(Path::new("/proc/self/none")), Some(0));
        }
    }
}
