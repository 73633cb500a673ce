//! Table. Certificates that are not the peer's control plane's, and calls that a control plane does not make.

use std::net::SocketAddr;

use weft_proto::discovery::{self, Hello, from_proxy::Message};
use weft_tests::foreign::caller::Followed;
use weft_tests::foreign::root::{Leaf, Root, Shown};

use super::World;

/// Connections over which Hellos are begun and not ended. For one in a hundred there is room.
const CROWD: usize = 20;

/// What the peer's server shows: each breaks the link, with these words.
fn shown(world: &World<'_>) -> Vec<(&'static str, Shown, &'static str)> {
    let (root, control) = (&world.foreign.root, world.foreign.root.control());
    let domain = &root.trust_domain;
    let of = |name: &str| root.leaf(&Leaf::of(&[name]));
    let own = format!(
        "spiffe://{}.weft.internal/ns/weft-system/sa/weft-control",
        world.clusters.name("a")
    );
    let honest = format!(
        "spiffe://{}.weft.internal/ns/weft-system/sa/weft-control",
        world.clusters.name("b")
    );
    let another = Root::new(domain);
    vec![
        (
            "of another root",
            another.leaf(&Leaf::of(&[&control])),
            "InvalidSignature",
        ),
        ("of no root", Shown::by_itself(&Leaf::of(&[&control])), "UnknownIssuer"),
        ("our own control plane", of(&own), "UnknownIssuer"),
        ("the honest peer's control plane", of(&honest), "UnknownIssuer"),
        (
            "a workload",
            of(&format!("spiffe://{domain}/ns/shop/sa/reviews")),
            "expected",
        ),
        ("two names", root.leaf(&Leaf::of(&[&control, &own])), "identity"),
        ("no name", root.leaf(&Leaf::of(&[])), "identity"),
        ("ended", root.leaf(&Leaf::of(&[&control]).valid_from(-48)), "expired"),
        (
            "not valid yet",
            root.leaf(&Leaf::of(&[&control]).valid_from(48)),
            "not valid yet",
        ),
    ]
}

/// Shows and says all of it.
pub(super) fn all(world: &mut World<'_>) {
    let good = world.foreign.root.leaf(&Leaf::of(&[&world.foreign.root.control()]));
    for (what, shown, words) in shown(world) {
        world.foreign.show(shown.server());
        // The stream that there is ends, and the next one finds another certificate.
        world.session.end();
        world.is_broken_by(what, words);
        world.took_nothing(what);
        world.foreign.show(good.server());
        world.session = world.foreign.session();
        world.shapes += 1;
    }
    calls(world, &good);
}

/// It follows a as others would, and as nobody would.
fn calls(world: &mut World<'_>, good: &Shown) {
    let to: SocketAddr = format!("{}:15013", world.clusters.nodes("a")[0])
        .parse()
        .expect("an address");
    let root = &world.foreign.root;
    let workload = root.leaf(&Leaf::of(&[&format!(
        "spiffe://{}/ns/shop/sa/reviews",
        root.trust_domain
    )]));
    let own = format!(
        "spiffe://{}.weft.internal/ns/weft-system/sa/weft-control",
        world.clusters.name("a")
    );
    let forged = root.leaf(&Leaf::of(&[&own]));
    let hello = |cluster: &str| {
        let peer = discovery::Peer {
            cluster: cluster.to_owned(),
            ..discovery::Peer::default()
        };
        Message::Hello(Hello {
            peer: Some(peer),
            ..Hello::default()
        })
    };
    let name = world.foreign.name.as_str();
    let honest = world.clusters.name("b");
    let greedy = Message::Hello(Hello {
        peer: Some(discovery::Peer {
            cluster: name.to_owned(),
            imports: vec![discovery::Selection::default(); 65],
            ..discovery::Peer::default()
        }),
        ..Hello::default()
    });
    let subscribe = Message::Subscribe(discovery::Subscribe::default());
    let ack = Message::Ack(discovery::Ack {
        nonce: 99,
        refusals: Vec::new(),
    });
    let table: [(&str, Option<&Shown>, Vec<Message>); 10] = [
        ("nobody", None, vec![hello(name)]),
        ("a workload of its own", Some(&workload), vec![hello(name)]),
        ("our own control plane", Some(&forged), vec![hello(name)]),
        ("the honest peer, by name", Some(good), vec![hello(honest)]),
        ("a pod", Some(good), vec![Message::Hello(Hello::default())]),
        ("one who imports without end", Some(good), vec![greedy]),
        ("one who begins in the middle", Some(good), vec![subscribe.clone()]),
        ("one who asks", Some(good), vec![hello(name), subscribe]),
        ("one who begins twice", Some(good), vec![hello(name), hello(honest)]),
        (
            "one who has heard what was not said",
            Some(good),
            vec![hello(name), ack],
        ),
    ];
    for (who, shows, says) in table {
        let followed = world.foreign.follow(to, shows, &says, false);
        assert!(!matches!(followed, Followed::Told(_)), "{who}: {followed:?}");
        world.shapes += 1;
    }
    // All together they would say more than a gibibyte.
    let crowd = world.foreign.crowd(to, good, CROWD, 10 * CROWD);
    let has_no_room = |told: &&String| told.contains("more than there is room for");
    assert!(
        crowd.told.iter().filter(has_no_room).count() > CROWD,
        "{:?}",
        crowd.told
    );
    world.shapes += 1;
    // Otherwise it would have been told, as a peer that exports nothing may be; who says little, also beside the crowd.
    let followed = world.foreign.follow(to, Some(good), &[hello(name)], false);
    assert!(matches!(followed, Followed::Told(_)), "{followed:?}");
    drop(crowd);
}
