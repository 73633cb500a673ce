use serde_json::json;

use super::super::export::tests::status as of;
use super::*;

/// A peer with which all is well.
pub(in crate::federation) fn peer() -> Value {
    json!({
        "cluster": "west", "trustDomain": "west.weft.internal", "controlPlane": "spiffe://west.weft.internal/ns/weft-system/sa/weft-control",
        "network": "west", "flat": false, "endpoints": ["west.example:15013"], "gateways": ["192.0.2.8:15443"], "imports": 1,
        "said": {"network": "west", "gateways": ["192.0.2.8:15443"], "podNetworks": ["10.245.0.0/16"]},
        "overlaps": [], "bundleSequence": 1,
        "gatewaysTried": [{"gateway": "192.0.2.8:15443", "tried": "2027-01-15T07:59:05Z", "fault": "", "reason": ""}],
        "link": {
            "state": "Connected", "since": "2027-01-15T07:58:20Z", "endpoint": "west.example:15013", "fault": "", "reason": "",
            "heard": "2027-01-15T07:59:10Z",
        },
        "imported": [{"namespace": "shop", "name": "reviews", "endpoints": 2}],
        "refused": [], "refusedTotal": 0,
        "followers": [{
            "build": "0.7.0", "since": "2027-01-15T07:58:20Z", "skewMs": 12, "exported": ["shop/ratings"], "refusals": [],
        }],
    })
}

/// Everything that is found of a status with this peer, changed by this.
fn findings(change: impl FnOnce(&mut Value)) -> Vec<Value> {
    let mut status = of("east");
    status["peers"] = json!([peer()]);
    status["objects"] =
        json!([{"kind": "ClusterPeer", "name": "west", "conditions": [{"type": "Accepted", "status": "True"}]}]);
    change(&mut status);
    let mut report = Report::default();
    check(&status, &mut report);
    report.json()["findings"].as_array().unwrap().clone()
}

/// That one change is found, once, and by these words.
#[track_caller]
fn found(level: &str, words: &[&str], change: impl FnOnce(&mut Value)) {
    let found = findings(change);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["level"], level, "{found:#?}");
    let said = found[0].to_string();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert_ne!(found[0]["where"], "");
}

#[test]
fn where_all_is_well_nothing_is_found() {
    assert_eq!(findings(|_| ()), Vec::<Value>::new());
    // In one network without gateways.
    let flat = |status: &mut Value| {
        let peer = &mut status["peers"][0];
        (peer["flat"], peer["gateways"], peer["said"]["gateways"]) = (json!(true), json!([]), json!([]));
    };
    assert_eq!(findings(flat), Vec::<Value>::new());
}

#[test]
fn a_link_that_is_not_connected_is_found_with_its_reason() {
    found(
        "wrong",
        &["west.example:15013 does not answer", "WEFT_FEDERATION_LISTEN"],
        |status| {
            let link = &mut status["peers"][0]["link"];
            (link["state"], link["fault"]) = (json!("Stale"), json!("port"));
            link["reason"] = json!("west.example:15013 does not answer: Connection refused");
        },
    );
}

#[test]
fn a_peer_that_does_not_follow_is_told_where_to_look() {
    let want = [
        "does not follow",
        "ClusterPeer east",
        "east.example:15013",
        "weft cluster check",
    ];
    found("wrong", &want, |status| status["peers"][0]["followers"] = json!([]));
}

/// The same, with a note that the peer does not follow either.
#[track_caller]
fn found_once(words: &[&str], change: impl FnOnce(&mut Value)) {
    let found = findings(change);
    let is_note = |one: &&Value| one["level"] == "note";
    let (notes, wrong): (Vec<_>, Vec<_>) = found.iter().partition(is_note);
    assert_eq!((notes.len(), wrong.len()), (1, 1), "{found:#?}");
    assert!(
        notes[0].to_string().contains("does not follow this one either"),
        "{found:#?}"
    );
    let said = wrong[0].to_string();
    assert!(
        words.iter().all(|word| said.contains(word)),
        "{words:?} are not in {said}"
    );
}

#[test]
fn a_peer_that_refuses_us_is_found_once() {
    found_once(&["a ClusterPeer named east"], |status| {
        let peer = &mut status["peers"][0];
        peer["followers"] = json!([]);
        peer["link"] =
            json!({"state": "Connecting", "fault": "refused", "reason": "the peer ended the stream: PermissionDenied"});
    });
}

#[test]
fn a_peer_that_we_do_not_know_as_it_is_cannot_follow_and_that_is_one_finding() {
    found_once(&["spec.trustBundle"], |status| {
        let peer = &mut status["peers"][0];
        peer["followers"] = json!([]);
        peer["link"] =
            json!({"state": "Connecting", "fault": "identity", "reason": "invalid peer certificate: UnknownIssuer"});
    });
    found_once(&["what it says of itself", "metadata.name"], |status| {
        let peer = &mut status["peers"][0];
        peer["followers"] = json!([]);
        peer["refused"] = json!([{"object": "cluster cluster", "field": "name", "reason": "is \"west\""}]);
    });
}

#[test]
fn a_clock_that_is_apart_is_found_in_either_direction_and_one_that_is_near_is_not() {
    let skew = |ms: i64| move |status: &mut Value| status["peers"][0]["followers"][0]["skewMs"] = json!(ms);
    found("wrong", &["31 s ahead of", "NTP"], skew(31_000));
    found("wrong", &["90 s behind", "NTP"], skew(-90_500));
    for near in [30_000, -30_000] {
        assert_eq!(findings(skew(near)), Vec::<Value>::new());
    }
}

#[test]
fn another_build_is_worth_knowing_and_one_that_is_too_old_is_wrong() {
    let build =
        |build: &'static str| move |status: &mut Value| status["peers"][0]["followers"][0]["build"] = json!(build);
    found("note", &["0.6.3", "0.7.0"], build("0.6.3"));
    found("wrong", &["0.5.0", "upgrade"], build("0.5.0"));
    found("wrong", &["upgrade"], build("1.7.0"));
    found("wrong", &["upgrade"], build(""));
}

#[test]
fn overlapping_networks_are_found_where_both_are_to_be_one() {
    found("wrong", &["10.244.0.0/16", "WEFT_NETWORK", "gateways"], |status| {
        let peer = &mut status["peers"][0];
        (peer["flat"], peer["overlaps"]) = (json!(true), json!(["10.244.0.0/16"]));
        // Nothing is taken because of that, and not because nothing is there.
        peer["imported"][0]["endpoints"] = json!(0);
    });
}

#[test]
fn a_network_that_the_peer_calls_otherwise_is_found_and_one_that_was_not_heard_of_is_not() {
    found("wrong", &["its network is wire", "spec.network: wire"], |status| {
        status["peers"][0]["said"]["network"] = json!("wire")
    });
    assert_eq!(
        findings(|status| status["peers"][0]["said"] = Value::Null),
        Vec::<Value>::new()
    );
}

#[test]
fn another_network_without_a_gateway_has_no_way_unless_nothing_is_imported() {
    let without = |status: &mut Value| {
        let peer = &mut status["peers"][0];
        (peer["gateways"], peer["said"]["gateways"]) = (json!([]), json!([]));
    };
    found("wrong", &["no gateway", "WEFT_GATEWAYS", "spec.gateways"], without);
    // What the peer says of its gateways is not what is dialled.
    found(
        "wrong",
        &["nothing reaches its pods", "spec.gateways: [192.0.2.8:15443]"],
        |status| {
            status["peers"][0]["gateways"] = json!([]);
        },
    );
    let found = findings(|status| {
        without(status);
        status["peers"][0]["imports"] = json!(0);
    });
    assert!(found.iter().all(|one| one["level"] == "note"), "{found:#?}");
}

#[test]
fn a_gateway_that_does_not_answer_and_one_that_has_no_address_are_found_as_the_control_plane_sees_them() {
    let tried = |fault: &'static str, reason: &'static str| {
        move |status: &mut Value| {
            let tried = &mut status["peers"][0]["gatewaysTried"][0];
            (tried["fault"], tried["reason"]) = (json!(fault), json!(reason));
        }
    };
    let closed = "Connection refused (os error 111)";
    found(
        "wrong",
        &[
            "192.0.2.8:15443 of west cannot be reached from this cluster's control plane",
            closed,
            "2027-01-15T07:59:05Z",
            "15443",
        ],
        tried("port", closed),
    );
    found(
        "wrong",
        &["spec.gateways", "does not resolve", "export-peer"],
        tried("name", "no such host"),
    );
    found("note", &["for the first time"], |status| {
        status["peers"][0]["gatewaysTried"] = json!([])
    });
    // Nobody needs them where pods are dialled directly, and control planes of before do not say.
    for well in [
        json!({"flat": true, "gatewaysTried": []}),
        json!({"gatewaysTried": null}),
    ] {
        let found = findings(|status| {
            let peer = status["peers"][0].as_object_mut().unwrap();
            peer.extend(well.as_object().unwrap().clone());
        });
        assert_eq!(found, Vec::<Value>::new());
    }
}

#[test]
fn what_may_pass_within_seconds_is_waited_for_and_what_does_not_is_told_at_once() {
    let settles = |change: &dyn Fn(&mut Value)| {
        let mut status = of("east");
        status["peers"] = json!([peer()]);
        change(&mut status);
        is_settling(&status)
    };
    assert!(!settles(&|_| ()), "all is well");
    assert!(
        settles(&|status| status["peers"][0]["followers"] = json!([])),
        "it does not follow yet"
    );
    assert!(settles(&|status| status["peers"][0]["gatewaysTried"] = json!([])));
    let broken = |word: &'static str| {
        move |status: &mut Value| {
            let peer = &mut status["peers"][0];
            peer["followers"] = json!([]);
            (peer["link"]["state"], peer["link"]["fault"]) = (json!("Stale"), json!(word));
        }
    };
    for word in ["", "port", "slow", "stream", "ended"] {
        assert!(settles(&broken(word)), "{word:?}: it may be starting anew");
    }
    assert!(settles(&broken("refused")), "the other side may be linked just now");
    for word in ["name", "identity", "tls", "protocol", "version"] {
        assert!(!settles(&broken(word)), "{word:?}: somebody has to do something");
    }
    let unreached = |status: &mut Value| {
        status["federation"]["endpoints"] = json!([]);
        status["peers"][0]["followers"] = json!([]);
    };
    assert!(!settles(&unreached), "nobody can follow");
}

#[test]
fn empty_imports_are_worth_knowing_and_so_is_a_peer_that_exports_nothing() {
    found("note", &["spec.imports is empty"], |status| {
        (status["peers"][0]["imports"], status["peers"][0]["imported"]) = (json!(0), json!([]));
    });
    found(
        "note",
        &["exports nothing that spec.imports takes", "ServiceExports"],
        |status| {
            status["peers"][0]["imported"] = json!([]);
        },
    );
    found("note", &["shop/reviews has no endpoint"], |status| {
        status["peers"][0]["imported"][0]["endpoints"] = json!(0);
    });
}

#[test]
fn what_the_peer_may_not_say_is_found_with_what_mends_it() {
    let refused = |field: &'static str, reason: &'static str| {
        move |status: &mut Value| {
            status["peers"][0]["refused"] = json!([{"object": "Cluster west", "field": field, "reason": reason}]);
        }
    };
    found(
        "wrong",
        &["metadata.name", "export-peer"],
        refused("name", "is \"wst\", and the ClusterPeer is \"west\""),
    );
    found(
        "wrong",
        &["spec.trustDomain"],
        refused("trust_domain", "is a, and the peer's is b"),
    );
    found(
        "wrong",
        &["delete it, wait some seconds, and apply", "backup"],
        refused("bundle.sequence", "is 1, and 2 is held: it never goes back"),
    );
    found(
        "wrong",
        &["one network"],
        refused(
            "endpoints[0].endpoint.ip",
            "is 10.244.0.2, which is one of this cluster's own",
        ),
    );
    found(
        "wrong",
        &["Cluster west is not taken: 10000 Services"],
        refused("", "10000 Services of one peer are taken, and no more"),
    );
}

#[test]
fn what_the_peer_does_not_take_of_ours_is_found() {
    found("wrong", &["does not take Export shop/web", "ports"], |status| {
        let refusal = json!({"object": "Export shop/web", "field": "ports", "reason": "has too many"});
        status["peers"][0]["followers"][0]["refusals"] = json!([refusal]);
    });
}

#[test]
fn who_calls_this_cluster_otherwise_is_told_the_right_name() {
    found(
        "wrong",
        &["what this cluster says of itself", "in west", "is to be named east"],
        |status| {
            let refusal =
                json!({"object": CLUSTER, "field": "name", "reason": "is \"east\", and the ClusterPeer is \"ost\""});
            status["peers"][0]["followers"][0]["refusals"] = json!([refusal]);
        },
    );
}

#[test]
fn a_link_by_an_earlier_form_of_its_document_is_mended_by_mending_that() {
    let found = findings(|status| {
        let refused = json!({"type": "Accepted", "status": "False", "field": "spec.trustBundle.sequence", "message": "goes back"});
        status["objects"][0]["conditions"][0] = refused;
        let link = &mut status["peers"][0]["link"];
        (link["state"], link["fault"]) = (json!("Stale"), json!("identity"));
    });
    let fixes: Vec<_> = found.iter().map(|one| one["fix"].as_str().unwrap()).collect();
    assert!(
        fixes[1].starts_with("first what is wrong with the ClusterPeer west itself"),
        "{found:#?}"
    );
}

#[test]
fn a_link_is_young_for_some_seconds_until_it_is_connected_and_its_gateways_answer() {
    let since = SystemTime::from(OffsetDateTime::parse("2027-01-15T07:58:20Z", &Rfc3339).unwrap());
    let mut status = json!({"peers": [peer()]});
    let young = |status: &Value, age| is_beginning(status, since + Duration::from_secs(age), Duration::from_secs(8));
    assert!(!young(&status, 1), "it is connected");
    for fault in ["port", "name"] {
        status["peers"][0]["gatewaysTried"][0]["fault"] = json!(fault);
        assert!(
            young(&status, 1) && !young(&status, 9),
            "{fault}: its gateways may be about to begin"
        );
    }
    status["peers"][0]["gatewaysTried"][0]["fault"] = json!("");
    status["peers"][0]["link"]["state"] = json!("Connecting");
    assert!(young(&status, 1) && !young(&status, 9));
    status["peers"][0]["link"]["since"] = Value::Null;
    assert!(young(&status, 9), "nobody has called yet");
    status["peers"][0]["link"]["fault"] = json!("identity");
    assert!(!young(&status, 1), "somebody has to do something");
    assert!(!is_alone(&status) && is_alone(&json!({"peers": [], "objects": []})));
}

#[test]
fn a_cluster_peer_that_does_not_act_is_found_with_the_fix_that_is_known() {
    let refuse = |status: &mut Value| {
        status["peers"] = json!([]);
        let message = "the peer west has the trust domain of this cluster, east: east.weft.internal";
        status["objects"][0]["conditions"][0] =
            json!({"type": "Accepted", "status": "False", "field": "spec.trustDomain", "message": message});
        status["problems"] =
            json!([{"object": "ClusterPeer west", "field": "spec.trustDomain", "fix": "give one of the two another"}]);
    };
    found(
        "wrong",
        &[
            "ClusterPeer west",
            "spec.trustDomain: the peer west has",
            "give one of the two another",
        ],
        refuse,
    );
    found("wrong", &["weft cluster check -f"], |status| {
        refuse(status);
        status["problems"] = json!([]);
    });
}

#[test]
fn a_cluster_that_nobody_can_reach_or_that_has_no_peer_is_told_so() {
    found("note", &["WEFT_FEDERATION_ENDPOINTS"], |status| {
        status["federation"]["endpoints"] = json!([])
    });
    found("note", &["no ClusterPeer", "export-peer"], |status| {
        (status["peers"], status["objects"]) = (json!([]), json!([]));
    });
}

#[test]
fn what_is_wrong_with_a_bundle_endpoint_is_named_with_what_mends_it() {
    let asked = |fault: &'static str, reason: &'static str| {
        move |status: &mut Value| {
            status["peers"][0]["bundleEndpoint"] = json!({
                "url": "https://west.example:15016/", "fetched": null, "fault": fault, "reason": reason,
            });
        }
    };
    for (fault, reason, fix) in [
        ("name", "the name west.example:15016 does not resolve", "resolves"),
        ("port", "west.example:15016 does not answer", "WEFT_BUNDLE_LISTEN"),
        (
            "identity",
            "who answers is not the peer's control plane",
            "spec.trustBundle",
        ),
        ("tls", "the TLS handshake failed", "ends TLS"),
        ("protocol", "does not speak HTTP/1.1", "WEFT_BUNDLE_LISTEN"),
        ("slow", "does not answer in time", "load"),
        ("redirect", "leads on to https://elsewhere/", "write where it leads"),
        ("status", "answers 404 Not Found", "export-peer"),
        ("format", "is no trust bundle", "JWK set"),
        (
            "sequence",
            "bundle.sequence is 3, and 4 is held: it never goes back",
            "delete it, wait some seconds, and apply",
        ),
    ] {
        found("wrong", &[reason, fix], asked(fault, reason));
    }
    found("note", &["for the first time"], asked("", ""));
    let well = |status: &mut Value| {
        asked("", "")(status);
        status["peers"][0]["bundleEndpoint"]["fetched"] = json!("2027-01-15T07:59:10Z");
    };
    assert_eq!(findings(well), Vec::<Value>::new());
}
