//! One query in, one answer out. Pure.

use std::collections::BTreeSet;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::zone::{Found, Records, Zone, domain_of};
use super::{DOMAIN, TTL_SECONDS};

/// What a client takes over UDP without saying otherwise (RFC 1035, section 2.3.4), and the most that we send there: what
/// is longer goes by TCP rather than in fragments.
const UDP_MIN: u16 = 512;
const UDP_MAX: u16 = 1232;
/// Names that stand for names, in a row.
const MOST_ALIASES: usize = 8;
/// All hosts of a port are equal.
const SRV_WEIGHT: u16 = 100;

/// How the query came, which bounds the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// At most what the client takes; the rest is asked for again over TCP.
    Udp,
    /// Up to 65,535 bytes.
    Tcp,
}

/// The answer to a query as it came from the wire. None for what deserves none: garbage, and answers. `turn`: any number, a
/// different one for each query. Addresses of a name begin at that one, since most clients take the first: so does CoreDNS
/// (<https://coredns.io/plugins/loadbalance/>).
pub fn answer(zone: &Zone, query: &[u8], transport: Transport, turn: usize) -> Option<Vec<u8>> {
    let query = match Message::from_vec(query) {
        Ok(query) => query,
        // Too short for an id, or an answer by its flag: anybody might have sent it.
        Err(_) if query.len() < 12 || query[2] & 0x80 != 0 => return None,
        Err(_) => {
            let id = u16::from_be_bytes([query[0], query[1]]);
            return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
                .to_vec()
                .ok();
        }
    };
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let reply = reply(zone, &query, turn);
    let bytes = reply.to_vec().ok()?;
    let limit = match transport {
        Transport::Udp => usize::from(query.max_payload().clamp(UDP_MIN, UDP_MAX)),
        Transport::Tcp => usize::from(u16::MAX),
    };
    if bytes.len() <= limit {
        return Some(bytes);
    }
    let mut cut = reply;
    cut.metadata.truncation = true;
    cut.answers.clear();
    cut.authorities.clear();
    cut.additionals.clear();
    cut.to_vec().ok()
}

fn reply(zone: &Zone, query: &Message, turn: usize) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    // Clients of the C library take an answer without it for a broken server, although nothing is recursed for.
    reply.metadata.recursion_available = true;
    reply.queries = query.queries.clone();
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        reply.edns = Some(edns);
    }
    if query.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return reply;
    }
    let [question] = &query.queries[..] else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return reply;
    };
    if question.query_class() != DNSClass::IN {
        reply.metadata.response_code = ResponseCode::Refused;
        return reply;
    }
    look_up(zone, question, turn, &mut reply);
    reply
}

/// Fills in the records. A name without the kind of record that was asked for gets none and the SOA ("no data", RFC 2308,
/// section 2.2), which is not the same as a name that does not exist.
fn look_up(zone: &Zone, question: &Query, turn: usize, reply: &mut Message) {
    let mut name = question.name().clone();
    let mut found = zone.find(&name.to_ascii());
    reply.metadata.authoritative = found != Found::Outside;
    // A name that stands for another one: the answer says so, and goes on with the other (RFC 1034, section 3.6.2). One
    // outside the mesh is the client's to ask for, and nobody here answers.
    for _ in 0..MOST_ALIASES {
        let Found::Records(Records {
            cname: Some(target), ..
        }) = found
        else {
            break;
        };
        let Ok(target) = absolute(target) else { break };
        let alias = Record::from_rdata(name, TTL_SECONDS, RData::CNAME(CNAME(target.clone())));
        reply.answers.push(alias);
        if question.query_type() == RecordType::CNAME {
            return;
        }
        found = zone.find(&target.to_ascii());
        name = target;
    }
    let before = reply.answers.len();
    match (&found, question.query_type()) {
        (Found::Records(records), kind) => records_of(records, kind, &name, turn, reply),
        (Found::Address(names), RecordType::PTR | RecordType::ANY) => {
            let names = names.iter().filter_map(|name| absolute(name).ok());
            let pointer = |target| Record::from_rdata(name.clone(), TTL_SECONDS, RData::PTR(PTR(target)));
            reply.answers.extend(names.map(pointer));
        }
        (Found::Apex, RecordType::SOA) => reply.answers.extend(soa(&name)),
        (Found::Address(_) | Found::Empty | Found::Apex, _) => {}
        (Found::Nothing | Found::Outside, _) if before > 0 => {}
        (Found::Nothing | Found::Outside, _) => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    if let Found::Records(records) = &found
        && question.query_type() == RecordType::SRV
    {
        reply.additionals.extend(addresses_of(zone, records, turn));
    }
    if reply.answers.len() == before && found != Found::Outside {
        reply.authorities.extend(soa(&name));
    }
}

fn records_of(records: &Records, kind: RecordType, name: &Name, turn: usize, reply: &mut Message) {
    let record = |data: RData| Record::from_rdata(name.clone(), TTL_SECONDS, data);
    if matches!(kind, RecordType::A | RecordType::ANY) {
        reply
            .answers
            .extend(turned(&records.v4, turn).map(|ip| record(RData::A(A(*ip)))));
    }
    if matches!(kind, RecordType::AAAA | RecordType::ANY) {
        reply
            .answers
            .extend(turned(&records.v6, turn).map(|ip| record(RData::AAAA(AAAA(*ip)))));
    }
    if kind == RecordType::SRV {
        let served = records
            .srv
            .iter()
            .filter_map(|srv| Some((srv.port, absolute(&srv.target).ok()?)));
        let service = |(port, target)| record(RData::SRV(SRV::new(0, SRV_WEIGHT, port, target)));
        reply.answers.extend(served.map(service));
    }
}

/// All of them in their order, but beginning elsewhere.
fn turned<T>(all: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let at = turn.checked_rem(all.len()).unwrap_or(0);
    all[at..].iter().chain(&all[..at])
}

/// The addresses of the hosts that SRV records name, so that nobody has to ask again.
fn addresses_of(zone: &Zone, records: &Records, turn: usize) -> Vec<Record> {
    let mut out = Message::query();
    let mut seen = BTreeSet::new();
    for srv in records.srv.iter().filter(|srv| seen.insert(srv.target.as_str())) {
        if let (Found::Records(host), Ok(name)) = (zone.find(&srv.target), absolute(&srv.target)) {
            records_of(host, RecordType::ANY, &name, turn, &mut out);
        }
    }
    std::mem::take(&mut out.answers)
}

fn absolute(name: &str) -> Result<Name, hickory_proto::ProtoError> {
    Name::from_ascii(format!("{name}."))
}

/// The SOA record of a name's domain; its last number bounds how long "no" may be kept (RFC 2308, section 5). The names of
/// addresses lie in none of ours.
fn soa(name: &Name) -> Option<Record> {
    let name = name.to_ascii().to_ascii_lowercase();
    let domain = domain_of(name.trim_end_matches('.')).unwrap_or(DOMAIN);
    let apex = Name::from_ascii(format!("{domain}.")).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{DOMAIN}.")).ok()?;
    let mailbox = Name::from_ascii(format!("hostmaster.{DOMAIN}.")).ok()?;
    let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL_SECONDS);
    Some(Record::from_rdata(apex, TTL_SECONDS, RData::SOA(soa)))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    use super::super::zone::{Named, NamedPod};

    fn zone() -> Zone {
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let many = (0..300u32)
            .map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 + n)))
            .collect();
        let service = |name, addresses| Named {
            namespace: "shop",
            name,
            addresses,
            ..Named::default()
        };
        let pod = |hostname, ips: &[&str], port| NamedPod {
            hostname,
            ips: ips.iter().map(|text| ip(text)).collect(),
            ports: vec![port],
            ..NamedPod::default()
        };
        let of = |cluster, pod| NamedPod { cluster, ..pod };
        Zone::new([
            Named {
                ports: vec![("http", "tcp", 80), ("", "udp", 53)],
                ..service("reviews", vec![ip("10.96.1.2"), ip("fd00:10:96::2")])
            },
            service("single", vec![ip("10.96.1.3")]),
            service("headless", vec![]),
            service("many", many),
            Named {
                ports: vec![("redis", "tcp", 6379)],
                pods: vec![
                    pod(Some("db-0"), &["10.244.0.5", "fd00::5"], Some(6379)),
                    pod(None, &["10.244.0.6"], Some(6380)),
                    pod(Some("db-2"), &["10.244.0.7"], None),
                ],
                ..service("db", vec![])
            },
            Named {
                external: Some("API.Example.com"),
                ..service("outside", vec![])
            },
            Named {
                external: Some("single.shop.svc.cluster.local"),
                ..service("alias", vec![])
            },
            Named {
                external: Some("circle.shop.svc.cluster.local"),
                ..service("circle", vec![])
            },
            Named {
                shared: true,
                ports: vec![("http", "tcp", 80)],
                ..service("reviews", vec![ip("10.96.9.9"), ip("fd00:10:96::9")])
            },
            Named {
                shared: true,
                ports: vec![("redis", "tcp", 6379)],
                pods: vec![
                    of("east", pod(Some("db-0"), &["10.244.0.5"], Some(6379))),
                    of("west", pod(Some("db-0"), &["10.245.0.5"], Some(6379))),
                    of("west", pod(None, &["10.245.0.6"], Some(6380))),
                ],
                ..service("db", vec![])
            },
        ])
    }

    fn ask_with(name: &str, kind: RecordType, transport: Transport) -> Message {
        ask_in_turn(name, kind, transport, 0)
    }

    fn ask_in_turn(name: &str, kind: RecordType, transport: Transport, turn: usize) -> Message {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = answer(&zone(), &query.to_vec().unwrap(), transport, turn).expect("an answer");
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        answer
    }

    #[track_caller]
    fn check(name: &str, kind: RecordType, code: ResponseCode, want: &[&str]) {
        let answer = ask_with(name, kind, Transport::Udp);
        let got: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(
            (answer.metadata.response_code, got),
            (code, want.iter().map(|w| (*w).to_owned()).collect()),
            "{name}"
        );
    }

    #[test]
    fn services_answer_with_their_addresses_in_any_case() {
        check(
            "reviews.shop.svc.cluster.local.",
            RecordType::A,
            ResponseCode::NoError,
            &["10.96.1.2"],
        );
        check(
            "ReViews.SHOP.svc.Cluster.Local.",
            RecordType::AAAA,
            ResponseCode::NoError,
            &["fd00:10:96::2"],
        );
        check(
            "reviews.shop.svc.cluster.local.",
            RecordType::ANY,
            ResponseCode::NoError,
            &["10.96.1.2", "fd00:10:96::2"],
        );
    }

    #[test]
    fn a_name_without_such_a_record_exists_and_one_that_is_not_there_does_not() {
        for name in [
            "single.shop.svc.cluster.local.",
            "headless.shop.svc.cluster.local.",
            "shop.svc.cluster.local.",
        ] {
            check(name, RecordType::AAAA, ResponseCode::NoError, &[]);
        }
        for name in [
            "nobody.shop.svc.cluster.local.",
            "reviews.other.svc.cluster.local.",
            "x.reviews.shop.svc.cluster.local.",
        ] {
            check(name, RecordType::A, ResponseCode::NXDomain, &[]);
            let answer = ask_with(name, RecordType::A, Transport::Udp);
            assert_eq!(answer.authorities.len(), 1, "the SOA bounds how long a no is kept");
        }
    }

    #[test]
    fn a_headless_service_leads_to_each_of_its_pods_by_name_too() {
        let of = |name: &str| format!("{name}.shop.svc.cluster.local.");
        let ok = ResponseCode::NoError;
        check(
            &of("db"),
            RecordType::A,
            ok,
            &["10.244.0.5", "10.244.0.6", "10.244.0.7"],
        );
        check(&of("db"), RecordType::AAAA, ok, &["fd00::5"]);
        check(&of("db-0.db"), RecordType::A, ok, &["10.244.0.5"]);
        check(&of("db-0.db"), RecordType::AAAA, ok, &["fd00::5"]);
        check(&of("10-244-0-6.db"), RecordType::A, ok, &["10.244.0.6"]);
        check(&of("db-1.db"), RecordType::A, ResponseCode::NXDomain, &[]);
        check(&of("db-0.reviews"), RecordType::A, ResponseCode::NXDomain, &[]);
    }

    #[test]
    fn what_clusters_share_has_the_same_names_in_a_domain_of_its_own() {
        let of = |name: &str| format!("{name}.shop.svc.clusterset.local.");
        let ok = ResponseCode::NoError;
        check(&of("reviews"), RecordType::A, ok, &["10.96.9.9"]);
        check(&of("reviews"), RecordType::AAAA, ok, &["fd00:10:96::9"]);
        let served = ["0 100 80 reviews.shop.svc.clusterset.local."];
        check(&of("_http._tcp.reviews"), RecordType::SRV, ok, &served);
        // Not there: what one cluster has alone, and what nobody has.
        for name in [of("single"), of("nobody"), "x.clusterset.local.".to_owned()] {
            check(&name, RecordType::A, ResponseCode::NXDomain, &[]);
            let no = ask_with(&name, RecordType::A, Transport::Udp);
            assert_eq!(no.authorities[0].name.to_ascii(), "clusterset.local.");
        }
        for name in [
            "shop.svc.clusterset.local.",
            "svc.clusterset.local.",
            "clusterset.local.",
        ] {
            check(name, RecordType::A, ok, &[]);
        }
        check("9.9.96.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, &[]);
    }

    #[test]
    fn a_headless_service_that_clusters_share_leads_to_the_pods_of_all_and_to_each_by_its_cluster() {
        let of = |name: &str| format!("{name}.shop.svc.clusterset.local.");
        let ok = ResponseCode::NoError;
        check(
            &of("db"),
            RecordType::A,
            ok,
            &["10.244.0.5", "10.245.0.5", "10.245.0.6"],
        );
        check(&of("db-0.east.db"), RecordType::A, ok, &["10.244.0.5"]);
        check(&of("db-0.west.db"), RecordType::A, ok, &["10.245.0.5"]);
        check(&of("10-245-0-6.west.db"), RecordType::A, ok, &["10.245.0.6"]);
        check(&of("west.db"), RecordType::A, ok, &[]);
        check(&of("db-0.db"), RecordType::A, ResponseCode::NXDomain, &[]);
        check(
            &of("_redis._tcp.db"),
            RecordType::SRV,
            ok,
            &[
                "0 100 6379 db-0.east.db.shop.svc.clusterset.local.",
                "0 100 6379 db-0.west.db.shop.svc.clusterset.local.",
                "0 100 6380 10-245-0-6.west.db.shop.svc.clusterset.local.",
            ],
        );
    }

    #[test]
    fn addresses_take_turns_at_being_the_first_and_none_is_lost() {
        for (turn, want) in [
            (0, ["10.244.0.5", "10.244.0.6", "10.244.0.7"]),
            (1, ["10.244.0.6", "10.244.0.7", "10.244.0.5"]),
            (5, ["10.244.0.7", "10.244.0.5", "10.244.0.6"]),
        ] {
            let answer = ask_in_turn("db.shop.svc.cluster.local.", RecordType::A, Transport::Udp, turn);
            let got: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
            assert_eq!(got, want, "{turn}");
        }
    }

    #[test]
    fn ports_are_found_by_name_with_the_hosts_that_serve_them() {
        let of = |name: &str| format!("{name}.shop.svc.cluster.local.");
        let ok = ResponseCode::NoError;
        check(
            &of("_http._tcp.reviews"),
            RecordType::SRV,
            ok,
            &["0 100 80 reviews.shop.svc.cluster.local."],
        );
        check(
            &of("_redis._tcp.db"),
            RecordType::SRV,
            ok,
            &[
                "0 100 6379 db-0.db.shop.svc.cluster.local.",
                "0 100 6380 10-244-0-6.db.shop.svc.cluster.local.",
            ],
        );
        check(&of("_tcp.db"), RecordType::SRV, ok, &[]);
        check(&of("_http._udp.reviews"), RecordType::SRV, ResponseCode::NXDomain, &[]);
        let answer = ask_with(&of("_redis._tcp.db"), RecordType::SRV, Transport::Tcp);
        let hosts: Vec<String> = answer
            .additionals
            .iter()
            .map(|record| record.data.to_string())
            .collect();
        assert_eq!(hosts, ["10.244.0.5", "fd00::5", "10.244.0.6"]);
    }

    #[test]
    fn a_name_that_stands_for_another_says_so_and_goes_on_inside_the_mesh_only() {
        let of = |name: &str| format!("{name}.shop.svc.cluster.local.");
        let ok = ResponseCode::NoError;
        check(&of("outside"), RecordType::A, ok, &["api.example.com."]);
        check(&of("outside"), RecordType::CNAME, ok, &["api.example.com."]);
        check(
            &of("alias"),
            RecordType::A,
            ok,
            &["single.shop.svc.cluster.local.", "10.96.1.3"],
        );
        let circle = ask_with(&of("circle"), RecordType::A, Transport::Udp);
        assert_eq!(circle.answers.len(), MOST_ALIASES, "it ends");
    }

    #[test]
    fn an_address_knows_its_names() {
        let ok = ResponseCode::NoError;
        check(
            "2.1.96.10.in-addr.arpa.",
            RecordType::PTR,
            ok,
            &["reviews.shop.svc.cluster.local."],
        );
        check(
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            RecordType::PTR,
            ok,
            &["db-0.db.shop.svc.cluster.local."],
        );
        check("9.9.9.9.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain, &[]);
    }

    #[test]
    fn nothing_exists_outside_the_mesh() {
        for name in ["example.com.", "notcluster.local.", "reviews.", "local."] {
            check(name, RecordType::A, ResponseCode::NXDomain, &[]);
        }
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_asked_for_over_tcp() {
        let cut = ask_with("many.shop.svc.cluster.local.", RecordType::A, Transport::Udp);
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let whole = ask_with("many.shop.svc.cluster.local.", RecordType::A, Transport::Tcp);
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 300);
    }

    #[test]
    fn garbage_and_answers_are_not_answered() {
        let zone = zone();
        assert_eq!(answer(&zone, b"", Transport::Udp, 0), None);
        assert_eq!(answer(&zone, &[0xff; 40], Transport::Udp, 0), None);
        let response = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(answer(&zone, &response, Transport::Udp, 0), None);
    }

    #[test]
    fn other_operations_and_classes_are_refused_by_name() {
        let ask = |change: &dyn Fn(&mut Message)| {
            let mut query = Message::query();
            query.add_query(Query::query(
                Name::from_ascii("reviews.shop.svc.cluster.local.").unwrap(),
                RecordType::A,
            ));
            change(&mut query);
            let answer = answer(&zone(), &query.to_vec().unwrap(), Transport::Udp, 0).unwrap();
            Message::from_vec(&answer).unwrap().metadata.response_code
        };
        assert_eq!(
            ask(&|query| query.metadata.op_code = OpCode::Status),
            ResponseCode::NotImp
        );
        assert_eq!(
            ask(&|query| {
                query.queries[0].set_query_class(DNSClass::CH);
            }),
            ResponseCode::Refused
        );
        assert_eq!(ask(&|query| query.queries.clear()), ResponseCode::FormErr);
    }
}
