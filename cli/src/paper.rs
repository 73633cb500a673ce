//! Manifests that are looked at without a mesh: what `weft validate` and `weft route explain -f` read.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use weft_local::cluster::offline::{self, Offline, Ranges, Source};
use weft_model::identity::TrustDomain;

/// What standard input is called in findings.
const STDIN: &str = "(stdin)";
/// The longest text on standard input.
const TEXT_MAX: u64 = 64 << 20;

/// Which manifests.
#[derive(Clone, Debug, Args)]
pub(crate) struct PathArgs {
    /// A directory of manifests (its files *.yaml, *.yml and *.json), a file, or - for standard input. Can be given
    /// several times.
    #[arg(short = 'f', value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

/// Reads manifests as `weft up` does, with its default settings.
pub(crate) fn read(paths: &[PathBuf], mesh: &str) -> Result<Offline> {
    let sources: Vec<Source> = paths.iter().map(|path| source(path)).collect::<Result<_>>()?;
    let settings = weft_control::index::Settings {
        trust_domain: TrustDomain::new(&format!("{mesh}.weft.internal")).context("the mesh's name")?,
        cluster: mesh.to_owned(),
        cluster_domain: weft_local::dns::DOMAIN.to_owned(),
        inside: Vec::new(),
        outside: Vec::new(),
    };
    let ranges = Ranges {
        v4: "10.96.0.0/16".parse().context("the default range")?,
        v6: "fd00:10:96::/112".parse().context("the default range")?,
    };
    Ok(offline::read(
        &sources,
        &weft_local::manifest::kinds(),
        settings,
        ranges,
    )?)
}

fn source(path: &Path) -> Result<Source> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        let mut stdin = std::io::stdin().lock().take(TEXT_MAX + 1);
        stdin.read_to_string(&mut text).context("reading standard input")?;
        ensure!(text.len() as u64 <= TEXT_MAX, "-f -: more than 64 MiB");
        return Ok(Source::Text(PathBuf::from(STDIN), text));
    }
    ensure!(
        path.exists(),
        "-f {}: there is no such directory or file",
        path.display()
    );
    Ok(Source::Path(path.to_owned()))
}

/// Prints what was asked for. If nobody reads it any more, that is nobody's mistake.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
