//! The ClusterPeer by which another cluster knows this one: what its control plane says of itself, and nothing secret.

use std::path::Path;

use serde_json::{Value, json};

use super::document;
use crate::status::text::{list, word};
use crate::yaml;

/// The object. `endpoints`: where others reach this cluster, if the control plane does not know; `imports`: namespaces of
/// which they take what it exports.
///
/// # Errors
/// What is missing, or makes no ClusterPeer, with its fix.
pub(super) fn peer(status: &Value, endpoints: &[String], imports: &[String]) -> Result<Value, String> {
    let of = &status["federation"];
    let cluster = word(&of["cluster"]);
    let endpoints = match endpoints {
        [] => of["endpoints"].clone(),
        given => json!(given),
    };
    if list(&endpoints).is_empty() {
        return Err(unreached(status, &cluster));
    }
    let imports = match imports {
        [] => json!([]),
        namespaces => json!([{"namespaces": namespaces}]),
    };
    let mut peer = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": cluster},
        "spec": {
            "trustDomain": of["trustDomain"], "controlPlane": of["controlPlane"],
            "trustBundle": {"sequence": of["bundleSequence"], "roots": of["roots"]},
            "endpoints": endpoints, "network": of["network"], "gateways": of["gateways"], "imports": imports,
        },
    });
    if of["bundleEndpoint"].is_string() {
        peer["spec"]["bundleEndpoint"] = of["bundleEndpoint"].clone();
    }
    // Whoever gets it reads it with the same words.
    let read = document::peers(Path::new("-"), &text(&peer));
    match read.wrong.first() {
        None => Ok(peer),
        Some(wrong) => Err(format!(
            "what the cluster {cluster} says of itself makes no ClusterPeer: {}: {} (fix: {})",
            wrong.at, wrong.what, wrong.fix
        )),
    }
}

/// That nobody is told where others reach the control plane, and what would tell them.
fn unreached(status: &Value, cluster: &str) -> String {
    let no_endpoint = format!("the cluster {cluster} says no endpoint at which others reach its control plane");
    // A mesh on this machine has manifests, and its control plane no settings that people could set.
    if status["sources"].is_object() {
        return format!(
            "{no_endpoint}: only clusters of `weft up --cluster NAME -f PATH --cluster NAME -f PATH` are reached by others"
        );
    }
    match status["unreached"]["endpoints"].as_str() {
        Some(why) => format!(
            "{no_endpoint}: {why} (fix: `weft install` with federation.enabled=true, and federation.service.type=LoadBalancer or NodePort, \
             or federation.endpoints; or give it here, with --endpoint HOST:PORT)"
        ),
        None => format!(
            "{no_endpoint} (fix: WEFT_FEDERATION_LISTEN is where it listens, usually [::]:15013, and WEFT_FEDERATION_ENDPOINTS how others \
             reach that, host:port; or give the latter here, with --endpoint HOST:PORT)"
        ),
    }
}

/// The object as a document, with what the other side still decides.
pub(super) fn text(peer: &Value) -> String {
    let (name, spec) = (word(&peer["metadata"]["name"]), &peer["spec"]);
    let imports = match list(&spec["imports"]) {
        [] => "nothing yet",
        _ => "what is written here, if that is right",
    };
    let gateways = match list(&spec["gateways"]) {
        [] => "it has no gateways, so it is of use only to clusters whose control planes have the same WEFT_NETWORK",
        _ => {
            "clusters whose control planes have the same WEFT_NETWORK dial its pods, all others go through its gateways"
        }
    };
    format!(
        "# The cluster {name}, as another one knows it: for `kubectl apply -f -` there, or for its directory of manifests.\n\
         # Nothing in it is secret. It is for the other side to decide:\n\
         #   imports  what is taken from {name}: {imports}. All of a namespace: - {{namespaces: [shop]}}; of all: - {{namespaces: [\"*\"]}}\n\
         #   exports  what {name} is told of and may reach. Left out: each Service with a ServiceExport; []: nothing\n\
         #   network  {gateways}\n\
         {}",
        yaml::text(peer)
    )
}

#[cfg(test)]
pub(super) mod tests {
    use weft_control::objects::peer::Peer;

    use super::*;

    /// Roots of a trust domain, as a control plane has them.
    pub(in crate::federation) fn roots(domain: &str) -> (String, rcgen::Issuer<'static, rcgen::KeyPair>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, domain);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem().replace('\r', "");
        (pem, rcgen::Issuer::new(params, key))
    }

    /// What the control plane of a cluster of this name says.
    pub(in crate::federation) fn status(cluster: &str) -> Value {
        let domain = format!("{cluster}.weft.internal");
        let control = format!("spiffe://{domain}/ns/weft-system/sa/weft-control");
        json!({
            "control": {"answers": true, "build": "0.7.0"},
            "federation": {
                "cluster": cluster, "trustDomain": domain, "controlPlane": control, "network": cluster,
                "endpoints": [format!("{cluster}.example:15013")], "gateways": ["192.0.2.7:15443"], "bundleSequence": 3,
                "roots": roots(&domain).0,
            },
            "peers": [], "objects": [], "problems": [],
        })
    }

    fn read(text: &str) -> Peer {
        let mut read = document::peers(Path::new("-"), text);
        assert!(read.wrong.is_empty(), "{:?}", read.wrong);
        assert_eq!(read.peers.len(), 1);
        read.peers.remove(0)
    }

    #[test]
    fn what_is_printed_is_a_peer_that_says_all_that_the_cluster_says_of_itself() {
        let status = status("east");
        let object = peer(&status, &[], &[]).unwrap();
        let printed = text(&object);
        let peer = read(&printed);
        assert_eq!(peer, read(&format!("{object:#}")), "JSON says the same");
        let said = &status["federation"];
        assert_eq!(peer.cluster, "east");
        assert_eq!(peer.trust_domain.to_string(), "east.weft.internal");
        assert_eq!(json!(peer.control_plane.to_string()), said["controlPlane"]);
        assert_eq!(json!(peer.bundle.to_pem()), said["roots"]);
        assert_eq!(peer.bundle.sequence(), 3);
        assert_eq!((peer.network.as_str(), peer.gateways.len()), ("east", 1));
        assert_eq!(peer.endpoints[0].to_string(), "east.example:15013");
        assert!(peer.imports.is_empty() && peer.exports.is_none());
        for decided in ["imports", "exports", "network"] {
            assert!(printed.contains(&format!("#   {decided}  ")), "{printed}");
        }
    }

    #[test]
    fn the_bundle_endpoint_is_printed_where_there_is_one() {
        let mut status = status("east");
        let without = peer(&status, &[], &[]).unwrap();
        assert!(without["spec"].get("bundleEndpoint").is_none());
        status["federation"]["bundleEndpoint"] = json!("https://east.example:15016");
        let with = read(&text(&peer(&status, &[], &[]).unwrap()));
        assert_eq!(with.bundle_endpoint.unwrap(), "https://east.example:15016/");
    }

    #[test]
    fn endpoints_and_imports_are_those_that_are_given() {
        let given = ["[2001:db8::7]:15013".to_owned(), "b.example:1".to_owned()];
        let object = peer(&status("east"), &given, &["shop".to_owned(), "street".to_owned()]).unwrap();
        let peer = read(&text(&object));
        assert_eq!(
            peer.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            given
        );
        assert!(peer.is_imported("shop", &std::collections::BTreeMap::new()));
        assert!(!peer.is_imported("other", &std::collections::BTreeMap::new()));
    }

    #[test]
    fn without_an_endpoint_the_settings_that_give_one_are_named() {
        let mut status = status("east");
        status["federation"]["endpoints"] = json!([]);
        let said = peer(&status, &[], &[]).unwrap_err();
        for named in [
            "east",
            "WEFT_FEDERATION_ENDPOINTS",
            "WEFT_FEDERATION_LISTEN",
            "--endpoint",
        ] {
            assert!(said.contains(named), "{named}: {said}");
        }
        assert!(peer(&status, &["a:1".to_owned()], &[]).is_ok());
        // Nobody can set these of a mesh on this machine that is alone.
        let mut alone = status.clone();
        alone["sources"] = json!({"places": []});
        let said = peer(&alone, &[], &[]).unwrap_err();
        assert!(said.contains("weft up --cluster") && !said.contains("LISTEN"), "{said}");
        status["unreached"] = json!({"endpoints": "Service weft-system/weft-federation is not there"});
        let said = peer(&status, &[], &[]).unwrap_err();
        assert!(
            said.contains("weft-federation is not there") && said.contains("federation.enabled=true"),
            "{said}"
        );
    }

    #[test]
    fn what_would_be_refused_on_the_other_side_is_not_printed() {
        let mut status = status("east");
        status["federation"]["endpoints"] = json!(["weft.east.example"]);
        let said = peer(&status, &[], &[]).unwrap_err();
        assert!(said.contains("spec.endpoints[0]") && said.contains("fix: "), "{said}");
        let mut secret = super::tests::status("east");
        secret["federation"]["roots"] = json!("-----BEGIN PRIVATE KEY-----\n");
        assert!(peer(&secret, &[], &[]).unwrap_err().contains("private key"));
    }
}
