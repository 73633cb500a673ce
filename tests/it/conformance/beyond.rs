//! Table. The suite's cases for gateways that mean something in a mesh: with a Service as their routes' parent.

use super::ask::{Ask, Case, call, case, get, line, tls};

const ECHO: &str = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/Echo";
const ECHO_TWO: &str = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/EchoTwo";
const ECHO_THREE: &str = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/EchoThree";
/// gRPC's status for what is not there.
const UNIMPLEMENTED: i64 = 12;
/// No answer at all.
const CLOSED: i64 = -1;

/// The cases, in an order that lets neighbours share routes.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = matches();
    cases.extend(backends());
    cases.extend([
        case("HTTPRouteResponseHeaderModifier", response_headers()),
        case("HTTPRouteRewriteHost", rewritten_hosts()),
        case("HTTPRouteRedirectPortAndScheme", redirects()),
    ]);
    cases.extend(patience());
    cases.extend(mirrors());
    cases.extend(grpc());
    cases.extend(streams());
    cases
}

fn matches() -> Vec<Case> {
    let (v1, v2, far) = (
        |path| get(path).backend("echo-v1"),
        |path| get(path).backend("echo-v2"),
        |path| get(path).backend("far-echo-v1"),
    );
    let none = |path| get(path).status(404);
    let exact = vec![
        v1("/one"),
        v2("/two"),
        none("/"),
        none("/one/example"),
        none("/two/"),
        none("/Two"),
    ];
    let methods = vec![
        v1("/").method("POST"),
        v2("/"),
        none("/").method("HEAD"),
        v1("/path1"),
        v2("/").method("PUT").header("version", "one"),
        far("/path2").method("POST").header("version", "two"),
        v1("/path3").method("PATCH"),
        v1("/path4").method("DELETE").header("version", "three"),
        none("/").method("PUT"),
        none("/path4").method("DELETE"),
        v1("/path5").method("PATCH"),
        v2("/").method("PATCH").header("version", "four"),
    ];
    let order = vec![
        v1("/match/exact/one"),
        v2("/match/exact"),
        v1("/match"),
        v2("/match/prefix/one/any"),
        v1("/match/prefix/any"),
        far("/match/any"),
    ];
    let across = vec![
        v1("/"),
        v1("/example"),
        v1("/example").header("Version", "one"),
        v2("/v2"),
        v2("/v2/example"),
        v2("/").header("Version", "two"),
    ];
    vec![
        case("HTTPRouteExactPathMatching", exact),
        case("HTTPRouteHeaderMatching", by_headers(&|| get("/"), 404)),
        case("HTTPRouteMethodMatching", methods),
        case("HTTPRoutePathMatchOrder", order),
        case("HTTPRouteMatchingAcrossRoutes", across),
    ]
}

/// The same for HTTP and gRPC, but for the status of what matches nothing.
fn by_headers(ask: &dyn Fn() -> Ask, none: i64) -> Vec<Ask> {
    let version = |version| ask().header("version", version);
    let color = |color| ask().header("color", color);
    vec![
        version("one").backend("echo-v1"),
        version("two").backend("echo-v2"),
        version("two").header("color", "orange").backend("echo-v1"),
        version("two").header("color", "blue").backend("echo-v2"),
        color("orange").status(none),
        ask().header("some-other-header", "one").status(none),
        color("blue").backend("echo-v1"),
        color("green").backend("echo-v1"),
        color("red").backend("echo-v2"),
        color("yellow").backend("echo-v2"),
        color("purple").status(none),
    ]
}

fn backends() -> Vec<Case> {
    let omitted = vec![
        get("/forward").backend("echo-v1"),
        get("/omitted-no-forward").status(500),
        get("/empty-no-forward").status(500),
    ];
    let types = vec![
        get("/headless").backend("echo-v2"),
        get("/cluster-ip").backend("echo-v1"),
    ];
    vec![
        case("HTTPRouteOmittedBackendRefs", omitted),
        Case {
            condition: Some(["ResolvedRefs", "False", "BackendNotFound"]),
            ..case("HTTPRouteInvalidNonExistentBackendRef", vec![get("/").status(500)])
        },
        Case {
            condition: Some(["ResolvedRefs", "False", "InvalidKind"]),
            ..case("HTTPRouteInvalidBackendRefUnknownKind", vec![get("/v2").status(500)])
        },
        case("HTTPRouteCrossNamespace", vec![get("/").backend("far-echo-v1")]),
        case("HTTPRouteServiceTypes", types),
        case(
            "HTTPRouteRequestHeaderModifierBackendWeights",
            vec![get("/").times(100).names_backend("Backend")],
        ),
    ]
}

fn response_headers() -> Vec<Ask> {
    let to = |path, sets| get(path).backend("echo-v1").header("X-Echo-Set-Header", sets);
    let many = |ask: Ask| {
        ask.gets("X-Header-Set-1", "header-set-1")
            .gets("X-Header-Set-2", "header-set-2")
            .gets("X-Header-Add-1", "header-add-1")
            .gets("X-Header-Add-2", "add-val-2,header-add-2")
            .gets("Another-Header", "another-header-val")
            .gets_no("X-Header-Remove-1")
            .gets_no("X-Header-Remove-2")
    };
    vec![
        to("/set", "Some-Other-Header:val")
            .gets("Some-Other-Header", "val")
            .gets("X-Header-Set", "set-overwrites-values"),
        to("/set", "X-Header-Set:some-other-value").gets("X-Header-Set", "set-overwrites-values"),
        to("/add", "Some-Other-Header:val")
            .gets("Some-Other-Header", "val")
            .gets("X-Header-Add", "add-appends-values"),
        to("/add", "X-Header-Add:some-other-value").gets("X-Header-Add", "some-other-value,add-appends-values"),
        to("/remove", "X-Header-Remove:val").gets_no("X-Header-Remove"),
        many(to(
            "/multiple",
            "X-Header-Set-2:set-val-2,X-Header-Add-2:add-val-2,X-Header-Remove-2:remove-val-2,\
             Another-Header:another-header-val,X-Header-Remove-1:val",
        ))
        .gets("X-Header-Add-3", "header-add-3"),
        to(
            "/case-insensitivity",
            "x-header-set:original-val-set,x-header-add:original-val-add,x-header-remove:original-val-remove",
        )
        .gets("X-Header-Set", "header-set")
        .gets("X-Header-Add", "original-val-add,header-add")
        .gets("X-Lowercase-Add", "lowercase-add")
        .gets("X-Mixedcase-Add-1", "mixedcase-add-1")
        .gets("X-Mixedcase-Add-2", "mixedcase-add-2")
        .gets("X-Uppercase-Add", "uppercase-add")
        .gets_no("X-Header-Remove"),
        many(to(
            "/response-and-request-header-modifiers",
            "X-Header-Set-2:set-val-2,X-Header-Add-2:add-val-2,X-Header-Remove-2:remove-val-2,\
             Another-Header:another-header-val,X-Header-Remove-1:remove-val-1,X-Header-Echo:echo",
        ))
        .gets("X-Header-Echo", "echo")
        .header("X-Header-Remove", "remove-val")
        .header("X-Header-Add-Append", "append-val-1")
        .header("X-Header-Echo", "echo")
        .sees("X-Header-Add", "header-val-1")
        .sees("X-Header-Set", "set-overwrites-values")
        .sees("X-Header-Add-Append", "append-val-1,header-val-2")
        .sees("X-Header-Echo", "echo")
        .sees_no("X-Header-Remove"),
    ]
}

/// With headers that the route changes on the way.
fn modified(ask: Ask) -> Ask {
    ask.header("X-Header-Remove", "remove-val")
        .header("X-Header-Add-Append", "append-val-1")
        .sees("X-Header-Add", "header-val-1")
        .sees("X-Header-Add-Append", "append-val-1,header-val-2")
        .sees("X-Header-Set", "set-overwrites-values")
        .sees_no("X-Header-Remove")
}

fn rewritten_hosts() -> Vec<Ask> {
    vec![
        get("/one")
            .backend("echo-v1")
            .sees_path("/one")
            .sees_host("one.example.org"),
        get("/two")
            .backend("echo-v2")
            .sees_path("/two")
            .sees_host("example.org"),
        modified(
            get("/rewrite-host-and-modify-headers")
                .backend("echo-v2")
                .sees_host("test.example.org"),
        ),
    ]
}

fn redirects() -> Vec<Ask> {
    let at_80 = |path, location| get(path).redirect(302, location);
    let at_8080 = |path, location| get(path).to("echo:8080").redirect(302, location);
    vec![
        at_80("/scheme-nil-and-port-nil", "http://example.org/scheme-nil-and-port-nil"),
        at_80("/scheme-nil-and-port-80", "http://example.org/scheme-nil-and-port-80"),
        at_80(
            "/scheme-nil-and-port-8080",
            "http://example.org:8080/scheme-nil-and-port-8080",
        ),
        at_80(
            "/scheme-https-and-port-nil",
            "https://example.org/scheme-https-and-port-nil",
        ),
        at_80(
            "/scheme-https-and-port-443",
            "https://example.org/scheme-https-and-port-443",
        ),
        at_80(
            "/scheme-https-and-port-8443",
            "https://example.org:8443/scheme-https-and-port-8443",
        ),
        at_8080(
            "/scheme-nil-and-port-nil",
            "http://example.org:8080/scheme-nil-and-port-nil",
        ),
        at_8080("/scheme-nil-and-port-80", "http://example.org/scheme-nil-and-port-80"),
        at_8080(
            "/scheme-https-and-port-nil",
            "https://example.org/scheme-https-and-port-nil",
        ),
        at_8080(
            "/scheme-http-and-port-nil",
            "http://example.org/scheme-http-and-port-nil",
        ),
    ]
}

fn patience() -> Vec<Case> {
    let request = vec![
        get("/request-timeout"),
        get("/request-timeout?delay=1s").status(504),
        get("/disable-request-timeout?delay=1s"),
    ];
    let backend_request = vec![
        get("/backend-timeout"),
        get("/backend-timeout?delay=1s").status(504),
        get("/disable-backend-timeout?delay=1s"),
    ];
    let retry = vec![
        get("/retry/code-500-attempts-3?responseCode=500&succeedAfter=2&uuid=a"),
        get("/retry/code-500-attempts-3?responseCode=500&succeedAfter=4&uuid=b").status(500),
        get("/retry/code-500-attempts-3?responseCode=503&succeedAfter=2&uuid=c").status(503),
        get("/retry/code-all-attempts-2?responseCode=500&succeedAfter=1&uuid=d"),
        get("/retry/code-all-attempts-2?responseCode=500&succeedAfter=3&uuid=e").status(500),
        get("/retry/code-all-attempts-2?responseCode=502&succeedAfter=1&uuid=f"),
        get("/retry/code-all-attempts-2?responseCode=502&succeedAfter=3&uuid=g").status(502),
        get("/retry/code-all-attempts-2?responseCode=503&succeedAfter=1&uuid=h"),
        get("/retry/code-all-attempts-2?responseCode=503&succeedAfter=3&uuid=i").status(503),
        get("/retry/code-all-attempts-2?responseCode=504&succeedAfter=1&uuid=j"),
        get("/retry/code-all-attempts-2?responseCode=504&succeedAfter=3&uuid=k").status(504),
    ];
    vec![
        case("HTTPRouteTimeoutRequest", request),
        case("HTTPRouteTimeoutBackendRequest", backend_request),
        case("HTTPRouteRetry", retry),
    ]
}

fn mirrors() -> Vec<Case> {
    let to = |path| get(path).backend("echo-v1").sees_path(path);
    vec![
        Case {
            mirrored: vec![
                ("echo-v2", "/mirror", 1, 1),
                ("echo-v2", "/mirror-and-modify-headers", 1, 1),
            ],
            ..case(
                "HTTPRouteRequestMirror",
                vec![to("/mirror"), modified(to("/mirror-and-modify-headers"))],
            )
        },
        Case {
            mirrored: vec![
                ("echo-v2", "/multi-mirror", 1, 1),
                ("far-echo-v1", "/multi-mirror", 1, 1),
            ],
            ..case("HTTPRouteRequestMultipleMirrors", vec![to("/multi-mirror")])
        },
        // Of 500, 20 % and 50 %: within five standard deviations.
        Case {
            mirrored: vec![
                ("echo-v2", "/percent-mirror", 56, 144),
                ("echo-v2", "/percent-mirror-fraction", 195, 305),
            ],
            ..case(
                "HTTPRouteRequestPercentageMirror",
                vec![
                    to("/percent-mirror").times(500),
                    to("/percent-mirror-fraction").times(500),
                ],
            )
        },
    ]
}

fn grpc() -> Vec<Case> {
    let named = || vec![call(ECHO).backend("echo-v1"), call(ECHO_TWO).backend("echo-v2")];
    let mut exact = named();
    exact.push(call(ECHO_THREE).status(UNIMPLEMENTED));
    vec![
        case("GRPCExactMethodMatching", exact),
        case("GRPCRouteHeaderMatching", by_headers(&|| call(ECHO), UNIMPLEMENTED)),
        case("GRPCRouteNamedRule", named()),
    ]
}

fn streams() -> Vec<Case> {
    let shares = [("echo-v1", 0.7), ("echo-v2", 0.3), ("far-echo-v1", 0.0)];
    vec![
        case("TCPRouteWeightedRouting", vec![line().shares(500, &shares)]),
        Case {
            condition: Some(["ResolvedRefs", "False", "BackendNotFound"]),
            ..case("TCPRouteInvalidBackendRefNonexistent", vec![line().status(CLOSED)])
        },
        case(
            "TLSRouteSimpleSameNamespace",
            vec![
                tls("abc.example.com").backend("echo-v1"),
                tls("other.example.com").status(CLOSED),
            ],
        ),
        case(
            "TLSRouteHostnameIntersection",
            vec![
                tls("abc.example.com").backend("echo-v1"),
                tls("other.example.com").backend("echo-v2"),
                tls("abc.example.org").status(CLOSED),
            ],
        ),
    ]
}
