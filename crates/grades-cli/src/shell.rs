//! What shells and `man` know of the program: `grades completions`, `grades man`.

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, output};

/// Print what a shell needs to complete the program's commands and options.
///
/// Example: grades completions bash > ~/.local/share/bash-completion/completions/grades
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "grades", &mut text);
        output::print_piece(&String::from_utf8(text)?);
        Ok(())
    }
}

/// Write the manual pages of the program and of each command.
///
/// Example: grades man --out ~/.local/share/man/man1, and then man grades-train
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// The folder; it is made where it is missing, and nothing in it is overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Man {
    pub(crate) fn run(self, json: bool) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.out).map_err(|error| anyhow::anyhow!("{}: {error}", self.out.display()))?;
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let pages = pages(&command)?;
        let taken = pages.iter().map(|(name, _)| self.out.join(name)).find(|path| path.exists());
        if let Some(path) = taken {
            anyhow::bail!("{}: there is something of this name; give another --out", path.display());
        }
        pages.iter().try_for_each(|(name, page)| grades_fs::create(&self.out.join(name), page))?;
        if json {
            let names: Vec<&Path> = pages.iter().map(|(name, _)| Path::new(name)).collect();
            return output::print_json(&serde_json::json!({ "out": self.out, "pages": names }));
        }
        output::print(&format!("{} pages are in {}", pages.len(), self.out.display()));
        Ok(())
    }
}

/// The page of a command, and those of the commands within it, with their names.
fn pages(command: &clap::Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(&name).render(&mut page)?;
    let mut all = vec![(format!("{name}.1"), page)];
    for within in command.get_subcommands().filter(|within| !within.is_hide_set()) {
        all.extend(pages(within)?);
    }
    Ok(all)
}
