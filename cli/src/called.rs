//! By which name the program was called.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::OnceLock;

use clap::builder::StyledStr;
use clap::{Command, CommandFactory, FromArgMatches};
use regex::Regex;

use crate::args::Cli;

/// The name under which `kubectl` finds it: `kubectl weft`.
const PLUGIN: &str = "kubectl-weft";

/// Verbs about meshes on this machine, which a plugin of `kubectl` does not have.
pub(crate) const OF_MACHINE: [&str; 6] = ["up", "demo", "down", "exec", "access-log", "port-forward"];
/// What its help ends with.
const PLUGIN_HELP: &str = "Examples:
  weft status -A                             # what runs, and which proxies know what
  weft proxy config -n shop deploy/web       # what one of them knows
  weft wait -n shop httproute/reviews        # until every proxy that needs it decides by it
  weft route explain -n shop --from deploy/web http://reviews/
  weft check                                 # whether Weft is well

Exit codes: 0 it worked, 1 it failed, 64 wrong usage, 65 wrong manifests, 75 not ready in time,
79 of `weft check`: something is wrong.";

static NAME: OnceLock<String> = OnceLock::new();

/// The name in the first argument, which is kept for [`as_plugin`].
pub(crate) fn name(args: &[OsString]) -> &'static str {
    NAME.get_or_init(|| {
        let name = args
            .first()
            .map(Path::new)
            .and_then(Path::file_name)
            .and_then(OsStr::to_str);
        name.unwrap_or("weft").to_owned()
    })
}

/// Whether it is a plugin of `kubectl`.
pub(crate) fn as_plugin() -> bool {
    NAME.get().is_some_and(|name| is_plugin(name))
}

/// Reads the arguments. Help of a plugin of `kubectl` speaks of `kubectl weft`.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = match as_plugin() {
        true => plugin(Cli::command()),
        false => Cli::command(),
    };
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The command as people type it who call it by `kubectl`.
fn plugin(command: Command) -> Command {
    let verbs: Vec<String> = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .collect();
    // A word of another program is none of ours: `sudo weft up`, and not `new-weft up`.
    let ours = Regex::new(&format!(r"(^|[^\w-])weft ({})\b", verbs.join("|"))).expect("verbs have letters and - only");
    // As a plugin it is none of the mesh's roles.
    let hidden = ["control", "gateway", "init", "injector"].into_iter().chain(OF_MACHINE);
    let command = hidden.fold(command.after_help(PLUGIN_HELP), |command, verb| {
        command.mut_subcommand(verb, |verb| verb.hide(true))
    });
    spoken(command.bin_name("kubectl weft"), &ours)
}

fn spoken(command: Command, ours: &Regex) -> Command {
    let say = |text: &StyledStr| {
        ours.replace_all(&text.to_string(), "${1}kubectl weft ${2}")
            .into_owned()
    };
    let (about, long, after) = (
        command.get_about().map(say),
        command.get_long_about().map(say),
        command.get_after_help().map(say),
    );
    let command = match about {
        Some(about) => command.about(about),
        None => command,
    };
    let command = match long {
        Some(long) => command.long_about(long),
        None => command,
    };
    let command = match after {
        Some(after) => command.after_help(after),
        None => command,
    };
    let names: Vec<String> = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, |verb| spoken(verb, ours))
    })
}

/// Whether a program of this name is a plugin of `kubectl`.
pub(crate) fn is_plugin(name: &str) -> bool {
    name == PLUGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(command: &mut Command, path: &[&str]) -> String {
        let args = path.iter().copied().chain(["--help"]);
        command.try_get_matches_from_mut(args).unwrap_err().to_string()
    }

    #[test]
    fn only_the_name_that_kubectl_looks_for_is_a_plugin() {
        assert!(is_plugin("kubectl-weft"));
        for other in ["weft", "kubectl", "kubectl-weft2", "weft-proxy"] {
            assert!(!is_plugin(other), "{other}");
        }
    }

    #[test]
    fn a_plugins_help_says_kubectl_weft_wherever_it_says_what_to_type() {
        let whole = help(&mut plugin(Cli::command()), &["kubectl-weft"]);
        assert!(whole.contains("Usage: kubectl weft <COMMAND>"), "{whole}");
        assert!(whole.contains("  kubectl weft status "), "{whole}");
        assert!(!whole.contains("Role:"), "{whole}");
        for verb in OF_MACHINE {
            assert!(
                !whole.contains(&format!("\n  {verb} ")) && !whole.contains(&format!("weft {verb} ")),
                "{whole}"
            );
        }
        let status = help(&mut plugin(Cli::command()), &["kubectl-weft", "status"]);
        assert!(status.contains("Usage: kubectl weft status"), "{status}");
        assert!(status.contains("\n  kubectl weft status -n shop -o wide\n"), "{status}");
        let list = help(&mut plugin(Cli::command()), &["kubectl-weft", "proxy", "list"]);
        assert!(
            list.contains("Usage: kubectl weft proxy list") && list.contains("  kubectl weft proxy list -A"),
            "{list}"
        );
        let bare = Regex::new(r"(?m)^ +weft ").unwrap();
        for text in [whole, status, list] {
            assert_eq!(text.matches("kubectl kubectl").count(), 0, "{text}");
            assert!(!bare.is_match(&text), "{text}");
        }
    }

    #[test]
    fn called_by_its_own_name_it_says_its_own_name() {
        let status = help(&mut Cli::command(), &["weft", "status"]);
        assert!(
            status.contains("Usage: weft status") && !status.contains("kubectl"),
            "{status}"
        );
    }
}
