//! Each test runs `weft init` in a network of its own: in this test's program again, as root of a user namespace.

use super::*;

/// Set where the program runs in the network of a test.
const INSIDE: &str = "WEFT_INIT_TEST_ARGS";
const V4: &str = "ip addr add 198.51.100.2/24 dev d0 && ip route add default via 198.51.100.1 && ";
const V6: &str = "ip addr add 2001:db8:1::2/64 dev d0 nodad && ip route add default via 2001:db8:1::1 && ";

/// Not a test by itself: `init` below runs it.
#[test]
fn inside() {
    let Some(flags) = std::env::var_os(INSIDE) else {
        return;
    };
    let flags = flags.into_string().unwrap();
    let flags = ["weft init", "--exempt-mark=22341"]
        .into_iter()
        .chain(flags.split_whitespace());
    match run(&Args::try_parse_from(flags).unwrap()) {
        Ok(()) => {}
        Err(error) => panic!("{error:#}"),
    }
}

/// Whether `weft init` ends well in a pod with these addresses and routes, and what it says.
fn init(addresses: &str, flags: &str) -> (bool, String) {
    let script = format!(
        "ip link set lo up && ip link add d0 type veth peer name d1 && \
         ip link set d0 up && ip link set d1 up && {addresses} \
         exec \"$0\" --exact init::tests::inside --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, flags)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_pod_of_one_ip_version_is_proven_by_it() {
    for (addresses, proven) in [
        (V4, "proven: IPv4; IPv6 is not proven, because it has no route"),
        (V6, "proven: IPv6; IPv4 is not proven, because it has no route"),
        (&[V4, V6].concat(), "proven: IPv4 and IPv6"),
    ] {
        let (well, said) = init(addresses, "");
        assert!(well && said.contains(proven), "{addresses}: {said}");
    }
}

#[test]
fn a_pod_in_which_nothing_can_be_proven_does_not_start() {
    let (well, said) = init("", "");
    assert!(!well && said.contains("no route out"), "{said}");
}

#[test]
fn rules_without_effect_are_found_out() {
    // A chain of somebody else's comes first.
    let before = "iptables -t nat -A OUTPUT -p tcp -j ACCEPT && ";
    let (well, said) = init(&[V4, before].concat(), "");
    assert!(!well && said.contains("was not redirected"), "{said}");
}

#[test]
fn what_the_settings_leave_alone_is_not_called_proven() {
    let (well, said) = init(V4, "--skip-outbound-subnets=192.0.2.0/24");
    assert!(well && said.contains("redirect in place; IPv4 is not proven"), "{said}");
}
