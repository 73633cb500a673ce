//! What `weft up` prints: plain lines; on a terminal, also how many pods are ready, in place.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::Settings;
use crate::cluster::system::{CONTROL, NAMESPACE};
use crate::cluster::{Jobs, News, Waiting};
use crate::logs::{Reader, file};
use crate::manifest::Key;
use crate::plan::job::Outcome;

/// Prints news until there are no more. `refused`: told why, once the mesh's own processes do not take their settings.
pub(super) async fn tell(
    settings: Settings,
    began: Instant,
    mut news: mpsc::Receiver<News>,
    refused: oneshot::Sender<String>,
) {
    let mut refused = Some(refused);
    let mut teller = Teller {
        prefix: settings.prefix(),
        // In place there is room for one.
        live: settings.among.is_none() && io::stdout().is_terminal(),
        open: false,
        first: true,
    };
    while let Some(news) = news.recv().await {
        match news {
            News::Problem(problem) => teller.aside(&format!("{}: {problem}", problem.severity)),
            News::Resolved(what) => teller.aside(&format!("resolved: {what}: nothing is wrong any more")),
            News::Progress { ready, all } => teller.progress(&format!("{ready} of {} ready", counted(all, "pod"))),
            News::Refused { pod, container } => {
                if let Some(refused) = refused.take() {
                    let path = file(&settings.state.logs(), &pod.namespace, &pod.name, &container);
                    // Whoever is told may be ending already.
                    let _ = refused.send(last_words(&path, &format!("{container} of the pod {pod}")));
                }
            }
            News::Trouble { pod, what, first } => {
                let hint = match first {
                    true => format!(" (see `{}`)", logs(&settings, &pod, container(&what))),
                    false => String::new(),
                };
                teller.aside(&format!("pod {pod}: {what}{hint}"));
            }
            News::Job {
                job,
                outcome,
                took,
                failed,
                left,
            } => {
                let seconds = took.as_secs_f64();
                match outcome {
                    Outcome::Complete => teller.line(&format!("job {job}: complete after {seconds:.1} s")),
                    _ => {
                        let mut why = outcome.reason().to_owned();
                        if failed > 0 {
                            why = format!("{why}, {}", counted(failed, "failure"));
                        }
                        let hint = match left {
                            true => {
                                let pod = Key::new(&job.namespace, format!("job/{}", job.name));
                                format!("see `{}`", logs(&settings, &pod, None))
                            }
                            // Its pods went with it, and left their output.
                            false => format!("see {}", settings.state.logs().join(&job.namespace).display()),
                        };
                        teller.aside(&format!("job {job}: failed after {seconds:.1} s: {why} ({hint})"));
                    }
                }
            }
            News::Waiting(waiting) => teller.aside(&waits(&settings, &waiting)),
            News::Ready(report) => {
                let pods = counted(report.pods, "pod");
                let services = counted(report.services, "service");
                let jobs = jobs(report.jobs);
                let what = format!("{pods} ({} with a sidecar), {services}{jobs}", report.meshed);
                if teller.first {
                    teller.line(&format!("Ready after {:.1} s: {what}", began.elapsed().as_secs_f64()));
                    teller.line(&hints(&settings));
                } else {
                    teller.line(&format!("Ready again: {what}"));
                }
                teller.first = false;
            }
        }
    }
}

/// What a process said before it ended, on one line.
fn last_words(log: &Path, who: &str) -> String {
    const LINES: usize = 12;
    let mut said = Vec::new();
    if let Ok(mut reader) = Reader::open(log, Some(LINES), false) {
        while let Ok(more) = reader.next()
            && !more.is_empty()
        {
            said.extend(more);
        }
    }
    let text = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.is_empty() {
        true => format!("{who} does not take its settings"),
        false => format!("{who} does not take its settings: {}", lines.join(" ")),
    }
}

/// `, 3 jobs (1 complete, 2 running)`; nothing where there are none.
fn jobs(jobs: Jobs) -> String {
    let Jobs {
        running,
        complete,
        failed,
    } = jobs;
    let parts = [(complete, "complete"), (failed, "failed"), (running, "running")];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(
            ", {} ({})",
            counted(running + complete + failed, "job"),
            parts.join(", ")
        ),
    }
}

/// `1 pod`, `2 pods`.
pub(super) fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Who is waited for, and why: a line, and one for each.
fn waits(settings: &Settings, waiting: &Waiting) -> String {
    let mut lines = Vec::new();
    if let Some(why) = &waiting.control {
        let pod = Key::new(NAMESPACE, CONTROL);
        let why = if why.is_empty() { "it is being started" } else { why };
        let hint = logs(settings, &pod, Some(CONTROL));
        lines.push(format!("Waiting for the control plane: {why} (see `{hint}`)"));
    }
    if waiting.missing > 0 {
        let all = counted(waiting.all, "pod");
        lines.push(format!("Waiting for {} of {all} to be ready:", waiting.missing));
    }
    for late in &waiting.pods {
        let hint = match &late.container {
            Some(container) => format!(" (see `{}`)", logs(settings, &late.pod, Some(container))),
            None => String::new(),
        };
        lines.push(format!("  pod {}: {}{hint}", late.pod, late.why));
    }
    match waiting.unmade {
        0 => {}
        1 => lines.push("  1 pod of a StatefulSet is made when those before it are ready".to_owned()),
        more => lines.push(format!(
            "  {more} pods of StatefulSets are made when those before them are ready"
        )),
    }
    let more = waiting.missing.saturating_sub(waiting.pods.len() + waiting.unmade);
    if more > 0 {
        lines.push(format!("  and {more} more: see `weft status{}`", name(settings)));
    }
    lines.join("\n")
}

/// The command that shows what a container printed.
fn logs(settings: &Settings, pod: &Key, container: Option<&str>) -> String {
    let container = container
        .map(|container| format!(" -c {container}"))
        .unwrap_or_default();
    format!(
        "weft logs{} -n {} {}{container}",
        name(settings),
        pod.namespace,
        pod.name
    )
}

/// The container that a trouble names.
fn container(what: &str) -> Option<&str> {
    what.strip_prefix("container ")?.split([':', ' ']).next()
}

/// The flag that names the mesh, where it needs one.
fn name(settings: &Settings) -> String {
    match settings.mesh.as_str() {
        crate::up::DEFAULT_MESH => String::new(),
        name => format!(" --name {name}"),
    }
}

/// Commands to try.
fn hints(settings: &Settings) -> String {
    let edit = match settings.manifests.editable() {
        Some(path) if path.is_dir() => format!(", or edit a file in {}", path.display()),
        Some(path) => format!(", or edit {}", path.display()),
        None => String::new(),
    };
    let end = match (settings.detached, &settings.among) {
        (true, _) => "",
        (false, None) => " Ctrl-C ends the mesh.",
        (false, Some(_)) => " Ctrl-C ends all clusters.",
    };
    format!("Try `weft status{}`{edit}.{end}", name(settings))
}

struct Teller {
    /// What each line begins with.
    prefix: String,
    /// Standard output is a terminal.
    live: bool,
    /// The cursor stands behind a line in place.
    open: bool,
    /// It has not been ready yet.
    first: bool,
}

impl Teller {
    fn line(&mut self, text: &str) {
        self.clear();
        // Nobody may be reading any more.
        let _ = io::stdout().write_all(self.lines(text).as_bytes());
    }

    fn aside(&mut self, text: &str) {
        self.clear();
        // As above.
        let _ = io::stderr().write_all(self.lines(text).as_bytes());
    }

    /// The text by lines, each with its prefix, to be written at once: other clusters write to the same place.
    fn lines(&self, text: &str) -> String {
        text.lines().map(|line| format!("{}{line}\n", self.prefix)).collect()
    }

    fn progress(&mut self, text: &str) {
        if self.live {
            // As above.
            let _ = write!(io::stdout(), "\r\x1b[K{text}").and_then(|()| io::stdout().flush());
            self.open = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.open) {
            // As above.
            let _ = write!(io::stdout(), "\r\x1b[K").and_then(|()| io::stdout().flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(
            [0, 1, 2].map(|n| counted(n, "error")),
            ["0 errors", "1 error", "2 errors"]
        );
    }

    #[test]
    fn of_several_clusters_every_line_says_whose_it_is() {
        let teller = |prefix: &str| Teller {
            prefix: prefix.to_owned(),
            live: false,
            open: false,
            first: true,
        };
        assert_eq!(teller("[a] ").lines("one\n  two"), "[a] one\n[a]   two\n");
        assert_eq!(teller("").lines("one"), "one\n");
    }

    #[test]
    fn a_trouble_names_its_container() {
        assert_eq!(container("container app: CrashLoopBackOff"), Some("app"));
        assert_eq!(container("container app ended with exit code 1"), Some("app"));
        assert_eq!(container("making its network: no"), None);
    }
}
