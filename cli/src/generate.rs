//! `weft completion` and `weft man`: made from the same definition that reads the arguments.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Cli, CompletionArgs, ManArgs};

/// Prints the completion of a shell.
pub(crate) fn completion(args: &CompletionArgs) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weft", &mut text);
    io::stdout().write_all(&text).context("printing")?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for `weft` and each of its verbs.
pub(crate) fn man(args: &ManArgs) -> Result<ExitCode> {
    let dir = args.dir.display();
    std::fs::create_dir_all(&args.dir).with_context(|| format!("making {dir}"))?;
    clap_mangen::generate_to(Cli::command(), &args.dir).with_context(|| format!("writing to {dir}"))?;
    println!("the pages are in {dir}; read one with: man -l {dir}/weft.1");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_completes_every_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weft", &mut text);
            let text = String::from_utf8(text).unwrap();
            for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
                assert!(text.contains(verb.get_name()), "{shell}: {}", verb.get_name());
            }
        }
    }

    #[test]
    fn every_verb_has_a_page_with_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs {
            dir: dir.path().to_owned(),
        })
        .unwrap();
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let page = dir.path().join(format!("weft-{}.1", verb.get_name()));
            let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            let has_examples = verb
                .get_after_help()
                .is_some_and(|help| help.to_string().contains("Examples:"));
            assert_eq!(text.contains("Examples:"), has_examples, "{}", page.display());
        }
        assert!(dir.path().join("weft.1").exists());
    }

    #[test]
    fn help_has_examples_for_every_verb_of_people() {
        // The roles have a help of their own.
        const ROLES: [&str; 5] = ["control", "gateway", "init", "injector", "help"];
        for verb in Cli::command()
            .get_subcommands()
            .filter(|verb| !ROLES.contains(&verb.get_name()))
        {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains("Examples:"),
                "weft {} --help has no examples",
                verb.get_name()
            );
        }
    }
}
