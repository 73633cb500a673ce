//! The cases of the conformance suite of the Multi-Cluster Services API that are decided here, and those of KEP-1645 beside
//! them.

use super::*;

/// The Service of the conformance suite, as a cluster exports it.
fn hello(cluster: &str, created_ms: u64) -> Export {
    Export {
        cluster: cluster.to_owned(),
        created_ms,
        kind: ImportType::ClusterSetIP,
        ports: vec![port("tcp", 42, Protocol::Tcp), port("udp", 42, Protocol::Udp)],
        session_affinity: SessionAffinity::ClientIp { timeout_seconds: 10 },
        ip_families: vec![IpFamily::V4],
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
        traffic_distribution: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    }
}

fn port(name: &str, port: u16, protocol: Protocol) -> Port {
    Port {
        name: name.to_owned(),
        port,
        protocol,
        app_protocol: None,
    }
}

fn texts(key: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), "true".to_owned())].into()
}

/// Of `b`, which is the oldest, and `a`, in which something is different.
fn of_two(change: impl FnOnce(&mut Export)) -> Merged {
    let mut other = hello("a", 2000);
    change(&mut other);
    merge(&[other, hello("b", 1000)]).unwrap()
}

#[track_caller]
fn conflict(merged: &Merged, reason: &str) {
    let found = &merged.conflict;
    assert_eq!(
        (found.status, found.reason.as_str()),
        (true, reason),
        "{}",
        found.message
    );
    assert!(
        found.message.contains('a') && found.message.contains('b'),
        "{}",
        found.message
    );
}

#[track_caller]
fn no_conflict(merged: &Merged) {
    let found = &merged.conflict;
    assert_eq!(
        (found.status, found.reason.as_str()),
        (false, "NoConflicts"),
        "{}",
        found.message
    );
}

#[test]
fn an_import_exists_as_long_as_at_least_one_cluster_exports_the_service() {
    let (one, two) = (hello("one", 1), hello("two", 2));
    let clusters = |exports: &[Export]| merge(exports).map(|merged| Vec::from_iter(merged.clusters));
    assert_eq!(clusters(&[two.clone(), one.clone()]).unwrap(), ["one", "two"]);
    assert_eq!(clusters(std::slice::from_ref(&two)).unwrap(), ["two"]);
    assert_eq!(clusters(&[]), None);
}

#[test]
fn exporting_a_cluster_ip_service_makes_an_import_of_type_cluster_set_ip() {
    let merged = merge(&[hello("a", 1)]).unwrap();
    assert_eq!(merged.kind, ImportType::ClusterSetIP);
    no_conflict(&merged);
}

#[test]
fn exporting_a_headless_service_makes_an_import_of_type_headless() {
    let headless = Export {
        kind: ImportType::Headless,
        ..hello("a", 1)
    };
    assert_eq!(merge(&[headless]).unwrap().kind, ImportType::Headless);
}

#[test]
fn the_session_affinity_of_an_import_is_that_of_the_exported_service() {
    let affinity = SessionAffinity::ClientIp { timeout_seconds: 10 };
    assert_eq!(merge(&[hello("a", 1)]).unwrap().session_affinity, affinity);
}

#[test]
fn the_internal_traffic_policy_of_an_import_is_that_of_the_exported_service() {
    let local = Export {
        internal_traffic_policy: InternalTrafficPolicy::Local,
        ..hello("a", 1)
    };
    let merged = merge(&[local]).unwrap();
    assert_eq!(merged.internal_traffic_policy, InternalTrafficPolicy::Local);
}

#[test]
fn the_traffic_distribution_of_an_import_is_that_of_the_exported_service() {
    let close = Export {
        traffic_distribution: Some("PreferClose".to_owned()),
        ..hello("a", 1)
    };
    assert_eq!(
        merge(&[close]).unwrap().traffic_distribution.as_deref(),
        Some("PreferClose")
    );
}

#[test]
fn the_ports_of_an_import_are_those_of_the_exported_service() {
    assert_eq!(merge(&[hello("a", 1)]).unwrap().ports, hello("a", 1).ports);
}

#[test]
fn only_the_labels_and_annotations_that_the_export_names_are_those_of_the_import() {
    let export = Export {
        labels: texts("dummy-label"),
        annotations: texts("dummy-annotation"),
        ..hello("a", 1)
    };
    let merged = merge(&[export]).unwrap();
    assert_eq!(
        (merged.labels, merged.annotations),
        (texts("dummy-label"), texts("dummy-annotation"))
    );
}

/// "The clusterset service will expose the union of service ports declared on its constituent services and raise a
/// `PortConflict` conflict condition."
#[test]
fn an_import_has_the_union_of_the_ports_of_all_clusters_and_every_export_is_told_that_they_differ() {
    let sctp = port("stcp", 142, Protocol::Sctp);
    let merged = of_two(|other| other.ports = vec![hello("", 0).ports[0].clone(), sctp.clone()]);
    let mut union = hello("", 0).ports;
    union.push(sctp);
    assert_eq!(merged.ports, union);
    conflict(&merged, "PortConflict");
    let message = &merged.conflict.message;
    assert_eq!(message, "ports differ: b has no stcp 142/SCTP, a has no udp 42/UDP");
    // The order in which they are written is nothing to differ in.
    no_conflict(&of_two(|other| other.ports.reverse()));
}

/// "field(s) under contention, which cluster won, and why."
#[test]
fn a_conflict_says_what_differs_which_cluster_decides_and_why() {
    let merged = of_two(|other| {
        other.ports[0].port = 43;
        other.kind = ImportType::Headless;
    });
    assert_eq!(
        merged.conflict.message,
        "ports differ: tcp 43/TCP of a gives way to tcp 42/TCP of b, whose export is older; \
         type differs in a, and is as in b, whose export is older"
    );
    let mut two = [hello("b", 0), hello("a", 0)];
    two[0].kind = ImportType::Headless;
    let message = merge(&two).unwrap().conflict.message;
    let why = "type differs in b, and is as in a, whose name comes first, for nothing says which export is older";
    assert_eq!(message, why);
}

#[test]
fn ports_that_clash_are_as_in_the_older_export_and_every_export_is_told() {
    let first = || hello("", 0).ports[0].clone();
    let cases: [(&str, Vec<Port>); 4] = [
        ("the same name", vec![Port { port: 43, ..first() }]),
        (
            "the same name, of another protocol",
            vec![Port {
                protocol: Protocol::Sctp,
                ..first()
            }],
        ),
        (
            "the same number",
            vec![Port {
                name: "other".to_owned(),
                ..first()
            }],
        ),
        (
            "another application protocol",
            vec![Port {
                app_protocol: Some("http".to_owned()),
                ..first()
            }],
        ),
    ];
    for (what, ports) in cases {
        let merged = of_two(|other| other.ports = ports);
        assert_eq!(merged.ports, hello("", 0).ports, "{what}");
        conflict(&merged, "PortConflict");
    }
}

/// "Have no duplicated names (including unnamed/empty name)."
#[test]
fn two_ports_without_a_name_clash() {
    let unnamed = |number| vec![port("", number, Protocol::Tcp)];
    let mut oldest = hello("b", 1);
    oldest.ports = unnamed(80);
    let mut other = hello("a", 2);
    other.ports = unnamed(81);
    let merged = merge(&[other, oldest]).unwrap();
    assert_eq!(merged.ports, unnamed(80));
    conflict(&merged, "PortConflict");
}

#[test]
fn a_clash_takes_away_that_port_alone() {
    let new = port("new", 7, Protocol::Tcp);
    let merged = of_two(|other| other.ports = vec![port("tcp", 43, Protocol::Tcp), new.clone()]);
    assert!(merged.ports.contains(&new) && merged.ports.len() == 3);
    conflict(&merged, "PortConflict");
}

#[test]
fn where_clusters_differ_in_headlessness_the_oldest_decides_and_every_export_is_told() {
    let merged = of_two(|other| other.kind = ImportType::Headless);
    assert_eq!(merged.kind, ImportType::ClusterSetIP);
    conflict(&merged, "TypeConflict");
    let mut oldest = hello("b", 1);
    oldest.kind = ImportType::Headless;
    let merged = merge(&[hello("a", 2), oldest]).unwrap();
    assert_eq!(merged.kind, ImportType::Headless);
    conflict(&merged, "TypeConflict");
}

#[test]
fn labels_and_annotations_that_differ_are_those_of_the_oldest_and_every_export_is_told() {
    let mut oldest = hello("b", 1);
    (oldest.labels, oldest.annotations) = (texts("dummy-label"), texts("dummy-annotation"));
    let mut other = hello("a", 2);
    (other.labels, other.annotations) = (texts("dummy-label2"), texts("dummy-annotation2"));
    let merged = merge(&[other, oldest]).unwrap();
    assert_eq!(
        (&merged.labels, &merged.annotations),
        (&texts("dummy-label"), &texts("dummy-annotation"))
    );
    conflict(&merged, "AnnotationsConflict,LabelsConflict");
}

#[test]
fn session_affinities_that_differ_are_that_of_the_oldest_and_every_export_is_told() {
    let merged = of_two(|other| other.session_affinity = SessionAffinity::None);
    assert_eq!(merged.session_affinity.as_str(), "ClientIP");
    conflict(&merged, "SessionAffinityConflict");
    let longer = SessionAffinity::ClientIp { timeout_seconds: 11 };
    let merged = of_two(|other| other.session_affinity = longer);
    assert_eq!(
        merged.session_affinity,
        SessionAffinity::ClientIp { timeout_seconds: 10 }
    );
    conflict(&merged, "SessionAffinityConfigConflict");
}

/// "Ignored when type is Headless."
#[test]
fn session_affinity_is_nothing_to_differ_in_where_there_is_no_address() {
    let headless = |cluster: &str, created| Export {
        kind: ImportType::Headless,
        ..hello(cluster, created)
    };
    let none = |export: Export| Export {
        session_affinity: SessionAffinity::None,
        ..export
    };
    no_conflict(&merge(&[headless("b", 1), none(headless("a", 2))]).unwrap());
    let merged = merge(&[hello("b", 1), none(headless("a", 2))]).unwrap();
    conflict(&merged, "TypeConflict");
}

#[test]
fn traffic_policies_that_differ_are_that_of_the_oldest_and_every_export_is_told() {
    let merged = of_two(|other| other.internal_traffic_policy = InternalTrafficPolicy::Local);
    assert_eq!(merged.internal_traffic_policy, InternalTrafficPolicy::Cluster);
    conflict(&merged, "InternalTrafficPolicyConflict");
    let merged = of_two(|other| other.traffic_distribution = Some("PreferSameZone".to_owned()));
    assert_eq!(merged.traffic_distribution, None);
    conflict(&merged, "TrafficDistributionConflict");
}

/// "This condition must be used if a conflicting IP family may result in network traffic reaching only a subset of the
/// backends depending on the IP protocol used."
#[test]
fn an_import_has_the_families_that_all_exports_have_and_no_common_one_is_a_conflict() {
    use IpFamily::{V4, V6};
    let families = |all: &[&[IpFamily]]| {
        let exports = ["b", "a", "c"].into_iter().zip(all).enumerate();
        let exports: Vec<Export> = exports
            .map(|(age, (cluster, families))| Export {
                ip_families: families.to_vec(),
                ..hello(cluster, 1 + age as u64)
            })
            .collect();
        merge(&exports).unwrap()
    };
    for (all, common) in [
        (&[&[V4, V6][..], &[V6, V4]][..], vec![V4, V6]),
        (&[&[V4, V6], &[V6]], vec![V6]),
        (&[&[V6], &[V4, V6], &[V6, V4]], vec![V6]),
        (&[&[V4], &[]], vec![V4]),
        (&[&[], &[V6]], vec![V6]),
        (&[&[], &[]], vec![]),
    ] {
        let merged = families(all);
        assert_eq!(merged.ip_families, common, "{all:?}");
        no_conflict(&merged);
    }
    let merged = families(&[&[V4], &[V6], &[V4, V6]]);
    assert_eq!(merged.ip_families, [V4]);
    assert_eq!(merged.conflict.reason, "IPFamilyConflict");
    assert!(merged.conflict.message.ends_with("of a"), "{}", merged.conflict.message);
}

#[test]
fn several_conflicts_are_told_together_in_the_order_of_the_api() {
    let merged = of_two(|other| {
        other.internal_traffic_policy = InternalTrafficPolicy::Local;
        other.kind = ImportType::Headless;
        other.ports[0].port = 1;
        other.labels = texts("x");
    });
    conflict(
        &merged,
        "PortConflict,TypeConflict,LabelsConflict,InternalTrafficPolicyConflict",
    );
    // The pattern of a condition's reason.
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    assert!(merged.conflict.reason.chars().all(valid));
}

#[test]
fn the_oldest_export_wins_whatever_the_order_in_which_exports_are_known() {
    let labelled = |cluster: &str, created| Export {
        labels: texts(cluster),
        ..hello(cluster, created)
    };
    let winner = |exports: &[Export]| merge(exports).unwrap().labels.into_keys().next().unwrap();
    let (a, b, c) = (labelled("a", 3), labelled("b", 1), labelled("c", 2));
    for exports in [[&a, &b, &c], [&c, &b, &a], [&b, &a, &c], [&c, &a, &b]] {
        assert_eq!(winner(&exports.map(Clone::clone)), "b");
    }
    // A tie is broken by the clusters' names.
    assert_eq!(winner(&[labelled("b", 1), labelled("a", 1)]), "a");
    // An age that nobody knows comes last, and then the name decides as well.
    assert_eq!(winner(&[labelled("a", 0), labelled("b", 9)]), "b");
    assert_eq!(winner(&[labelled("b", 0), labelled("a", 0)]), "a");
}

#[test]
fn a_conflict_of_many_clusters_names_a_few() {
    let exports: Vec<Export> = (0..1000)
        .map(|i| Export {
            kind: if i == 0 {
                ImportType::ClusterSetIP
            } else {
                ImportType::Headless
            },
            ports: vec![port("tcp", 1 + i, Protocol::Tcp)],
            ..hello(&format!("cluster-{i:03}"), u64::from(i) + 1)
        })
        .collect();
    let merged = merge(&exports).unwrap();
    assert_eq!(merged.ports.len(), 1);
    assert!(
        merged.conflict.message.contains("and 995 more"),
        "{}",
        merged.conflict.message
    );
    assert!(
        merged.conflict.message.len() < 1000,
        "{}",
        merged.conflict.message.len()
    );
}
