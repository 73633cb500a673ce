//! Manifests that are looked at without a mesh: what `weft validate` and `weft route explain -f` read.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use weft_local::cluster::beside;
use weft_local::cluster::offline::{self, Offline, Ranges};
use weft_model::identity::TrustDomain;

use crate::cluster::Knowledge;
use crate::up;

/// Which manifests.
#[derive(Clone, Debug, Args)]
pub(crate) struct PathArgs {
    /// A directory of manifests (its files *.yaml, *.yml and *.json), a file, or - for standard input. Can be given
    /// several times.
    #[arg(short = 'f', value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Read the subdirectories of directories, too.
    #[arg(short = 'R', long, requires = "paths")]
    pub(crate) recursive: bool,
}

/// Reads manifests as `weft up` does, with its default settings.
pub(crate) fn read(PathArgs { paths, recursive }: &PathArgs, mesh: &str) -> Result<Offline> {
    // Standard input is kept nowhere: it is read once.
    let sources = up::sources(paths, *recursive, Path::new(""))?;
    let stdin = up::standard_input(paths)?;
    let settings = weft_control::index::Settings {
        trust_domain: TrustDomain::new(&format!("{mesh}.weft.internal")).context("the mesh's name")?,
        cluster: mesh.to_owned(),
        network: mesh.to_owned(),
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
        &stdin,
        &weft_local::manifest::kinds(),
        settings,
        ranges,
    )?)
}

/// Reads manifests as if they were applied to a cluster, in `namespace` where they name none; without any, the cluster's own
/// objects.
pub(crate) fn beside(paths: &PathArgs, namespace: &str, knowledge: Knowledge) -> Result<Offline> {
    let sources = up::sources(&paths.paths, paths.recursive, Path::new(""))?;
    let stdin = up::standard_input(&paths.paths)?;
    Ok(beside::read(
        &sources,
        &stdin,
        namespace,
        knowledge.settings,
        knowledge.objects,
    )?)
}

/// Prints what was asked for. If nobody reads it any more, that is nobody's mistake.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
