//! The contents of a pod's volumes. Pure.

use std::path::PathBuf;

use serde_json::Value;

use super::check::quantity;
use super::raw::{self, PodSpec};
use super::{Facts, Files, Key, Missing, fields};
use crate::spec::{FileEntry, Volume, VolumeSource};

/// Mode of files for which nobody names one (`defaultMode`).
const FILE_MODE: u32 = 0o644;
/// Mode of a token that one user alone reads, as kubelet gives it.
const TOKEN_MODE: u32 = 0o600;

/// All volumes of a pod as they are to be now.
///
/// # Errors
/// What is missing.
pub(super) fn all(pod: &Value, spec: &PodSpec, facts: &Facts<'_>) -> Result<Vec<Volume>, Missing> {
    let volume = |(i, volume): (usize, &raw::Volume)| {
        let source = source(pod, spec, volume, &format!("spec.volumes[{i}]"), facts)?;
        Ok(Volume {
            name: volume.name.clone(),
            source,
        })
    };
    spec.volumes.iter().enumerate().map(volume).collect()
}

fn source(
    pod: &Value,
    spec: &PodSpec,
    volume: &raw::Volume,
    path: &str,
    facts: &Facts<'_>,
) -> Result<VolumeSource, Missing> {
    if let Some(dir) = &volume.empty_dir {
        return Ok(VolumeSource::EmptyDir {
            memory: dir.medium == "Memory",
            size_limit: dir.size_limit.as_ref().and_then(quantity),
        });
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return Ok(VolumeSource::Claim {
            name: claim.claim_name.clone(),
        });
    }
    let mut filling = Filling {
        pod,
        facts,
        mode: FILE_MODE,
        files: Vec::new(),
    };
    let parts = [&volume.config_map, &volume.secret].map(|of| of.as_ref().and_then(|of| of.default_mode));
    let downward = volume.downward_api.as_ref().and_then(|downward| downward.default_mode);
    let projected = volume.projected.as_ref().and_then(|projected| projected.default_mode);
    filling.mode = parts[0].or(parts[1]).or(downward).or(projected).unwrap_or(FILE_MODE);

    filling.config_map(volume.config_map.as_ref(), path, "name")?;
    filling.secret(volume.secret.as_ref(), path, "secretName")?;
    filling.downward(volume.downward_api.as_ref());
    let mut owner = None;
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter());
    for (i, source) in sources.enumerate() {
        let path = format!("{path}.projected.sources[{i}]");
        filling.config_map(source.config_map.as_ref(), &path, "name")?;
        filling.secret(source.secret.as_ref(), &path, "name")?;
        filling.downward(source.downward_api.as_ref());
        if let Some(source) = &source.service_account_token {
            owner = token_reader(spec);
            filling.token(source, &path, owner.is_some())?;
        }
    }
    let files = filling.files;
    Ok(VolumeSource::Files { files, owner })
}

/// A volume that is being filled.
struct Filling<'a> {
    pod: &'a Value,
    facts: &'a Facts<'a>,
    mode: u32,
    files: Vec<FileEntry>,
}

impl Filling<'_> {
    fn key(&self, name: &str) -> Key {
        Key::new(self.pod["metadata"]["namespace"].as_str().unwrap_or_default(), name)
    }

    fn config_map(&mut self, of: Option<&raw::FilesOf>, path: &str, field: &str) -> Result<(), Missing> {
        let Some(of) = of else { return Ok(()) };
        let facts = self.facts;
        self.take(of, facts.config_map(&self.key(&of.name)), "ConfigMap")
            .map_err(|missing| missing.below(&format!("{path}.configMap"), field))
    }

    fn secret(&mut self, of: Option<&raw::FilesOf>, path: &str, field: &str) -> Result<(), Missing> {
        let Some(of) = of else { return Ok(()) };
        let facts = self.facts;
        self.take(of, facts.secret(&self.key(&of.name)), "Secret")
            .map_err(|missing| missing.below(&format!("{path}.secret"), field))
    }

    /// The files of a ConfigMap or Secret: all of them, or those that `items` names. What is missing has the field below
    /// the source, or none for the source itself.
    fn take(&mut self, of: &raw::FilesOf, files: Option<&Files>, kind: &str) -> Result<(), Missing> {
        let missing = |field: String, message: String| match of.optional {
            true => Ok(()),
            false => Err(Missing { field, message }),
        };
        let Some(files) = files else {
            return missing(String::new(), format!("there is no {kind} {:?}", of.name));
        };
        let Some(items) = &of.items else {
            for (key, bytes) in files {
                self.put(key, None, bytes.clone());
            }
            return Ok(());
        };
        for (i, item) in items.iter().enumerate() {
            match files.get(&item.key) {
                Some(bytes) => self.put(&item.path, item.mode, bytes.clone()),
                None => missing(
                    format!("items[{i}].key"),
                    format!("{kind} {:?} has no key {:?}", of.name, item.key),
                )?,
            }
        }
        Ok(())
    }

    fn downward(&mut self, downward: Option<&raw::Downward>) {
        for item in downward.into_iter().flat_map(|downward| &downward.items) {
            let value = fields::value(self.pod, &item.field_ref.field_path);
            self.put(&item.path, item.mode, value.into_bytes());
        }
    }

    fn token(&mut self, source: &raw::TokenSource, path: &str, private: bool) -> Result<(), Missing> {
        let key = (source.audience().to_owned(), source.seconds());
        let token = self.facts.tokens.get(&key).ok_or_else(|| Missing {
            field: format!("{path}.serviceAccountToken"),
            message: "no token could be signed".to_owned(),
        })?;
        let mode = if private { TOKEN_MODE } else { FILE_MODE };
        self.put(&source.path, Some(mode), token.clone().into_bytes());
        Ok(())
    }

    fn put(&mut self, path: &str, mode: Option<u32>, bytes: Vec<u8>) {
        self.files.push(FileEntry {
            path: PathBuf::from(path),
            mode: mode.unwrap_or(self.mode),
            bytes,
        });
    }
}

/// Who alone reads the tokens of a pod: the user that all containers which mount them run as. None: several, so all may,
/// as in Kubernetes.
fn token_reader(spec: &PodSpec) -> Option<u32> {
    let holds = |mount: &raw::VolumeMount| {
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.name);
        let projected = volume.and_then(|volume| volume.projected.as_ref());
        projected.is_some_and(|projected| {
            projected
                .sources
                .iter()
                .any(|source| source.service_account_token.is_some())
        })
    };
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let readers = containers.filter(|container| container.volume_mounts.iter().any(holds));
    let mut users = readers.map(|c| c.security_context.run_as_user.or(spec.security_context.run_as_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}
