use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::discover::testing::*;

const AT: &str = "10.96.0.7:80";

fn store() -> Store {
    Store::new(Duration::from_secs(3), 16)
}

fn told() -> Store {
    let mut store = store();
    store.follow(&target(AT), Instant::now(), Duration::ZERO).unwrap();
    store
        .follow(&target("10.9.9.9:80"), Instant::now(), Duration::ZERO)
        .unwrap();
    let mut resources = basics();
    resources.push(says("bundles", &bundles(&authority(), 1), 1));
    assert_eq!(store.apply(batch(1, 1, resources), Instant::now()).refused, []);
    assert_eq!(
        store
            .apply(batch(2, 3, reviews(AT, &[("reviews-1", 1)], 5)), Instant::now())
            .refused,
        []
    );
    store
}

fn saved() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = told();
    save(directory.path(), &store, SystemTime::now()).unwrap();
    (directory, store)
}

#[test]
fn what_was_held_and_followed_is_so_again() {
    let (directory, before) = saved();
    let mut after = store();
    assert!(
        load(directory.path(), &mut after, Instant::now(), SystemTime::now())
            .unwrap()
            .is_some()
    );
    let pod = weft_proto::discovery::Pod::default();
    assert_eq!(
        after.hello(pod.clone(), "", Instant::now()),
        before.hello(pod, "", Instant::now())
    );
    assert_eq!(
        after.state().lookups[&target(AT)].lookup.value,
        before.state().lookups[&target(AT)].lookup.value
    );
    assert_eq!(after.state().endpoint_set("eps"), before.state().endpoint_set("eps"));
    assert_eq!(after.state().inbound(), before.state().inbound());
    assert_eq!(after.trust(), before.trust());
    assert!(after.acknowledge(u64::MAX).is_empty(), "nobody waits to hear of it");
}

#[test]
fn each_resource_keeps_its_epoch() {
    let (directory, _) = saved();
    let mut after = store();
    load(directory.path(), &mut after, Instant::now(), SystemTime::now()).unwrap();
    assert_eq!(after.state().epoch, 3);
    let older = batch(1, 3, vec![says("eps", &endpoints(&[("older", 9)]), 4)]);
    assert_eq!(after.apply(older, Instant::now()).refused.len(), 1);
    let of_epoch_1 = batch(
        2,
        3,
        vec![says("inbound", &inbound(weft_model::inbound::Mode::Permissive), 0)],
    );
    assert_eq!(after.apply(of_epoch_1, Instant::now()).refused, []);
}

#[test]
fn what_refers_to_something_of_a_later_epoch_is_whole_again() {
    let mut before = told();
    // A new epoch, in which only the endpoints were renewed: Service and lookup are still those of the epoch before.
    let renewed = batch(3, 4, vec![says("eps", &endpoints(&[("reviews-2", 2)]), 1)]);
    assert_eq!(before.apply(renewed, Instant::now()).refused, []);
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), &before, SystemTime::now()).unwrap();
    let mut after = store();
    assert!(
        load(directory.path(), &mut after, Instant::now(), SystemTime::now())
            .unwrap()
            .is_some()
    );
    let pod = weft_proto::discovery::Pod::default();
    assert_eq!(
        after.hello(pod.clone(), "", Instant::now()),
        before.hello(pod, "", Instant::now())
    );
    let epochs = |store: &Store| {
        let mut epochs: Vec<_> = store.wires().map(|(name, wire)| (name, wire.epoch)).collect();
        epochs.sort();
        epochs
    };
    assert_eq!(epochs(&after), epochs(&before));
    assert_eq!(after.state().epoch, 4);
}

#[test]
fn it_is_as_old_as_its_confirmation_and_not_as_its_writing() {
    let directory = tempfile::tempdir().unwrap();
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let confirmed_at = |confirmed| {
        save(directory.path(), &told(), confirmed).unwrap();
        load(directory.path(), &mut store(), Instant::now(), wall)
            .unwrap()
            .unwrap()
    };
    let hour_ago = wall - Duration::from_secs(3600);
    assert_eq!(confirmed_at(hour_ago), hour_ago);
    // A clock that was set back makes it old, not young.
    assert_eq!(confirmed_at(wall + Duration::from_secs(9)), wall - AGE_UNKNOWN);
}

#[test]
fn a_negative_answer_is_as_old_after_a_restart_as_before() {
    let mut before = told();
    let none = batch(3, 3, vec![says("10.9.9.9:80", &outside(30), 1)]);
    assert_eq!(before.apply(none, Instant::now()).refused, []);
    let directory = tempfile::tempdir().unwrap();
    let (now, wall) = (Instant::now(), SystemTime::now());
    save(directory.path(), &before, wall - Duration::from_secs(40)).unwrap();
    let mut after = store();
    load(directory.path(), &mut after, now, wall).unwrap();
    let heard = after.state().lookups[&target("10.9.9.9:80")].heard;
    assert!((40..41).contains(&now.duration_since(heard).as_secs()));
}

#[test]
fn nobody_else_may_read_it() {
    let (directory, _) = saved();
    let mode = std::fs::metadata(directory.path().join(FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        1,
        "nothing is left beside"
    );
}

#[test]
fn the_directory_is_made_for_us_alone() {
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("state");
    save(&directory, &told(), SystemTime::now()).unwrap();
    assert_eq!(
        std::fs::metadata(directory).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn none_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(
        load(directory.path(), &mut store(), Instant::now(), SystemTime::now()).unwrap(),
        None
    );
}

#[test]
fn any_damaged_byte_is_noticed() {
    let (directory, _) = saved();
    let path = directory.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        std::fs::write(&path, &bad).unwrap();
        load(directory.path(), &mut store(), Instant::now(), SystemTime::now())
            .expect_err(&format!("byte {at} is damaged"));
    }
}

#[test]
fn a_file_that_was_cut_is_noticed() {
    let (directory, _) = saved();
    let path = directory.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    for length in [0, 1, 20, 49, 50, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        load(directory.path(), &mut store(), Instant::now(), SystemTime::now()).expect_err(&format!("cut to {length}"));
    }
}

#[test]
fn another_format_is_not_read() {
    let (directory, _) = saved();
    let path = directory.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    let newer = [b"weft-snapshot-2", &good[FORMAT.len()..]].concat();
    std::fs::write(&path, newer).unwrap();
    assert!(matches!(
        load(directory.path(), &mut store(), Instant::now(), SystemTime::now()),
        Err(SnapshotError::Format)
    ));
}

#[test]
fn what_this_version_does_not_take_is_named_though_the_checksum_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let mut content = content(&told(), SystemTime::now());
    content.batches[0].resources[0].requires.push("teleport/1".to_owned());
    let content = content.encode_to_vec();
    let mut bytes = format!("{FORMAT} {}\n", checksum(&content)).into_bytes();
    bytes.extend(content);
    std::fs::write(directory.path().join(FILE), bytes).unwrap();
    let error = load(directory.path(), &mut store(), Instant::now(), SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains("requires"), "{error}");
}

#[test]
fn a_disk_that_is_full_leaves_the_old_one() {
    let (directory, _) = saved();
    let path = directory.path().join(FILE);
    let good = std::fs::read(&path).unwrap();
    // A directory where the new file would be written stands for every failure to write.
    std::fs::create_dir(directory.path().join(".snapshot.new")).unwrap();
    assert!(save(directory.path(), &told(), SystemTime::now()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), good);
}

#[test]
fn what_a_gateway_passes_is_so_again() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = || store().of_gateway();
    let mut before = gateway();
    let passes = weft_proto::resource::Body::Gateway(vec!["shop/reviews:80".to_owned()]);
    let resources = vec![
        says("shop/reviews:80", &exported(&[("reviews-1", 1)]), 5),
        says("gateway", &passes, 5),
        says("mesh", &mesh(), 1),
    ];
    assert_eq!(before.apply(batch(1, 1, resources), Instant::now()).refused, []);
    save(directory.path(), &before, SystemTime::now()).unwrap();
    let mut after = gateway();
    load(directory.path(), &mut after, Instant::now(), SystemTime::now()).unwrap();
    let passes = after.state().passes.as_ref().unwrap();
    assert_eq!(passes.exported["shop/reviews:80"].value.endpoints.len(), 1);
    assert!(after.state().is_configured());
    // As a sidecar it takes nothing of it, and begins anew.
    assert!(load(directory.path(), &mut store(), Instant::now(), SystemTime::now()).is_err());
}
