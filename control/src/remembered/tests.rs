//! What acts after a restart of what is invalid by then.

use std::time::SystemTime;

use weft_certs::authority::Authority;
use weft_model::identity::TrustDomain;

use super::*;
use crate::index::{Name, Settings};
use crate::manifests::{Writer, parse};
use crate::objects::Kinds;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
";

fn export(labels: &str, uid: &str) -> String {
    format!(
        "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{name: web, namespace: shop, uid: {uid}, resourceVersion: '7'}}\nspec: {{exportedLabels: {labels}}}\n"
    )
}

fn peer(keep_for: &str) -> String {
    let authority = Authority::create(TrustDomain::new("two.example").unwrap(), SystemTime::UNIX_EPOCH).unwrap();
    let roots = authority.bundle(0).to_pem().replace('\n', "\\n");
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: two, uid: u}}\nspec: {{trustDomain: two.example, \
         trustBundle: {{roots: \"{roots}\"}}, endpoints: ['two.example:15013'], keepFor: {keep_for}, exports: []}}\n"
    )
}

/// A process that begins with these objects, and remembers what acts.
fn begin(state: &Path, yaml: &str) -> Index {
    begin_with(state, yaml, true)
}

/// The same where not all files can be read.
fn begin_with(state: &Path, yaml: &str, whole: bool) -> Index {
    let snapshot = parse(
        Path::new("a.yaml"),
        &(SERVICE.to_owned() + yaml),
        Writer::Machine,
        &Kinds::control(),
    )
    .unwrap();
    let mut index = Index::new(Settings {
        trust_domain: TrustDomain::new("one.example").unwrap(),
        network: "c".to_owned(),
        cluster: "one".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        inside: Vec::new(),
        outside: Vec::new(),
    });
    let mut remembered = Remembered::of(state);
    remembered.begin(&mut index, &snapshot);
    remembered.keep(&index, whole);
    index
}

fn web() -> Name {
    Name::new("shop", "web")
}

#[test]
fn what_is_invalid_when_the_process_begins_acts_as_it_last_was_valid() {
    let state = tempfile::tempdir().unwrap();
    let valid = peer("1h") + &export("{tier: front}", "e");
    let index = begin(state.path(), &valid);
    assert!(index.peer("two").is_some() && index.export(&web()).is_some());
    let broken = peer("soon") + &export("{tier: 1}", "e");
    for _ in 0..2 {
        // Also after a second restart.
        let index = begin(state.path(), &broken);
        let peer = index.peer("two").unwrap();
        assert!(
            !peer.is_told("shop", &Default::default()),
            "its exports are narrowed as they were"
        );
        assert_eq!(index.export(&web()).unwrap().labels["tier"], "front");
        let (object, ..) = index.exported(&web()).unwrap();
        assert_eq!(object.uid, "e");
        let said: Vec<_> = index
            .written_statuses()
            .into_iter()
            .flat_map(|status| status.conditions)
            .collect();
        assert_eq!(
            said.iter()
                .filter(|condition| condition.message.contains("still acts"))
                .count(),
            2,
            "{said:?}"
        );
    }
    // What is mended acts as it is now.
    let index = begin(state.path(), &valid.replace("front", "back"));
    assert_eq!(index.export(&web()).unwrap().labels["tier"], "back");
}

#[test]
fn what_was_never_valid_or_is_gone_or_made_anew_does_not_act() {
    let state = tempfile::tempdir().unwrap();
    let broken = export("{tier: 1}", "e");
    assert!(begin(state.path(), &broken).export(&web()).is_none());
    begin(state.path(), &export("{}", "e"));
    assert!(
        begin(state.path(), &export("{tier: 1}", "another"))
            .export(&web())
            .is_none()
    );
    // Of what is gone no file is left.
    begin(state.path(), &export("{}", "e"));
    assert!(begin(state.path(), "").export(&web()).is_none());
    assert_eq!(std::fs::read_dir(state.path().join("remembered")).unwrap().count(), 0);
    assert!(begin(state.path(), &broken).export(&web()).is_none());
}

#[test]
fn what_a_file_has_that_cannot_be_read_for_a_while_is_remembered_until_then() {
    let state = tempfile::tempdir().unwrap();
    begin(state.path(), &export("{tier: front}", "e"));
    // Its file cannot be read as this process begins, and is mended but for its labels before the next one.
    assert!(begin_with(state.path(), "", false).export(&web()).is_none());
    let index = begin(state.path(), &export("{tier: 1}", "e"));
    assert_eq!(index.export(&web()).unwrap().labels["tier"], "front");
}

#[test]
fn what_goes_before_the_eyes_of_a_process_is_forgotten_though_another_file_cannot_be_read() {
    let state = tempfile::tempdir().unwrap();
    begin(state.path(), &export("{}", "e"));
    let mut remembered = Remembered::of(state.path());
    let index = begin_with(state.path(), &export("{}", "e"), false);
    remembered.keep(&index, false);
    remembered.keep(&begin_with(state.path(), "", false), false);
    assert_eq!(std::fs::read_dir(state.path().join("remembered")).unwrap().count(), 0);
}

#[test]
fn a_damaged_file_is_as_good_as_none() {
    let state = tempfile::tempdir().unwrap();
    begin(state.path(), &export("{}", "e"));
    let entry = std::fs::read_dir(state.path().join("remembered"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let whole = std::fs::read(entry.path()).unwrap();
    std::fs::write(entry.path(), &whole[..whole.len() - 1]).unwrap();
    assert!(begin(state.path(), &export("{tier: 1}", "e")).export(&web()).is_none());
}
