//! What a control plane has heard of other clusters, for whoever explains from objects alone: the objects say who the peers are,
//! and only a control plane knows what they export. As JSON, in which resources are as they travel between clusters.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use weft_proto::discovery;
use weft_proto::resource::name::exported;
use weft_proto::resource::{self, Kind};

use crate::index::Index;

/// What is known of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Its cluster.
    pub cluster: String,
    /// What it has said of itself and of some namespaces: protobuf, in base64.
    resources: Vec<String>,
    /// Where its gateways are.
    gateways: Vec<SocketAddr>,
    /// Whether it is connected, and has said all that it exports. Of several replicas one of which this is true knows best.
    #[serde(default)]
    whole: bool,
}

/// What is known of the peers, as far as it is of these namespaces. `is_whole`: of a peer, whether that is all that it exports now.
pub(crate) fn told(index: &Index, namespaces: &BTreeSet<String>, is_whole: impl Fn(&str) -> bool) -> Vec<Heard> {
    let wanted = |name: &resource::Name| {
        name.kind == Kind::Cluster || exported(&name.key).is_some_and(|(namespace, ..)| namespaces.contains(namespace))
    };
    let of = |cluster: &str| {
        let said = index.said_of(cluster, wanted).into_iter();
        let gateways = index.gateways_of(cluster);
        Heard {
            cluster: cluster.to_owned(),
            resources: said.map(|wire| BASE64_STANDARD.encode(wire.encode_to_vec())).collect(),
            gateways: gateways.map(|all| all.to_vec()).unwrap_or_default(),
            whole: is_whole(cluster),
        }
    };
    index.remotes().map(|(_, peer, _)| of(&peer.cluster)).collect()
}

/// Takes in what a control plane knows of the peers, beside the objects from which it knows them. It is judged as there; what
/// cannot be read, of a newer control plane, is left out.
pub fn hear(index: &mut Index, heard: &[Heard]) {
    for Heard {
        cluster,
        resources,
        gateways,
        ..
    } in heard
    {
        let read = |text: &String| {
            let bytes = BASE64_STANDARD.decode(text).ok()?;
            let wire = discovery::Resource::decode(&bytes[..]).ok()?;
            resource::from_wire(wire).ok()
        };
        index.hear(cluster, resources.iter().filter_map(read).collect());
        index.set_gateways(cluster, gateways);
    }
}
