//! The way to a cluster: a kubeconfig and its context.

use std::ffi::OsStr;

use anyhow::{Context, Result, anyhow};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::Cluster;
use super::api::Api;
use crate::target::WayArgs;

/// A kubeconfig, read, and what of it is meant.
#[derive(Debug)]
pub(crate) struct Way {
    /// None: there is none.
    file: Option<Kubeconfig>,
    context: Option<String>,
}

impl Way {
    /// Reads the kubeconfig that was named, else that of `KUBECONFIG`, else `~/.kube/config`.
    ///
    /// # Errors
    /// It can't be read. That there is none is no error if none was named.
    pub(crate) fn new(args: &WayArgs) -> Result<Self> {
        let file = match &args.kubeconfig {
            Some(path) => {
                Some(Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?)
            }
            None => match std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
                Some(list) => listed(&list)?,
                None => match Kubeconfig::read() {
                    Ok(file) => Some(file),
                    Err(error) if is_absent(&error) => None,
                    Err(error) => return Err(error.into()),
                },
            },
        };
        Ok(Self {
            file,
            context: args.context.clone(),
        })
    }

    /// The current context, if there is one.
    pub(crate) fn current(&self) -> Option<String> {
        let current = self.file.as_ref()?.current_context.clone();
        current.filter(|context| !context.is_empty())
    }

    /// The cluster of the context that was named, else of the current one, else, without a kubeconfig, the one that this pod is
    /// in. It is not asked anything yet.
    ///
    /// # Errors
    /// There is no such context, or it leads nowhere.
    pub(crate) async fn connect(self, control_namespace: &str) -> Result<Cluster> {
        let named = self.context.clone().or_else(|| self.current());
        let (config, context) = match (self.file, named) {
            (Some(file), Some(context)) => {
                let known: Vec<&str> = file.contexts.iter().map(|known| known.name.as_str()).collect();
                if !known.contains(&&*context) {
                    return Err(no_context(&context, &known));
                }
                let options = KubeConfigOptions {
                    context: Some(context.clone()),
                    ..KubeConfigOptions::default()
                };
                let config = Config::from_custom_kubeconfig(file, &options)
                    .await
                    .with_context(|| format!("the context {context}"))?;
                (config, context)
            }
            (None, Some(context)) => return Err(no_context(&context, &[])),
            (_, None) => {
                let config = Config::incluster().map_err(|_| {
                    anyhow!("no cluster is configured (fix: set KUBECONFIG, or give --kubeconfig or --context)")
                })?;
                (config, "in-cluster".to_owned())
            }
        };
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).with_context(|| format!("the context {context}"))?;
        Ok(Cluster {
            api: Api::new(client),
            context,
            namespace,
            control_namespace: control_namespace.to_owned(),
        })
    }
}

/// The files of a `KUBECONFIG` together. As with `kubectl` one that is not there is left out, and the first word counts.
fn listed(list: &OsStr) -> Result<Option<Kubeconfig>> {
    let mut all: Option<Kubeconfig> = None;
    for path in std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()) {
        let at = || format!("{} of KUBECONFIG", path.display());
        let mut file = match Kubeconfig::read_from(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error).with_context(at),
        };
        // An empty one is none, and does not hide another's.
        file.current_context = file.current_context.filter(|context| !context.is_empty());
        all = Some(match all {
            Some(before) => before.merge(file).with_context(at)?,
            None => file,
        });
    }
    Ok(all)
}

fn no_context(context: &str, known: &[&str]) -> anyhow::Error {
    match known {
        [] => anyhow!(
            "there is no context {context:?}: there is no kubeconfig (fix: set KUBECONFIG, or --kubeconfig FILE)"
        ),
        known => anyhow!(
            "there is no context {context:?} in the kubeconfig; it has {}",
            known.join(", ")
        ),
    }
}

fn is_absent(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        KubeconfigError::FindPath => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(directory: &Path, name: &str, current: &str) -> String {
        let path = directory.join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: \"{current}\"\ncontexts:\n- name: {name}\n  context: {{cluster: c}}\n"
        );
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    #[test]
    fn a_file_of_the_list_that_is_not_there_is_left_out_and_the_rest_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (file(directory.path(), "one", ""), file(directory.path(), "two", "two"));
        let gone = directory.path().join("gone").display().to_string();
        let all = listed(format!("{gone}:{one}:{two}:").as_ref()).unwrap().unwrap();
        let names: Vec<&str> = all.contexts.iter().map(|context| &*context.name).collect();
        assert_eq!(
            (names, all.current_context.as_deref()),
            (vec!["one", "two"], Some("two"))
        );
        assert!(listed(format!("{gone}:{gone}").as_ref()).unwrap().is_none());
    }

    #[test]
    fn a_file_of_the_list_that_cannot_be_read_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let bad = directory.path().join("bad");
        std::fs::write(&bad, "contexts: 7\n").unwrap();
        let list = format!("{}:{}", file(directory.path(), "one", "one"), bad.display());
        let said = format!("{:#}", listed(list.as_ref()).unwrap_err());
        assert!(said.contains(&bad.display().to_string()), "{said}");
    }
}
