//! The demo's shop as a mesh under test.

use crate::mesh::{Mesh, MeshBuilder};

/// The manifests of `shop/manifests`.
pub const FILES: [(&str, &str); 7] = [
    ("cluster.yaml", include_str!("../../shop/manifests/cluster.yaml")),
    ("web.yaml", include_str!("../../shop/manifests/web.yaml")),
    ("reviews.yaml", include_str!("../../shop/manifests/reviews.yaml")),
    (
        "reviews-east.yaml",
        include_str!("../../shop/manifests/reviews-east.yaml"),
    ),
    ("ratings.yaml", include_str!("../../shop/manifests/ratings.yaml")),
    ("visitors.yaml", include_str!("../../shop/manifests/visitors.yaml")),
    ("routes.yaml", include_str!("../../shop/manifests/routes.yaml")),
];

/// The whole shop.
#[must_use]
pub fn shop() -> MeshBuilder {
    FILES
        .iter()
        .fold(Mesh::builder(), |mesh, (file, text)| mesh.file(file, text))
}

/// The text of a manifest of the shop.
#[track_caller]
pub fn manifest(file: &str) -> &'static str {
    FILES
        .iter()
        .find(|(name, _)| *name == file)
        .map(|(_, text)| *text)
        .expect("a manifest of the shop")
}
