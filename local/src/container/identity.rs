//! Who a container's programs run as: put on by a thread, which then starts them.
//!
//! Linux keeps these per thread, so a thread can give its rights away for good and start a program that never had
//! them: no privileged code of ours runs between, where a container's own libraries could reach it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FsWord, Mode, fchown, fstatfs};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

use crate::mounts::Context;
use crate::spec::Capability;

/// `PIPEFS_MAGIC` of `linux/magic.h`: where pipes are that have no name in a directory.
const PIPEFS: FsWord = 0x5049_5045;

/// Whose user namespace an identity is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// The mesh's, where its user and groups exist.
    Ordinary,
    /// The mesh's, as the only user that there is.
    Only,
    /// One of its own below the mesh's, in which the only user has the wanted number. What is made outside of it (the pod's
    /// network, its rules, its mounts) is not its to change, whatever it makes further below.
    Nested,
}

/// User, groups and capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// What it keeps, also over exec; empty for all but Weft's own containers.
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) standing: Standing,
}

impl Identity {
    /// The calling thread becomes this identity for good: bounding set cut down, `no_new_privs` set.
    pub(crate) fn assume(&self) -> io::Result<()> {
        let kept = self
            .capabilities
            .iter()
            .fold(CapabilitySet::empty(), |set, one| set | bit(*one));
        limit_bounding_set(kept).context("cutting down the bounding set")?;
        set_keep_capabilities(true).context("keeping capabilities")?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // Where there is one user only, the kernel lets nobody change groups.
        if self.standing == Standing::Ordinary {
            let groups: Vec<_> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            set_thread_groups(&groups).context("setting the supplementary groups")?;
        }
        set_thread_res_gid(gid, gid, gid).context("setting the group")?;
        set_thread_res_uid(uid, uid, uid).context("setting the user")?;
        set_exactly(kept, kept).context("dropping capabilities")?;
        clear_ambient_capability_set().context("clearing the ambient set")?;
        for capability in &self.capabilities {
            configure_capability_in_ambient_set(bit(*capability), true).context("keeping a capability over exec")?;
        }
        set_no_new_privs(true).context("setting no_new_privs")?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Ok(())
    }
}

impl Identity {
    /// The calling process, which must have one thread only, gets the user namespace that this identity is of, for good. It
    /// has every right in there, and none outside.
    pub(crate) fn nest(&self) -> io::Result<()> {
        if self.standing != Standing::Nested {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWUSER).context("making the container's user namespace")?;
        let write = |file: &str, text: String| {
            fs::write(Path::new("/proc/self").join(file), text).context(&format!("writing the user namespace's {file}"))
        };
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{} 0 1", self.uid))?;
        write("gid_map", format!("{} 0 1", self.gid))
    }

    /// The calling thread, which is in the mesh's user namespace, becomes this identity as far as it can be had there, and
    /// has no more rights than it.
    pub(crate) fn assume_here(&self) -> io::Result<()> {
        match self.standing {
            Standing::Ordinary | Standing::Only => self.assume(),
            Standing::Nested => {
                let only = Self {
                    uid: 0,
                    gid: 0,
                    groups: Vec::new(),
                    capabilities: Vec::new(),
                    standing: Standing::Only,
                };
                only.assume()
            }
        }
    }

    /// Makes a pipe this user's, so that its programs can also open it by name: `/dev/stdout`, `/proc/self/fd/1`, as they
    /// can where container runtimes make the pipes. Anything else that output may go to (a file, a terminal) is somebody's,
    /// and stays as it is.
    pub(crate) fn own_pipe(&self, fd: impl AsFd) -> io::Result<()> {
        // The only user owns it already.
        if self.standing == Standing::Ordinary && fstatfs(&fd).context("looking at a pipe")?.f_type == PIPEFS {
            match fchown(&fd, Some(Uid::from_raw(self.uid)), None) {
                // Somebody's of outside of the mesh's user namespace.
                Err(rustix::io::Errno::PERM) => {}
                owned => owned.context("giving a pipe to the container's user")?,
            }
        }
        Ok(())
    }
}

/// What is left for a container's own init: to signal its child, whoever that is.
pub(crate) fn keep_only_kill() -> io::Result<()> {
    limit_bounding_set(CapabilitySet::KILL).context("cutting down the bounding set")?;
    set_exactly(CapabilitySet::KILL, CapabilitySet::empty()).context("dropping capabilities")?;
    set_no_new_privs(true).context("setting no_new_privs")
}

fn set_exactly(own: CapabilitySet, inheritable: CapabilitySet) -> rustix::io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets {
            effective: own,
            permitted: own,
            inheritable,
        },
    )
}

fn limit_bounding_set(kept: CapabilitySet) -> rustix::io::Result<()> {
    for index in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << index);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first number that this kernel has no name for.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn bit(capability: Capability) -> CapabilitySet {
    match capability {
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetRaw => CapabilitySet::NET_RAW,
    }
}
