//! Requests go where routes say.

use weft_tests::shop::{manifest, shop};

#[test]
fn ten_thousand_requests_split_ninety_to_ten_within_one_point() {
    let mesh = shop().up();
    let tally = mesh.visit(
        "shop",
        "visitor",
        "http://reviews/reviews/1",
        &["--count", "10000", "--rate", "1000"],
    );
    tally.none_failed();
    let share = tally.version("v1") as f64 / tally.calls() as f64;
    assert!((share - 0.9).abs() <= 0.01, "{share}");
}

#[test]
fn a_header_pins_a_version_and_others_do_not() {
    let mesh = shop().up();
    let pinned = mesh.visit(
        "shop",
        "visitor",
        "http://reviews/reviews/1",
        &["--count", "100", "-H", "x-canary: 1"],
    );
    assert_eq!(pinned.none_failed().version("v2"), 100);
    let other = mesh.visit(
        "shop",
        "visitor",
        "http://reviews/reviews/1",
        &["--count", "100", "-H", "x-canary: 2"],
    );
    assert!(other.none_failed().version("v1") > 0);
}

#[test]
fn a_broken_edit_keeps_the_old_split_and_names_the_field() {
    let mesh = shop().up();
    mesh.write(
        "routes.yaml",
        &manifest("routes.yaml").replace("weight: 90", "weight: -1"),
    );
    mesh.until("the status names the field", |status| {
        status.to_string().contains("weight")
    });
    let tally = mesh.visit("shop", "visitor", "http://reviews/reviews/1", &["--count", "500"]);
    assert!(tally.none_failed().version("v1") > 400);
}
