//! Leaves hold what the authority decides and the caller's key, and nothing else.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Barrier};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rcgen::{CustomExtension, SanType};
use rustls_pki_types::UnixTime;
use x509_parser::extensions::ParsedExtension;

use super::*;
use crate::bundle::TrustBundles;
use crate::csr;
use crate::testing::{DAY, ca};
use crate::verify::{Side, verify};

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn web() -> Identity {
    "spiffe://a/ns/shop/sa/web".parse().unwrap()
}

fn authority() -> Authority {
    Authority::create(domain("a"), SystemTime::now()).unwrap()
}

fn proves(authority: &Authority, leaf: &IssuedLeaf) -> Identity {
    let bundles = TrustBundles::new([authority.bundle(0)]).unwrap();
    verify(&leaf.chain, &bundles, Side::Client, UnixTime::now()).unwrap()
}

#[test]
fn a_leaf_proves_its_identity() {
    let authority = authority();
    let leaf = authority
        .issue(Key::generate().unwrap().public(), &web(), DAY, SystemTime::now())
        .unwrap();
    assert_eq!(proves(&authority, &leaf), web());
    assert_eq!(leaf.chain.len(), 1, "without the root");
}

#[test]
fn a_leaf_is_back_dated_and_ends_when_it_should() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_750);
    let whole = now - Duration::from_millis(750);
    let leaf = authority()
        .issue(Key::generate().unwrap().public(), &web(), DAY, now)
        .unwrap();
    assert_eq!((leaf.not_before, leaf.not_after), (whole - BACKDATE, whole + DAY));
    let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
    assert_eq!(parsed.validity().not_before.timestamp(), 1_800_000_000 - 120);
    assert_eq!(parsed.validity().not_after.timestamp(), 1_800_000_000 + 86_400);
}

#[test]
fn a_hostile_request_gets_a_leaf_with_its_key_and_nothing_else_of_it() {
    let key = Key::generate().unwrap();
    let mut params = CertificateParams::new(vec!["admin.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "weft-control");
    params
        .subject_alt_names
        .push(uri("spiffe://a/ns/weft-system/sa/weft-control").unwrap());
    params.subject_alt_names.push(uri("spiffe://b/ns/x/sa/y").unwrap());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let request = params.serialize_request(&key.to_pair().unwrap().0).unwrap();

    let authority = authority();
    check_leaf(&authority, request.der(), &key);
}

#[test]
fn of_a_hundred_hostile_requests_nothing_but_the_key_is_taken() {
    let (authority, mut random) = (authority(), StdRng::seed_from_u64(6));
    let (mut issued, mut refused) = (0, 0);
    for _ in 0..100 {
        let key = Key::generate().unwrap();
        let request = hostile(&mut random)
            .serialize_request(&key.to_pair().unwrap().0)
            .unwrap();
        check_leaf(&authority, request.der(), &key);
        issued += 1;
        // The same with a bit changed, or cut, says hardly anything that its signature holds for.
        let mut broken = request.der().to_vec();
        match random.random_bool(0.5) {
            true => broken.truncate(random.random_range(0..broken.len())),
            false => broken[random.random_range(0..request.der().len())] ^= 1 << random.random_range(0..8),
        }
        // Some of the bits around the signature mean nothing: then the key is still the one that has signed.
        match csr::check(&broken) {
            Ok(_) => check_leaf(&authority, &broken, &key),
            Err(_) => refused += 1,
        }
    }
    assert!(issued == 100 && refused >= 90, "{issued} issued, {refused} refused");
}

/// A request for some of what nobody may have.
fn hostile(random: &mut StdRng) -> CertificateParams {
    let mut some = |percent: u32| random.random_range(0..100) < percent;
    let mut params = CertificateParams::default();
    let names = ["weft-control", "a\0b", "*.svc", "\u{202e}mesh", ""];
    for name in names.into_iter().filter(|_| some(40)) {
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters".repeat(9));
    }
    let identities = [
        "spiffe://a/ns/weft-system/sa/weft-control",
        "spiffe://b/ns/x/sa/y",
        "spiffe://a/ns/shop/sa/web/../x",
    ];
    let identities = identities
        .into_iter()
        .filter(|_| some(50))
        .filter_map(|name| uri(name).ok());
    params.subject_alt_names.extend(identities);
    if some(50) {
        let addresses = (0..64).map(|last| SanType::IpAddress([10, 0, 0, last].into()));
        params.subject_alt_names.extend(addresses);
    }
    if some(50) {
        let length = [BasicConstraints::Unconstrained, BasicConstraints::Constrained(3)];
        params.is_ca = IsCa::Ca(length[usize::from(some(50))]);
    }
    let usages = [
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.key_usages = usages.into_iter().filter(|_| some(50)).collect();
    let purposes = [
        ExtendedKeyUsagePurpose::Any,
        ExtendedKeyUsagePurpose::CodeSigning,
        ExtendedKeyUsagePurpose::OcspSigning,
    ];
    params.extended_key_usages = purposes.into_iter().filter(|_| some(50)).collect();
    if some(30) {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5; 1024]);
        unknown.set_criticality(true);
        params.custom_extensions.push(unknown);
    }
    params
}

/// The leaf that a request gets holds its key, and else nothing that the authority has not put in.
#[track_caller]
fn check_leaf(authority: &Authority, request: &[u8], key: &Key) {
    let leaf = authority
        .issue(&csr::check(request).unwrap(), &web(), DAY, SystemTime::now())
        .unwrap();
    assert_eq!(proves(authority, &leaf), web());
    let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
    assert_eq!(parsed.public_key().raw, key.public().spki());
    assert_eq!(parsed.subject().iter().count(), 0);
    let mut seen: Vec<_> = parsed.extensions().iter().map(check_extension).collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            "authority key",
            "constraints",
            "extended usage",
            "key",
            "names",
            "usage"
        ]
    );
}

/// Each extension of a leaf is one of ours, as ours are.
fn check_extension(extension: &x509_parser::extensions::X509Extension<'_>) -> &'static str {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            assert_eq!(names.general_names, [GeneralName::URI("spiffe://a/ns/shop/sa/web")]);
            assert!(extension.critical, "the subject is empty (RFC 5280 section 4.2.1.6)");
            "names"
        }
        ParsedExtension::BasicConstraints(constraints) => {
            assert!(!constraints.ca);
            "constraints"
        }
        ParsedExtension::KeyUsage(usage) => {
            assert_eq!(usage.flags, 1, "digitalSignature alone");
            "usage"
        }
        ParsedExtension::ExtendedKeyUsage(usage) => {
            assert!(usage.server_auth && usage.client_auth);
            assert!(!usage.any && !usage.code_signing && usage.other.is_empty());
            "extended usage"
        }
        ParsedExtension::AuthorityKeyIdentifier(_) => "authority key",
        ParsedExtension::SubjectKeyIdentifier(_) => "key",
        other => panic!("{other:?}"),
    }
}

#[test]
fn serials_are_random_positive_and_of_128_bits() {
    let authority = authority();
    let key = Key::generate().unwrap();
    let mut seen = HashSet::new();
    let mut longest = 0;
    for _ in 0..64 {
        let leaf = authority.issue(key.public(), &web(), DAY, SystemTime::now()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
        let serial = parsed.raw_serial().to_vec();
        assert!(serial[0] < 0x80 && serial.len() <= 17, "{serial:02x?}");
        longest = longest.max(serial.iter().skip_while(|byte| **byte == 0).count());
        assert!(seen.insert(serial));
    }
    assert_eq!(longest, 16);
}

#[test]
fn another_trust_domain_is_not_vouched_for() {
    let foreign = "spiffe://b/ns/shop/sa/web".parse().unwrap();
    let result = authority().issue(Key::generate().unwrap().public(), &foreign, DAY, SystemTime::now());
    assert!(matches!(result, Err(AuthorityError::Foreign { .. })));
}

#[test]
fn lifetimes_are_bounded() {
    let (authority, key) = (authority(), Key::generate().unwrap());
    let issue = |lifetime| authority.issue(key.public(), &web(), lifetime, SystemTime::now());
    assert!(issue(LEAF_LIFETIME_MIN).is_ok() && issue(LEAF_LIFETIME_MAX).is_ok());
    assert!(matches!(issue(Duration::ZERO), Err(AuthorityError::Lifetime(_))));
    assert!(matches!(
        issue(LEAF_LIFETIME_MAX + DAY),
        Err(AuthorityError::Lifetime(_))
    ));
}

#[test]
fn a_leaf_does_not_outlive_its_authority() {
    let (authority, key) = (authority(), Key::generate().unwrap());
    let leaf = authority
        .issue(
            key.public(),
            &web(),
            DAY,
            authority.not_after() - Duration::from_secs(60),
        )
        .unwrap();
    assert_eq!(leaf.not_after, authority.not_after());
    let late = authority.issue(key.public(), &web(), DAY, authority.not_after());
    assert!(matches!(late, Err(AuthorityError::Ended)));
}

#[test]
fn a_long_trust_domain_fits() {
    let long = format!("{}.{}", "x".repeat(63), "y".repeat(26));
    assert_eq!(long.len(), weft_model::identity::TRUST_DOMAIN_MAX);
    let authority = Authority::create(domain(&long), SystemTime::now()).unwrap();
    let identity = Identity::new(domain(&long), "shop", "web").unwrap();
    let leaf = authority
        .issue(Key::generate().unwrap().public(), &identity, DAY, SystemTime::now())
        .unwrap();
    assert_eq!(proves(&authority, &leaf), identity);
}

#[test]
fn the_key_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authority");
    let load = || Authority::load_or_create(&path, &domain("a"), SystemTime::now()).unwrap();
    let (first, second) = (load(), load());
    assert_eq!(first.root(), second.root());
    let leaf = second
        .issue(Key::generate().unwrap().public(), &web(), DAY, SystemTime::now())
        .unwrap();
    assert_eq!(proves(&first, &leaf), web());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(
        fs::metadata(path.join(FILE)).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn two_that_start_at_once_end_with_one_root() {
    let dir = tempfile::tempdir().unwrap();
    let barrier = Arc::new(Barrier::new(8));
    let start = || {
        let (path, barrier) = (dir.path().to_owned(), barrier.clone());
        std::thread::spawn(move || {
            barrier.wait();
            Authority::load_or_create(&path, &domain("a"), SystemTime::now())
                .unwrap()
                .root()
                .clone()
        })
    };
    let threads: Vec<_> = (0..8).map(|_| start()).collect();
    let roots: HashSet<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap().to_vec())
        .collect();
    assert_eq!(roots.len(), 1);
}

#[test]
fn a_damaged_file_is_an_error_and_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    Authority::load_or_create(dir.path(), &domain("a"), SystemTime::now()).unwrap();
    let path = dir.path().join(FILE);
    let good = fs::read(&path).unwrap();
    let key_only = good.windows(11).position(|window| window == b"PRIVATE KEY").unwrap() - 11;
    for bad in [&good[..good.len() / 2], b"", &good[key_only..], &good[..key_only]] {
        fs::write(&path, bad).unwrap();
        let error = Authority::load_or_create(dir.path(), &domain("a"), SystemTime::now()).unwrap_err();
        assert!(matches!(error, AuthorityError::File { .. }), "{error:?}");
        assert!(error.to_string().contains("restore the file"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
}

#[test]
fn the_root_of_another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Authority::load_or_create(dir.path(), &domain("a"), SystemTime::now()).unwrap();
    let error = Authority::load_or_create(dir.path(), &domain("b"), SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains("that of a, not of b"), "{error}");
}

#[test]
fn a_supplied_issuer_below_a_root_issues_whole_chains() {
    let (root_key, key) = (rcgen::KeyPair::generate().unwrap(), Key::generate().unwrap());
    let root_params = ca("company root");
    let root = root_params.self_signed(&root_key).unwrap();
    let root_issuer = Issuer::new(root_params, root_key);
    let mut params = ca("company mesh issuer");
    params.not_after = OffsetDateTime::from(SystemTime::now() + 30 * DAY);
    let issuing = params.signed_by(&key.to_pair().unwrap().0, &root_issuer).unwrap();
    let certificates = issuing.pem() + &root.pem();

    let authority = Authority::supplied(domain("a"), certificates.as_bytes(), key.to_pem().as_bytes()).unwrap();
    let leaf = authority
        .issue(Key::generate().unwrap().public(), &web(), DAY, SystemTime::now())
        .unwrap();
    assert_eq!(leaf.chain.len(), 2);
    assert_eq!(proves(&authority, &leaf), web());
    assert_eq!(authority.root(), root.der());

    let other = Key::generate().unwrap();
    let result = Authority::supplied(domain("a"), certificates.as_bytes(), other.to_pem().as_bytes());
    assert!(result.unwrap_err().to_string().contains("key is not that"));
    let swapped = root.pem() + &issuing.pem();
    assert!(Authority::supplied(domain("a"), swapped.as_bytes(), key.to_pem().as_bytes()).is_err());
    let unrelated = issuing.pem()
        + &ca("another")
            .self_signed(&rcgen::KeyPair::generate().unwrap())
            .unwrap()
            .pem();
    let result = Authority::supplied(domain("a"), unrelated.as_bytes(), key.to_pem().as_bytes());
    assert!(result.unwrap_err().to_string().contains("would not verify"));
}

#[test]
fn debug_does_not_show_the_key() {
    assert_eq!(
        format!("{:?}", authority()),
        "Authority { trust_domain: TrustDomain(\"a\"), .. }"
    );
}
