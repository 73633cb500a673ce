//! The images: what is in them, who runs them, and that the init role has what it needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use weft_tests::kube::{Cluster, image, root};
use weft_tests::mesh::weft_bin;

/// A pod that runs one container once.
fn once(name: &str, args: &str, security: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [\
         {{name: weft, image: \"{}\", args: {args}, securityContext: {security}}}]}}}}",
        image("weft")
    )
}

#[test]
fn the_image_runs_weft_as_its_own_user_under_the_strictest_level() {
    let namespace = Cluster::shared().namespace(&[("pod-security.kubernetes.io/enforce", "restricted")]);
    let security = "{runAsNonRoot: true, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, \
                    capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}";
    namespace.apply(&once("version", "[--version]", security));
    let (well, said) = namespace.ended("version");
    assert!(well && said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}

#[test]
fn the_init_role_has_its_iptables_and_proves_both_families() {
    let namespace = Cluster::shared().namespace(&[]);
    let security = "{runAsUser: 0, capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}}";
    namespace.apply(&once("init", "[init, --exempt-uid, \"1882\"]", security));
    let (well, said) = namespace.ended("init");
    assert!(well && said.contains("proven: IPv4 and IPv6"), "{said}");
}

#[test]
fn the_image_has_no_shell_and_the_same_files_give_the_same_one() {
    let (tree, other) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let content = tree.path().join("content");
    let images = |target: &Path, args: &[&std::ffi::OsStr]| {
        let done = Command::new(root().join("cluster/images.sh"))
            .args(args)
            .env("WEFT_BIN", weft_bin())
            .env("CARGO_TARGET_DIR", target)
            .output();
        assert!(done.as_ref().is_ok_and(|done| done.status.success()), "{done:?}");
    };
    images(tree.path(), &["tree".as_ref(), content.as_os_str()]);
    let programs: BTreeSet<String> = ["usr/bin", "usr/sbin"]
        .iter()
        .flat_map(|place| std::fs::read_dir(content.join(place)).expect("programs").flatten())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let wanted =
        "ip6tables ip6tables-restore ip6tables-save iptables iptables-restore iptables-save weft xtables-nft-multi";
    assert_eq!(programs.into_iter().collect::<Vec<_>>().join(" "), wanted);

    // In two places, one after the other. The cluster's may be of another program than this test's.
    let build = |target: &Path| {
        images(target, &["weft".as_ref()]);
        std::fs::read(target.join("image/weft.tar")).expect("the image")
    };
    assert!(build(tree.path()) == build(other.path()), "two builds differ");
}
