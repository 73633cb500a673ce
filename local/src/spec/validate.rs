//! Whether a plan can be carried out.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::{
    ContainerPlan, FileEntry, Mount, PROXY_UID, PodPlan, Privilege, Probe, ProbeAction, SpecError, Volume, VolumeSource,
};

/// The field, below what is checked, and what is wrong with it.
type Fault = (String, String);

fn fault<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T, Fault> {
    Err((field.into(), message.into()))
}

impl PodPlan {
    /// Checks what the types can't say.
    ///
    /// # Errors
    /// The first field that can't be honoured.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.check().map_err(|(field, message)| SpecError {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            field,
            message,
        })
    }

    fn check(&self) -> Result<(), Fault> {
        for (field, value) in [("namespace", &self.namespace), ("name", &self.name), ("uid", &self.uid)] {
            if !is_file_name(value) {
                return fault(format!("metadata.{field}"), "must be a name without slashes");
            }
        }
        if self.containers.is_empty() {
            return fault("spec.containers", "must have at least one container");
        }
        let mut volumes = BTreeSet::new();
        for volume in &self.volumes {
            if !volumes.insert(volume.name.as_str()) {
                return fault(format!("spec.volumes[{}].name", volume.name), "must be unique");
            }
            volume.check()?;
        }
        let mut names = BTreeSet::new();
        let groups = [
            ("initContainers", &self.init_containers),
            ("containers", &self.containers),
        ];
        for (group, container) in groups
            .iter()
            .flat_map(|(group, list)| list.iter().map(move |one| (group, one)))
        {
            let place = format!("spec.{group}[{}]", container.name);
            if !is_file_name(&container.name) || !names.insert(container.name.as_str()) {
                return fault(format!("{place}.name"), "must be a unique name without slashes");
            }
            container
                .check()
                .and_then(|()| {
                    container
                        .mounts
                        .iter()
                        .try_for_each(|mount| self.check_mount(container, mount))
                })
                .map_err(|(field, message)| (format!("{place}.{field}"), message))?;
        }
        Ok(())
    }

    fn check_mount(&self, container: &ContainerPlan, mount: &Mount) -> Result<(), Fault> {
        let place = format!("volumeMounts[{}]", mount.path.display());
        let Some(volume) = self.volumes.iter().find(|volume| volume.name == mount.volume) else {
            return fault(
                format!("{place}.name"),
                format!("there is no volume {:?}", mount.volume),
            );
        };
        if container.privilege == Privilege::App && matches!(volume.source, VolumeSource::Bind { .. }) {
            return fault(place, "a directory of the host is for Weft's own containers only");
        }
        let up = mount.path.components().any(|part| part == Component::ParentDir);
        if !mount.path.is_absolute() || up || mount.path == Path::new("/") {
            return fault(
                format!("{place}.mountPath"),
                "must be an absolute path below `/`, without `..`",
            );
        }
        if mount.sub_path.as_ref().is_some_and(|path| !is_inside(path)) {
            return fault(format!("{place}.subPath"), "must be a relative path without `..`");
        }
        Ok(())
    }
}

impl Volume {
    fn check(&self) -> Result<(), Fault> {
        if !is_file_name(&self.name) {
            return fault(
                format!("spec.volumes[{}].name", self.name),
                "must be a name without slashes",
            );
        }
        if matches!(&self.source, VolumeSource::Claim { name } if !is_file_name(name)) {
            let place = format!("spec.volumes[{}].persistentVolumeClaim.claimName", self.name);
            return fault(place, "must be a name without slashes");
        }
        let VolumeSource::Files { files, .. } = &self.source else {
            return Ok(());
        };
        match files.iter().find(|file| !file.is_well_placed()) {
            Some(file) => {
                let place = format!("spec.volumes[{}]: {}", self.name, file.path.display());
                fault(place, "must be a relative path without `..`")
            }
            None => Ok(()),
        }
    }
}

impl FileEntry {
    /// Inside its volume, and not one of the names that begin with `..`: they belong to the machinery that swaps files.
    pub(crate) fn is_well_placed(&self) -> bool {
        is_inside(&self.path) && !self.path.to_string_lossy().starts_with("..")
    }
}

impl ContainerPlan {
    fn check(&self) -> Result<(), Fault> {
        if self.command.first().is_none_or(String::is_empty) {
            let message = "must name a program of this machine: images, and so their entry points, are not used";
            return fault("command", message);
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return fault("command", "must not contain NUL");
        }
        let bad =
            |(key, value): &&(String, String)| key.is_empty() || key.contains(['=', '\0']) || value.contains('\0');
        if let Some((key, _)) = self.env.iter().find(bad) {
            return fault(
                format!("env[{key}]"),
                "must be a name without `=`; neither it nor its value may contain NUL",
            );
        }
        if self.privilege == Privilege::App {
            self.check_ids()?;
        }
        if self.working_dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            return fault("workingDir", "must be an absolute path");
        }
        let probes = [
            ("startupProbe", &self.startup),
            ("readinessProbe", &self.readiness),
            ("livenessProbe", &self.liveness),
        ];
        for (name, probe) in probes {
            probe.as_ref().map_or(Ok(()), |probe| probe.check(name))?;
        }
        Ok(())
    }

    /// No application is the proxy, by user or by group.
    fn check_ids(&self) -> Result<(), Fault> {
        let ids = [("runAsUser", self.user), ("runAsGroup", self.group)].into_iter();
        let more = self.groups.iter().map(|id| ("supplementalGroups", Some(*id)));
        match ids.chain(more).find(|(_, id)| *id == Some(PROXY_UID)) {
            Some((field, _)) => {
                let message = format!("{PROXY_UID} is reserved for the proxy; choose another");
                fault(format!("securityContext.{field}"), message)
            }
            None => Ok(()),
        }
    }
}

impl Probe {
    fn check(&self, name: &str) -> Result<(), Fault> {
        if self.period.is_zero() || self.timeout.is_zero() {
            return fault(name, "periodSeconds and timeoutSeconds must be at least 1");
        }
        if self.success_threshold == 0 || self.failure_threshold == 0 {
            return fault(name, "successThreshold and failureThreshold must be at least 1");
        }
        if name != "readinessProbe" && self.success_threshold != 1 {
            return fault(format!("{name}.successThreshold"), "must be 1");
        }
        if matches!(&self.action, ProbeAction::Exec { command } if command.is_empty()) {
            return fault(format!("{name}.exec.command"), "must name a program");
        }
        Ok(())
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn is_inside(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Capability;
    use crate::spec::tests::{container, pod};

    #[track_caller]
    fn refused(plan: &PodPlan, field: &str) {
        let error = plan.validate().expect_err("a refusal");
        assert_eq!(error.field, field, "{error}");
    }

    #[test]
    fn a_plain_pod_is_accepted() {
        assert_eq!(pod("web", &["true"]).validate(), Ok(()));
    }

    #[test]
    fn an_app_may_not_run_as_the_proxy() {
        let mut plan = pod("web", &["true"]);
        plan.containers[0].user = Some(PROXY_UID);
        refused(&plan, "spec.containers[main].securityContext.runAsUser");
        plan.containers[0].user = None;
        plan.containers[0].group = Some(PROXY_UID);
        refused(&plan, "spec.containers[main].securityContext.runAsGroup");
        plan.containers[0].group = None;
        plan.containers[0].groups = vec![PROXY_UID];
        refused(&plan, "spec.containers[main].securityContext.supplementalGroups");
        plan.containers[0].groups.clear();
        plan.containers[0].user = Some(PROXY_UID);
        plan.containers[0].privilege = Privilege::Weft(vec![Capability::NetRaw]);
        assert_eq!(plan.validate(), Ok(()));
    }

    #[test]
    fn paths_can_not_leave_their_volume() {
        let mut plan = pod("web", &["true"]);
        for path in ["../x", "/etc/passwd", "a/../../b", "..data"] {
            let files = vec![FileEntry {
                path: path.into(),
                mode: 0o644,
                bytes: Vec::new(),
            }];
            plan.volumes = vec![Volume {
                name: "v".into(),
                source: VolumeSource::Files { files, owner: None },
            }];
            refused(&plan, &format!("spec.volumes[v]: {path}"));
        }
    }

    #[test]
    fn only_wefts_own_containers_see_directories_of_the_host() {
        let mut plan = pod("control", &["true"]);
        plan.volumes = vec![Volume {
            name: "v".into(),
            source: VolumeSource::Bind { path: "/srv".into() },
        }];
        let mount = Mount {
            volume: "v".into(),
            path: "/srv".into(),
            sub_path: None,
            read_only: true,
        };
        plan.containers[0].mounts.push(mount);
        refused(&plan, "spec.containers[main].volumeMounts[/srv]");
        plan.containers[0].privilege = Privilege::Weft(Vec::new());
        assert_eq!(plan.validate(), Ok(()));
    }

    #[test]
    fn names_are_unique_and_exist() {
        let mut plan = pod("web", &["true"]);
        plan.init_containers.push(container("main", &["true"]));
        refused(&plan, "spec.containers[main].name");
        plan.init_containers.clear();
        let mount = Mount {
            volume: "gone".into(),
            path: "/data".into(),
            sub_path: None,
            read_only: false,
        };
        plan.containers[0].mounts.push(mount);
        refused(&plan, "spec.containers[main].volumeMounts[/data].name");
        plan.containers[0].mounts.clear();
        plan.containers[0].command.clear();
        refused(&plan, "spec.containers[main].command");
    }
}
