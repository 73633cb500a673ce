//! What `weft up` prints: plain lines; on a terminal, also how many pods are ready, in place.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use tokio::sync::mpsc;
use weft_control::objects::Severity;

use super::Settings;
use crate::cluster::News;

/// Prints news until there are no more.
pub(super) async fn tell(settings: Settings, began: Instant, mut news: mpsc::Receiver<News>) {
    let mut teller = Teller {
        live: io::stdout().is_terminal(),
        open: false,
        first: true,
    };
    while let Some(news) = news.recv().await {
        match news {
            News::Problem(problem) => {
                let word = match problem.severity {
                    Severity::Error => "error: ",
                    Severity::Warning => "warning: ",
                    Severity::Notice => "note: ",
                };
                teller.aside(&format!("{word}{problem}"));
            }
            News::Progress { ready, all } => teller.progress(&format!("{ready} of {all} pods are ready")),
            News::Trouble { pod, what } => teller.aside(&format!("pod {pod}: {what}")),
            News::Ready(report) => {
                let (pods, meshed, services) = (report.pods, report.meshed, report.services);
                let what = format!("{pods} pods ({meshed} with a sidecar), {services} services");
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

/// Commands to try.
fn hints(settings: &Settings) -> String {
    let name = match settings.mesh.as_str() {
        crate::up::DEFAULT_MESH => String::new(),
        name => format!(" --name {name}"),
    };
    format!(
        "Try `weft status{name}`, or edit a file in {}. Ctrl-C ends the mesh.",
        settings.manifests.display()
    )
}

struct Teller {
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
        let _ = writeln!(io::stdout(), "{text}");
    }

    fn aside(&mut self, text: &str) {
        self.clear();
        // As above.
        let _ = writeln!(io::stderr(), "{text}");
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
