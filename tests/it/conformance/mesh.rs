//! Table. The mesh cases of the Gateway API's conformance suite, v1.6.1: core and extended, of MESH-HTTP and MESH-GRPC.

use super::ask::{Ask, Case, Who, call, case, get};

/// The cases, in an order that lets neighbours share routes.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("MeshBasic", vec![get("/")]),
        case(
            "MeshTrafficSplit",
            vec![get("/v1").backend("echo-v1"), get("/v2").backend("echo-v2")],
        ),
        case("MeshPorts", ports()),
        case("MeshFrontend", frontend()),
        case("MeshFrontendHostname", frontend_hostname()),
        case(
            "MeshConsumerRoute",
            vec![
                get("/")
                    .to("echo-v1.gateway-conformance-mesh")
                    .by(Who::Consumer)
                    .backend("echo-v1")
                    .gets("X-Header-Set", "set"),
                get("/")
                    .to("echo-v1.gateway-conformance-mesh")
                    .backend("echo-v1")
                    .gets_no("X-Header-Set"),
            ],
        ),
        case("MeshHTTPRouteSimpleSameNamespace", vec![get("/").backend("echo-v1")]),
        case("MeshHTTPRouteMatching", matching()),
        case("MeshHTTPRouteQueryParamMatching", query_params()),
        case(
            "MeshHTTPRouteWeight",
            vec![get("/").shares(2100, &[("echo-v1", 0.7), ("echo-v2", 0.3)])],
        ),
        case("MeshHTTPRouteRequestHeaderModifier", request_headers()),
        case("MeshHTTPRouteBackendRequestHeaderModifier", request_headers()),
        case("MeshHTTPRouteRewritePath", rewrites()),
        case(
            "MeshHTTPRouteNamedRule",
            vec![
                get("/named").backend("echo-v1").sees_path("/named"),
                get("/unnamed").backend("echo-v2").sees_path("/unnamed"),
            ],
        ),
        case(
            "MeshGRPCRouteWeight",
            vec![call("/proto.EchoTestService/Echo").shares(2100, &[("echo-v1", 0.7), ("echo-v2", 0.3)])],
        ),
    ];
    cases.extend(redirects());
    cases
}

fn ports() -> Vec<Ask> {
    vec![
        get("/").to("echo-v1").backend("echo-v1").gets("X-Header-Set", "v1"),
        get("/").to("echo-v1:8080").backend("echo-v1").gets_no("X-Header-Set"),
        get("/").to("echo-v2").backend("echo-v2").gets("X-Header-Set", "v2"),
        get("/")
            .to("echo-v2:8080")
            .backend("echo-v2")
            .gets("X-Header-Set", "v2"),
    ]
}

fn frontend() -> Vec<Ask> {
    vec![
        get("/").to("echo-v2").backend("echo-v2").gets("X-Header-Set", "set"),
        get("/").to("{echo-v2}:8080").backend("echo-v2").gets_no("X-Header-Set"),
    ]
}

fn frontend_hostname() -> Vec<Ask> {
    vec![
        get("/")
            .to("echo-v2")
            .header("Host", "echo-v1")
            .backend("echo-v2")
            .gets("X-Header-Set", "set"),
        get("/")
            .to("echo-v1")
            .header("Host", "echo-v2")
            .backend("echo-v1")
            .gets_no("X-Header-Set"),
    ]
}

fn matching() -> Vec<Ask> {
    vec![
        get("/").backend("echo-v1"),
        get("/example").backend("echo-v1"),
        get("/").header("Version", "one").backend("echo-v1"),
        get("/v2").backend("echo-v2"),
        get("/v2/example").backend("echo-v2"),
        get("/").header("Version", "two").backend("echo-v2"),
        get("/v2/").backend("echo-v2"),
        get("/v2example").backend("echo-v1"),
        get("/foo/v2/example").backend("echo-v1"),
    ]
}

fn query_params() -> Vec<Ask> {
    vec![
        get("/?animal=whale").backend("echo-v1"),
        get("/?animal=dolphin").backend("echo-v2"),
        get("/?animal=whale&otherparam=irrelevant").backend("echo-v1"),
        get("/?animal=dolphin&color=yellow").backend("echo-v2"),
        get("/?color=blue").status(404),
        get("/?animal=dog").status(404),
        get("/?animal=whaledolphin").status(404),
        get("/").status(404),
        get("/path1?animal=whale").backend("echo-v1"),
        get("/?animal=whale").header("version", "one").backend("echo-v2"),
        get("/path3?animal=shark").backend("echo-v1"),
        get("/path4?animal=kraken")
            .header("version", "three")
            .backend("echo-v1"),
        get("/?animal=shark").status(404),
        get("/path4?animal=kraken").status(404),
        get("/path5?animal=hydra").backend("echo-v1"),
    ]
}

fn request_headers() -> Vec<Ask> {
    let to = |path| get(path).backend("echo-v1");
    let set = || to("/set").header("Some-Other-Header", "val");
    let set_wanted = |ask: Ask| {
        ask.sees("Some-Other-Header", "val")
            .sees("X-Header-Set", "set-overwrites-values")
    };
    let add = || {
        to("/add")
            .header("Some-Other-Header", "val")
            .sees("Some-Other-Header", "val")
    };
    vec![
        set_wanted(set()),
        set_wanted(set().header("X-Header-Set", "some-other-value")),
        add().sees("X-Header-Add", "add-appends-values"),
        add()
            .header("X-Header-Add", "some-other-value")
            .sees("X-Header-Add", "some-other-value,add-appends-values"),
        to("/remove")
            .header("X-Header-Remove", "val")
            .sees_no("X-Header-Remove"),
        to("/multiple")
            .header("X-Header-Set-2", "set-val-2")
            .header("X-Header-Add-2", "add-val-2")
            .header("X-Header-Remove-2", "remove-val-2")
            .header("Another-Header", "another-header-val")
            .sees("X-Header-Set-1", "header-set-1")
            .sees("X-Header-Set-2", "header-set-2")
            .sees("X-Header-Add-1", "header-add-1")
            .sees("X-Header-Add-2", "add-val-2,header-add-2")
            .sees("X-Header-Add-3", "header-add-3")
            .sees("Another-Header", "another-header-val")
            .sees_no("X-Header-Remove-1")
            .sees_no("X-Header-Remove-2"),
        to("/case-insensitivity")
            .header("x-header-set", "original-val-set")
            .header("x-header-add", "original-val-add")
            .header("x-header-remove", "original-val-remove")
            .header("Another-Header", "another-header-val")
            .sees("X-Header-Set", "header-set")
            .sees("X-Header-Add", "original-val-add,header-add")
            .sees("Another-Header", "another-header-val")
            .sees_no("X-Header-Remove"),
    ]
}

fn rewrites() -> Vec<Ask> {
    let to = |path, sees| get(path).backend("echo-v1").sees_path(sees);
    let modified = |path, sees| {
        to(path, sees)
            .header("X-Header-Remove", "remove-val")
            .header("X-Header-Add-Append", "append-val-1")
            .header("X-Header-Set", "set-val")
            .sees("X-Header-Add", "header-val-1")
            .sees("X-Header-Add-Append", "append-val-1,header-val-2")
            .sees("X-Header-Set", "set-overwrites-values")
            .sees_no("X-Header-Remove")
    };
    vec![
        to("/prefix/one/two", "/one/two"),
        to("/strip-prefix/three", "/three"),
        to("/strip-prefix", "/"),
        to("/full/one/two", "/one"),
        modified("/full/rewrite-path-and-modify-headers/test", "/test"),
        modified("/prefix/rewrite-path-and-modify-headers/one", "/prefix/one"),
    ]
}

fn redirects() -> Vec<Case> {
    let to = |path, status, location| get(path).redirect(status, location);
    vec![
        case(
            "MeshHTTPRouteRedirectHostAndStatus",
            vec![
                to("/hostname-redirect", 302, "http://example.org/hostname-redirect"),
                to("/host-and-status", 301, "http://example.org/host-and-status"),
            ],
        ),
        case(
            "MeshHTTPRouteRedirectPath",
            vec![
                to("/original-prefix/lemon", 302, "http://echo/replacement-prefix/lemon"),
                to("/full/path/original", 302, "http://echo/full-path-replacement"),
                to("/path-and-host", 302, "http://example.org/replacement-prefix"),
                to("/path-and-status", 301, "http://echo/replacement-prefix"),
                to("/full-path-and-host", 302, "http://example.org/replacement-full"),
                to("/full-path-and-status", 301, "http://echo/replacement-full"),
            ],
        ),
        case(
            "MeshHTTPRouteRedirectPort",
            vec![
                to("/port", 302, "http://echo:8083/port"),
                to("/port-and-host", 302, "http://example.org:8083/port-and-host"),
                to("/port-and-status", 301, "http://echo:8083/port-and-status"),
                to(
                    "/port-and-host-and-status",
                    302,
                    "http://example.org:8083/port-and-host-and-status",
                ),
            ],
        ),
        case(
            "MeshHTTPRouteSchemeRedirect",
            vec![
                to("/scheme", 302, "https://echo/scheme"),
                to("/scheme-and-host", 302, "https://example.org/scheme-and-host"),
                to("/scheme-and-status", 301, "https://echo/scheme-and-status"),
                to(
                    "/scheme-and-host-and-status",
                    302,
                    "https://example.org/scheme-and-host-and-status",
                ),
            ],
        ),
        case(
            "MeshHTTPRoute303Redirect",
            vec![to("/redirect", 303, "http://echo/redirect")],
        ),
        case(
            "MeshHTTPRoute307Redirect",
            vec![to("/temporary", 307, "http://echo/temporary")],
        ),
        case(
            "MeshHTTPRoute308Redirect",
            vec![to("/permanent", 308, "http://echo/permanent")],
        ),
    ]
}
