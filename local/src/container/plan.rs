//! From what the cluster half wants of a container to what its pid 1 has to do: users, environment, files of `/etc`.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::identity::Standing;
use super::{Identity, InitPlan};
use crate::ids::Ids;
use crate::mounts::root::{Bind, RootPlan};
use crate::net::PodAddresses;
use crate::sandbox::BIN_DIR;
use crate::spec::{APP_UID, ContainerPlan, Dns, PROXY_UID, PodPlan, Privilege, VolumeSource};
use crate::volumes::Volumes;

/// Where commands are looked up, after Weft's own programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Homes of users that the host doesn't know; private, as `/run` is.
const HOMES: &str = "/run/home";

/// Names of users and groups on this machine, and which of them can be had.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    /// `/etc/passwd`.
    pub(crate) passwd: String,
    /// `/etc/group`.
    pub(crate) group: String,
    /// Those that exist for the mesh.
    pub(crate) ids: Ids,
}

/// A user, as `/etc/passwd` has it.
struct User<'a> {
    name: &'a str,
    gid: u32,
}

impl Accounts {
    fn user(&self, uid: u32) -> Option<User<'_>> {
        self.passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let found = fields.nth(1)?.parse::<u32>().ok()? == uid;
            let gid = fields.next()?.parse().ok()?;
            found.then_some(User { name, gid })
        })
    }

    fn has_group(&self, gid: u32) -> bool {
        self.group
            .lines()
            .any(|line| line.split(':').nth(2).is_some_and(|field| field.parse() == Ok(gid)))
    }
}

/// What a container's pid 1 has to do.
pub(crate) fn init_plan(
    pod: &PodPlan,
    container: &ContainerPlan,
    addresses: &PodAddresses,
    volumes: &Volumes,
    masks: &[PathBuf],
    accounts: &Accounts,
) -> InitPlan {
    let (identity, home, etc) = identity(pod, container, accounts);
    let mut files = etc;
    files.push(("/etc/hosts".into(), hosts(pod, addresses)));
    files.push(("/etc/hostname".into(), format!("{}\n", pod.hostname)));
    files.push(("/etc/resolv.conf".into(), resolv_conf(&pod.dns)));
    // The host's may ask daemons that aren't there, or answer `*.local` by multicast.
    files.push((
        "/etc/nsswitch.conf".into(),
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n".into(),
    ));
    let binds = container.mounts.iter().map(|mount| {
        let source = pod
            .volumes
            .iter()
            .find(|volume| volume.name == mount.volume)
            .map(|volume| &volume.source);
        let (fixed, create) = match source {
            Some(VolumeSource::Files { .. }) => (true, false),
            Some(VolumeSource::EmptyDir { .. } | VolumeSource::Claim { .. }) => (false, true),
            Some(VolumeSource::Bind { .. }) | None => (false, false),
        };
        Bind {
            source: volumes.path(&mount.volume),
            sub_path: mount.sub_path.clone(),
            target: mount.path.clone(),
            read_only: mount.read_only || fixed,
            create,
        }
    });
    let mut binds: Vec<Bind> = binds.collect();
    // An outer mount point must not cover an inner one.
    binds.sort_by_key(|bind| bind.target.components().count());
    // The only user, by whatever number its own user namespace knows it.
    let owner = |id| if identity.standing == Standing::Ordinary { id } else { 0 };
    InitPlan {
        hostname: pod.hostname.clone(),
        root: RootPlan {
            masks: masks.to_vec(),
            files,
            home: (home.clone(), owner(identity.uid), owner(identity.gid)),
            binds,
            read_only: container.read_only_root,
        },
        env: environment(&pod.hostname, &home, &container.env),
        command: container.command.clone(),
        working_dir: container.working_dir.clone().unwrap_or_else(|| "/".into()),
        identity,
    }
}

/// Who the container runs as, its home, and the account files that name it.
fn identity(
    pod: &PodPlan,
    container: &ContainerPlan,
    accounts: &Accounts,
) -> (Identity, PathBuf, Vec<(PathBuf, String)>) {
    let standing = match (accounts.ids.are_single(), &container.privilege) {
        (false, _) => Standing::Ordinary,
        (true, Privilege::App) => Standing::Nested,
        // What it may do to the pod's network counts in the mesh's user namespace only.
        (true, Privilege::Weft(_)) => Standing::Only,
    };
    let wanted = |id: Option<u32>| if standing == Standing::Only { Some(0) } else { id };
    let uid = wanted(container.user).unwrap_or(APP_UID);
    let known = accounts.user(uid);
    let gid = wanted(container.group).unwrap_or_else(|| known.as_ref().map_or(uid, |user| user.gid));
    let (mut passwd, mut group) = (ended(&accounts.passwd), ended(&accounts.group));
    let name = match (&known, uid) {
        (Some(user), _) => user.name.to_owned(),
        (None, APP_UID) => "app".to_owned(),
        (None, PROXY_UID) => "weft".to_owned(),
        (None, _) => format!("user-{uid}"),
    };
    // Never the host's: what is written there would not be private, and it may be someone's.
    let home = PathBuf::from(HOMES).join(&name);
    if known.is_none() {
        let _infallible = writeln!(passwd, "{name}:x:{uid}:{gid}::{}:/bin/sh", home.display());
    }
    let more = container.groups.iter().copied().chain(pod.fs_group);
    let groups: Vec<u32> = more.filter(|_| standing == Standing::Ordinary).collect();
    for (index, gid) in std::iter::once(gid).chain(groups.iter().copied()).enumerate() {
        if !accounts.has_group(gid) {
            let group_name = if index == 0 && known.is_none() {
                name.clone()
            } else {
                format!("group-{gid}")
            };
            let _infallible = writeln!(group, "{group_name}:x:{gid}:");
        }
    }
    let capabilities = match &container.privilege {
        Privilege::App => Vec::new(),
        Privilege::Weft(capabilities) => capabilities.clone(),
    };
    let files = vec![
        (PathBuf::from("/etc/passwd"), passwd),
        (PathBuf::from("/etc/group"), group),
    ];
    (
        Identity {
            uid,
            gid,
            groups,
            capabilities,
            standing,
        },
        home,
        files,
    )
}

fn ended(text: &str) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn environment(hostname: &str, home: &Path, wanted: &[(String, String)]) -> Vec<(String, String)> {
    let mut env = vec![
        ("HOSTNAME".to_owned(), hostname.to_owned()),
        ("HOME".to_owned(), home.to_string_lossy().into_owned()),
    ];
    env.extend(wanted.iter().filter(|(key, _)| key != "PATH").cloned());
    let path = wanted
        .iter()
        .rev()
        .find(|(key, _)| key == "PATH")
        .map_or(PATH, |(_, path)| path);
    env.push(("PATH".to_owned(), format!("{BIN_DIR}:{path}")));
    env
}

fn hosts(pod: &PodPlan, addresses: &PodAddresses) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for ip in addresses.all() {
        let full = pod
            .full_name
            .as_ref()
            .map(|name| format!("{name}\t"))
            .unwrap_or_default();
        let _infallible = writeln!(text, "{ip}\t{full}{}", pod.hostname);
    }
    for (ip, names) in &pod.host_aliases {
        let _infallible = writeln!(text, "{ip}\t{}", names.join("\t"));
    }
    text
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    for server in &dns.nameservers {
        let _infallible = match server {
            IpAddr::V4(ip) => writeln!(text, "nameserver {ip}"),
            IpAddr::V6(ip) => writeln!(text, "nameserver {ip}"),
        };
    }
    if !dns.searches.is_empty() {
        let _infallible = writeln!(text, "search {}", dns.searches.join(" "));
    }
    if !dns.options.is_empty() {
        let _infallible = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Capability;
    use crate::spec::tests::pod;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:34:www:/var/www:/usr/sbin/nologin";

    fn plan(change: impl FnOnce(&mut PodPlan)) -> InitPlan {
        plan_among(Ids::default(), change)
    }

    fn plan_among(ids: Ids, change: impl FnOnce(&mut PodPlan)) -> InitPlan {
        let mut spec = pod("web", &["true"]);
        change(&mut spec);
        let addresses = PodAddresses {
            v4: [10, 1, 2, 3].into(),
            v6: None,
        };
        let accounts = Accounts {
            passwd: PASSWD.into(),
            group: "root:x:0:\n".into(),
            ids,
        };
        init_plan(
            &spec,
            &spec.containers[0],
            &addresses,
            &Volumes::nowhere(),
            &[],
            &accounts,
        )
    }

    #[track_caller]
    fn file<'a>(plan: &'a InitPlan, path: &str) -> &'a str {
        &plan
            .root
            .files
            .iter()
            .find(|(name, _)| name == Path::new(path))
            .unwrap()
            .1
    }

    #[test]
    fn who_asks_for_nobody_is_app_without_any_right() {
        let plan = plan(|_| {});
        assert_eq!(
            plan.identity,
            Identity {
                uid: APP_UID,
                gid: APP_UID,
                groups: vec![],
                capabilities: vec![],
                standing: Standing::Ordinary
            }
        );
        assert!(file(&plan, "/etc/passwd").contains("\napp:x:65532:65532::/run/home/app:/bin/sh\n"));
        assert!(file(&plan, "/etc/group").contains("\napp:x:65532:\n"));
    }

    #[test]
    fn a_known_user_keeps_its_group_and_an_unknown_one_gets_an_entry() {
        let known = plan(|pod| pod.containers[0].user = Some(33));
        assert_eq!((known.identity.uid, known.identity.gid), (33, 34));
        assert_eq!(file(&known, "/etc/passwd"), format!("{PASSWD}\n"));
        let unknown = plan(|pod| pod.containers[0].user = Some(4242));
        assert!(file(&unknown, "/etc/passwd").contains("\nuser-4242:x:4242:4242::"));
    }

    #[test]
    fn only_a_container_of_wefts_own_keeps_capabilities() {
        let plan = plan(|pod| {
            pod.fs_group = Some(7);
            pod.containers[0].privilege = Privilege::Weft(vec![Capability::NetRaw]);
        });
        assert_eq!(plan.identity.capabilities, [Capability::NetRaw]);
        assert_eq!(plan.identity.groups, [7]);
    }

    #[test]
    fn where_there_is_one_user_an_app_has_its_number_in_a_namespace_of_its_own_and_weft_has_none() {
        let single = Ids::of("0 1000 1\n");
        let app = plan_among(single.clone(), |pod| {
            pod.fs_group = Some(7);
            pod.containers[0].user = Some(33);
        });
        assert_eq!((app.identity.uid, app.identity.standing), (33, Standing::Nested));
        assert_eq!((app.identity.groups.len(), app.root.home.1), (0, 0));
        let weft = plan_among(single, |pod| {
            pod.containers[0].user = Some(PROXY_UID);
            pod.containers[0].privilege = Privilege::Weft(vec![Capability::NetRaw]);
        });
        assert_eq!((weft.identity.uid, weft.identity.gid), (0, 0));
        assert_eq!(weft.identity.standing, Standing::Only);
        assert_eq!(weft.identity.capabilities, [Capability::NetRaw]);
    }

    #[test]
    fn wefts_programs_are_first_on_any_path() {
        let plan =
            plan(|pod| pod.containers[0].env = vec![("PATH".into(), "/opt/bin".into()), ("A".into(), "1".into())]);
        assert!(plan.env.contains(&("PATH".into(), "/run/weft/bin:/opt/bin".into())));
        assert!(plan.env.contains(&("A".into(), "1".into())));
        assert_eq!(plan.env.iter().filter(|(key, _)| key == "PATH").count(), 1);
    }

    #[test]
    fn names_resolve_through_the_pods_own_files() {
        let plan = plan(|pod| {
            pod.dns.nameservers = vec!["10.96.0.10".parse().unwrap()];
            pod.dns.searches = vec!["shop.svc.cluster.local".into(), "svc.cluster.local".into()];
            pod.dns.options = vec!["ndots:5".into()];
            pod.host_aliases = vec![("10.0.0.9".parse().unwrap(), vec!["db".into(), "db.old".into()])];
        });
        let resolv = "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local\noptions ndots:5\n";
        assert_eq!(file(&plan, "/etc/resolv.conf"), resolv);
        assert!(file(&plan, "/etc/hosts").ends_with("10.1.2.3\tweb\n10.0.0.9\tdb\tdb.old\n"));
    }
}
