//! `completions`: a script for a shell.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use super::exit::Exit;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  pointsman completions bash > ~/.local/share/bash-completion/completions/pointsman
  pointsman completions zsh > ~/.zfunc/_pointsman
  pointsman completions fish > ~/.config/fish/completions/pointsman.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn run(arguments: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "pointsman", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Ok)
}
