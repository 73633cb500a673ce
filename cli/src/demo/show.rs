//! What the demo prints: a moving line on a terminal, plain lines otherwise. With `--json` everything here goes to stderr.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Step;
use super::mesh::Mesh;

const FRAMES: [&str; 8] = ["⠋", "⠙", "⠸", "⠴", "⠦", "⠇", "⠏", "⠹"];
const FRAME_TIME: Duration = Duration::from_millis(90);

/// Where and how the demo prints.
pub(super) struct Show {
    to_stderr: bool,
    terminal: bool,
    colours: bool,
    spinner: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

impl Show {
    pub(super) fn new(to_stderr: bool) -> Self {
        let terminal = if to_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        Self {
            to_stderr,
            terminal,
            colours: terminal && weft_daemon::log::colours_wanted(),
            spinner: None,
        }
    }

    /// Whether a person watches.
    pub(super) fn is_watched(&self) -> bool {
        self.terminal && std::io::stdin().is_terminal()
    }

    /// Says what is going on, until the next line.
    pub(super) fn begin(&mut self, text: &str) {
        self.pause();
        if !self.terminal {
            return;
        }
        let end = Arc::new(AtomicBool::new(false));
        let (ended, text, to_stderr) = (Arc::clone(&end), text.to_owned(), self.to_stderr);
        let thread = std::thread::spawn(move || {
            for frame in FRAMES.iter().cycle() {
                write(to_stderr, &format!("\r{frame} {text}\x1b[K"));
                std::thread::park_timeout(FRAME_TIME);
                if ended.load(Ordering::Relaxed) {
                    break;
                }
            }
            write(to_stderr, "\r\x1b[K");
        });
        self.spinner = Some((end, thread));
    }

    /// Takes the moving line away.
    pub(super) fn pause(&mut self) {
        let Some((end, thread)) = self.spinner.take() else {
            return;
        };
        end.store(true, Ordering::Relaxed);
        thread.thread().unpark();
        // It only prints; a panic in it is not worth ending the demo for.
        let _ = thread.join();
    }

    /// One line.
    pub(super) fn note(&mut self, text: &str) {
        self.pause();
        let text = self.paint("2", text);
        self.line(&format!("  {text}"));
    }

    /// A step with its tick or cross.
    pub(super) fn step(&mut self, step: &Step) {
        self.pause();
        let mark = if step.ok {
            self.paint("32", "✓")
        } else {
            self.paint("31", "✗")
        };
        self.line(&format!("{mark} {}", self.paint("1", step.name)));
        self.line(&format!("    did       {}", step.did));
        self.line(&format!("    expected  {}", step.expected));
        self.line(&format!("    saw       {}", step.saw));
        for line in &step.drawing {
            self.line(&format!("      {line}"));
        }
    }

    /// What to try with a mesh that goes on running, or with clusters.
    pub(super) fn commands(&mut self, meshes: &[Mesh]) {
        self.pause();
        match meshes {
            [mesh] => self.commands_of_one(mesh.name(), &mesh.manifests().display().to_string()),
            all => self.commands_of_several(all),
        }
    }

    fn commands_of_several(&self, all: &[Mesh]) {
        let (Some(first), Some(last)) = (all.first(), all.last()) else {
            return;
        };
        let places = all.iter().map(|mesh| mesh.manifests().display().to_string());
        let places = places.collect::<Vec<_>>().join(" and ");
        self.line(&format!(
            "\nThe clusters go on running; their manifests lie in {places}.\nTry:"
        ));
        let (west, east) = (first.name(), last.name());
        self.verbs(&[
            format!("cluster status --name {west}"),
            format!("status --name {west}"),
            format!("exec --name {west} -n shop visitor -- visitor http://web.shop.svc.clusterset.local/products/1"),
            format!("link cut {west} {east}"),
            format!("link heal {west} {east}"),
            format!("down --name {west}"),
        ]);
        self.line("Or write a ServiceExport for ratings in either directory, and look at the other's status.");
    }

    fn verbs(&self, commands: &[String]) {
        let weft = std::env::current_exe().map_or_else(|_| "weft".to_owned(), |path| path.display().to_string());
        for command in commands {
            self.line(&format!("  {weft} {command}"));
        }
    }

    fn commands_of_one(&self, name: &str, manifests: &str) {
        self.line(&format!(
            "\nThe mesh goes on running; its manifests lie in {manifests}.\nTry:"
        ));
        self.verbs(&[
            format!("status --name {name}"),
            format!("exec --name {name} -n shop visitor -- visitor http://web/products/1"),
            format!("exec --name {name} -n street stranger -- visitor http://web.shop/products/1"),
            format!("logs --name {name} -n shop deploy/web -c weft-proxy"),
            format!("port-forward --name {name} -n shop deploy/web 8080:8080"),
            format!("down --name {name}"),
        ]);
        self.line("Or edit routes.yaml there, and ask for reviews again.");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn line(&self, text: &str) {
        write(self.to_stderr, &format!("{text}\n"));
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.pause();
    }
}

fn write(to_stderr: bool, text: &str) {
    // Nobody reads it any more: the demo goes on all the same.
    let _ = if to_stderr {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        let mut out = std::io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
}
