//! `weft`: the people's tool, and every role of the mesh in one binary.
//!
//! In: arguments, and the name by which it was called. Out: an exit code (0, 1, 64 usage, 65 bad data, 75 too late, 79 findings;
//! of `weft exec`: the command's). The order of the questions below matters: the hidden stages come before anything could start
//! a thread.

use std::ffi::OsString;
use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;
use weft_daemon::exit;

mod access_log;
mod args;
mod called;
mod check;
mod cluster;
mod demo;
mod down;
mod exec;
mod explain;
mod federation;
mod forward;
mod generate;
mod http;
mod inject;
mod install;
mod link;
mod logs;
mod mesh;
mod paper;
mod protocols;
mod proxy;
mod scrape;
#[cfg(test)]
mod settings;
mod status;
mod table;
mod target;
mod traffic;
mod uninstall;
mod up;
mod validate;
mod wait;
mod yaml;

use args::{Cli, Verb};
use target::on_machine;

// The proxy is one of the roles, and what an allocator costs decides what a stream costs.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let supervisors: [(&str, weft_local::sandbox::Supervisor); 2] = [
        (weft_local::up::SUPERVISOR, weft_local::up::supervise),
        (
            weft_local::up::clusters::SUPERVISOR,
            weft_local::up::clusters::supervise,
        ),
    ];
    if let Some(code) = weft_local::stage::main(std::env::args_os(), &supervisors) {
        return code;
    }
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = called::name(&args);
    if let Some(code) = shop::run(called, args.clone()) {
        return code;
    }
    if let Some((role, skip)) = role(called, &args) {
        return role.run(&args[skip..]);
    }
    match called::parse(&args) {
        Ok(cli) => run(cli),
        Err(error) => {
            // Help and version are asked for. If stdout is closed, nobody reads the rest either.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK })
        }
    }
}

/// A role of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Proxy,
    Gateway,
    Control,
    Init,
    Injector,
}

/// The role that is meant, and how many arguments say so: by the program's own name, else by the first word. `kubectl weft` is
/// typed by people about a cluster, and starts none.
fn role(called: &str, args: &[OsString]) -> Option<(Role, usize)> {
    let by_name = called.strip_prefix("weft-").map(|name| (name, 1));
    let word = args.get(1).and_then(|word| word.to_str());
    let by_word = word.filter(|_| !called::is_plugin(called)).map(|name| (name, 2));
    let asks = |skip: usize| {
        args.get(skip)
            .is_some_and(|next| !next.as_encoded_bytes().starts_with(b"-"))
    };
    by_name.into_iter().chain(by_word).find_map(|(name, skip)| match name {
        // What is asked of proxies has a word, and the role has flags only.
        "proxy" if !asks(skip) => Some((Role::Proxy, skip)),
        "gateway" => Some((Role::Gateway, skip)),
        "control" => Some((Role::Control, skip)),
        "init" => Some((Role::Init, skip)),
        "injector" => Some((Role::Injector, skip)),
        _ => None,
    })
}

impl Role {
    /// Runs it, with the arguments behind its name.
    fn run(self, rest: &[OsString]) -> ExitCode {
        let args = |name: &str| std::iter::once(name.into()).chain(rest.iter().cloned());
        match self {
            Self::Proxy => weft_proxy::main(args("weft proxy")),
            Self::Gateway => weft_proxy::main(args("weft gateway").chain(["--gateway".into()])),
            Self::Control => weft_control::main(args("weft control")),
            Self::Init => weft_injector::init::main(args("weft init")),
            Self::Injector => weft_injector::webhook::main(args("weft injector")),
        }
    }
}

/// How what a verb does for meshes on this machine is done where a plugin of `kubectl` was called, which is about clusters.
fn of_machine(verb: &Verb) -> Option<&'static str> {
    match verb {
        Verb::Up(_) => Some("`weft up`"),
        Verb::Demo(_) => Some("`weft demo`"),
        Verb::Down(_) => Some("`weft down`"),
        Verb::Exec(_) => Some(EXEC),
        Verb::AccessLog(_) => Some(ACCESS_LOG),
        Verb::PortForward(_) => Some(PORT_FORWARD),
        _ => None,
    }
}

// How it is done on a cluster.
const EXEC: &str = "kubectl exec";
const ACCESS_LOG: &str = "the annotation config.weft.dev/access-log and a restart of the pod";
const PORT_FORWARD: &str = "kubectl port-forward";

fn run(cli: Cli) -> ExitCode {
    if let Some(how) = of_machine(&cli.verb).filter(|_| called::as_plugin()) {
        eprintln!("weft: kubectl weft is about clusters, and this about meshes on this machine (fix: {how})");
        return ExitCode::from(exit::USAGE);
    }
    let done = match cli.verb {
        Verb::Up(args) => return up::main(args),
        Verb::Demo(args) => demo::main(&args),
        Verb::Validate(args) => asking(validate::main(args)),
        Verb::Inject(args) => inject::main(&args),
        Verb::Route(args) => asking(explain::main(args)),
        Verb::Down(args) => asking(down::main(args)),
        Verb::Status(args) => asking(status::main(args)),
        Verb::Exec(args) => asking(on_machine(exec::main(args), EXEC)),
        Verb::Logs(args) => asking(logs::main(args)),
        Verb::Proxy(args) => asking(proxy::main(args.verb)),
        Verb::AccessLog(args) => asking(on_machine(access_log::main(args), ACCESS_LOG)),
        Verb::PortForward(args) => asking(on_machine(forward::main(args), PORT_FORWARD)),
        Verb::Install(args) => install::main(&args),
        Verb::Uninstall(args) => uninstall::main(&args),
        Verb::Check(args) => asking(check::main(args)),
        Verb::Cluster(args) => asking(federation::main(args)),
        Verb::Wait(args) => asking(wait::main(args)),
        Verb::Link(args) => asking(link::main(args)),
        Verb::Completion(args) => generate::completion(&args),
        Verb::Man(args) => generate::man(&args),
        // Taken by their names before the arguments were read, but of a plugin of `kubectl`.
        Verb::Control(_) | Verb::Gateway(_) | Verb::Init(_) | Verb::Injector(_) => {
            eprintln!("weft: kubectl starts no part of a mesh (fix: the program itself does, as `weft control`)");
            Ok(ExitCode::from(exit::USAGE))
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("weft: {error:#}");
        ExitCode::from(exit::FAILURE)
    })
}

/// Runs a verb that asks a running mesh.
fn asking(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A thread may be reading standard input, and nobody can tell it to stop.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    #[track_caller]
    fn check(line: &str, want: Option<(Role, usize)>) {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let called = args[0].to_str().unwrap().to_owned();
        assert_eq!(role(&called, &args), want, "{line}");
    }

    #[test]
    fn a_role_is_meant_by_the_first_word_or_by_the_programs_own_name() {
        check("weft proxy", Some((Role::Proxy, 2)));
        check("weft proxy --help", Some((Role::Proxy, 2)));
        check("weft control --kubernetes", Some((Role::Control, 2)));
        check("weft gateway --workers 2", Some((Role::Gateway, 2)));
        check("weft-proxy", Some((Role::Proxy, 1)));
        check("weft-injector --port 1", Some((Role::Injector, 1)));
        for none in ["weft", "weft status", "weft proxy list", "weft proxy config web"] {
            check(none, None);
        }
    }

    #[test]
    fn a_plugin_of_kubectl_is_no_role() {
        for line in [
            "proxy",
            "proxy --help",
            "proxy list",
            "control",
            "gateway",
            "init",
            "injector",
        ] {
            check(&format!("kubectl-weft {line}"), None);
        }
    }

    #[test]
    fn what_is_about_meshes_on_this_machine_is_hidden_from_a_plugin_of_kubectl_and_refused() {
        let meant = |line: &str| of_machine(&Cli::try_parse_from(line.split(' ')).unwrap().verb);
        for line in [
            "weft up -f x",
            "weft demo",
            "weft down",
            "weft exec web -- ls",
            "weft access-log web",
            "weft port-forward web 80",
        ] {
            let verb = line.split(' ').nth(1).unwrap();
            assert!(meant(line).is_some() && called::OF_MACHINE.contains(&verb), "{line}");
        }
        for line in [
            "weft status",
            "weft check",
            "weft logs web",
            "weft proxy list",
            "weft install",
        ] {
            assert_eq!(meant(line), None, "{line}");
        }
    }

    #[test]
    fn the_help_of_the_role_names_what_can_be_asked_of_proxies() {
        let help = weft_proxy::config::Settings::command().render_help().to_string();
        let cli = Cli::command();
        let proxy = cli.find_subcommand("proxy").unwrap();
        for verb in proxy.get_subcommands().map(clap::Command::get_name) {
            assert!(help.contains(&format!("`weft proxy {verb}`")), "{verb}: {help}");
        }
    }
}
