//! One query in, one answer out. Pure.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{DOMAIN, Found, TTL_SECONDS, Zone};

/// What a client takes over UDP without saying otherwise (RFC 1035, section 2.3.4), and the most that we send there: what
/// is longer goes by TCP rather than in fragments.
const UDP_MIN: u16 = 512;
const UDP_MAX: u16 = 1232;

/// How the query came, which bounds the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// At most what the client takes; the rest is asked for again over TCP.
    Udp,
    /// Up to 65,535 bytes.
    Tcp,
}

/// The answer to a query as it came from the wire. None for what deserves none: garbage, and answers.
pub fn answer(zone: &Zone, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
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
    let reply = reply(zone, &query);
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
    cut.to_vec().ok()
}

fn reply(zone: &Zone, query: &Message) -> Message {
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
    look_up(zone, question, &mut reply);
    reply
}

/// Fills in the records. A name without the kind of record that was asked for gets none and the SOA ("no data", RFC 2308,
/// section 2.2), which is not the same as a name that does not exist.
fn look_up(zone: &Zone, question: &Query, reply: &mut Message) {
    let name = question.name();
    let found = zone.find(&name.to_ascii());
    reply.metadata.authoritative = found != Found::Outside;
    let record = |data: RData| Record::from_rdata(name.clone(), TTL_SECONDS, data);
    match (&found, question.query_type()) {
        (Found::Addresses { v4, .. }, RecordType::A) => {
            reply.answers.extend(v4.iter().map(|ip| record(RData::A(A(*ip)))));
        }
        (Found::Addresses { v6, .. }, RecordType::AAAA) => {
            reply.answers.extend(v6.iter().map(|ip| record(RData::AAAA(AAAA(*ip)))));
        }
        (Found::Addresses { v4, v6 }, RecordType::ANY) => {
            reply.answers.extend(v4.iter().map(|ip| record(RData::A(A(*ip)))));
            reply.answers.extend(v6.iter().map(|ip| record(RData::AAAA(AAAA(*ip)))));
        }
        (Found::Apex, RecordType::SOA) => reply.answers.extend(soa()),
        (Found::Addresses { .. } | Found::Apex, _) => {}
        (Found::Nothing | Found::Outside, _) => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    if reply.answers.is_empty() && found != Found::Outside {
        reply.authorities.extend(soa());
    }
}

/// The zone's SOA record; its last number bounds how long "no" may be kept (RFC 2308, section 5).
fn soa() -> Option<Record> {
    let apex = Name::from_ascii(format!("{DOMAIN}.")).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{DOMAIN}.")).ok()?;
    let mailbox = Name::from_ascii(format!("hostmaster.{DOMAIN}.")).ok()?;
    let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL_SECONDS);
    Some(Record::from_rdata(apex, TTL_SECONDS, RData::SOA(soa)))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn zone() -> Zone {
        let ip = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let many = (0..300u32)
            .map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 + n)))
            .collect();
        Zone::new([
            ("shop", "reviews", vec![ip("10.96.1.2"), ip("fd00:10:96::2")]),
            ("shop", "single", vec![ip("10.96.1.3")]),
            ("shop", "headless", vec![]),
            ("shop", "many", many),
        ])
    }

    fn ask_with(name: &str, kind: RecordType, transport: Transport) -> Message {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = answer(&zone(), &query.to_vec().unwrap(), transport).expect("an answer");
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
        assert_eq!(answer(&zone, b"", Transport::Udp), None);
        assert_eq!(answer(&zone, &[0xff; 40], Transport::Udp), None);
        let response = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(answer(&zone, &response, Transport::Udp), None);
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
            let answer = answer(&zone(), &query.to_vec().unwrap(), Transport::Udp).unwrap();
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
