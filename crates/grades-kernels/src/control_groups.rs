//! The folders in which Linux keeps the limits of the control groups that this process is in.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders of the process's groups that have a `controller` (`cpu`, `memory`), by the files of Linux below `root`: its own groups, and
/// all above them, as a limit holds for all groups below. Of either version of their files; none where there are no groups.
///
/// Inside a container a group's path from outside may not exist, so neither need all of these.
pub fn folders(root: &Path, controller: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut folders = Vec::new();
    for line in groups.lines() {
        // hierarchy:controllers:path, of the second version without controllers.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let mounted = match controllers {
            "" => root.join("sys/fs/cgroup"),
            names if names.split(',').any(|name| name == controller) => root.join("sys/fs/cgroup").join(controller),
            _ => continue,
        };
        let own = mounted.join(path.trim_start_matches('/'));
        folders.extend(own.ancestors().take_while(|folder| folder.starts_with(&mounted)).map(Path::to_owned));
    }
    folders
}
