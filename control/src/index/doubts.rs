//! What is valid, acts as it is written, and is hardly meant: rules that lead nowhere, redirects to where a request was going,
//! policies that say nothing, mistyped protocols.

use http::{HeaderMap, Method};
use weft_model::filter::Scheme;
use weft_model::route::RequestHead;

use super::filter::{NewPath, Redirect};
use super::route::{Route, Rule};
use crate::objects::Object;
use crate::objects::near::near;
use crate::objects::service::APP_PROTOCOLS;

/// Something that is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    /// The field.
    pub(super) field: String,
    /// What comes of it.
    pub(super) message: String,
    /// What may be meant.
    pub(super) fix: String,
}

/// Of a route.
pub(super) fn of_route(route: &Route, object: &Object) -> Vec<Doubt> {
    if route.about.is_of_streams() {
        return Vec::new();
    }
    let written = object.raw.pointer("/spec/rules").and_then(|rules| rules.as_array());
    let written = written.map_or(0, Vec::len);
    let mut doubts = Vec::new();
    for (i, rule) in route.rules.iter().enumerate() {
        let field = if written == 0 {
            "spec.rules".to_owned()
        } else {
            format!("spec.rules[{i}]")
        };
        match &rule.filters.redirect {
            None if rule.backends.iter().all(|backend| backend.weight == 0) => doubts.push(Doubt {
                field,
                message: "has no backend that takes requests: what it matches is answered with 500".to_owned(),
                fix: "write backendRefs with a weight above 0, or a RequestRedirect".to_owned(),
            }),
            Some(redirect) if returns(route, i, redirect) => doubts.push(Doubt {
                field: format!("{field}.filters"),
                message: "redirects to where the request was going, so its client comes back for ever".to_owned(),
                fix: "name another hostname or path, or match less".to_owned(),
            }),
            _ => {}
        }
    }
    doubts
}

/// Whether a redirect leads to what its own rule matches.
fn returns(route: &Route, own: usize, redirect: &Redirect) -> bool {
    let Redirect {
        scheme,
        host,
        port,
        path,
        ..
    } = redirect;
    if host.is_some() || port.is_some() || matches!(scheme, Some(Scheme::Https)) {
        return false;
    }
    let path = match path {
        None => return scheme.is_none(),
        Some(NewPath::Full(path)) => path,
        Some(NewPath::Prefix(_)) => return false,
    };
    let (method, headers) = (Method::GET, HeaderMap::new());
    let head = RequestHead {
        method: &method,
        path,
        query: None,
        headers: &headers,
    };
    let takes = |rule: &Rule| rule.matches.iter().any(|ranked| ranked.matches.matches(&head));
    // Another rule may come first; then the client is served there.
    let others = route.rules.iter().enumerate().filter(|(i, _)| *i != own);
    takes(&route.rules[own]) && !others.into_iter().any(|(_, rule)| takes(rule))
}

/// Of a Service: an `appProtocol` that declares nothing, and is nearly one that does.
pub(super) fn of_service(object: &Object) -> Vec<Doubt> {
    let ports = object.raw.pointer("/spec/ports").and_then(|ports| ports.as_array());
    let ports = ports.into_iter().flatten().enumerate();
    let doubt = |(i, port): (usize, &serde_json::Value)| {
        let written = port.get("appProtocol")?.as_str()?;
        let is_known = APP_PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(written));
        let meant = near(written, APP_PROTOCOLS).filter(|_| !is_known)?;
        Some(Doubt {
            field: format!("spec.ports[{i}].appProtocol"),
            message: format!("{written:?} declares nothing, so the bytes tell what is spoken"),
            fix: format!("did you mean {meant}?"),
        })
    };
    ports.filter_map(doubt).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weft_model::identity::TrustDomain;

    use crate::index::{Index, Settings};
    use crate::manifests::{Writer, parse};
    use crate::objects::Kinds;

    const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.96.0.1, ports: [{name: one, port: 80, appProtocol: PROTOCOL}]}
---
";

    fn said(text: &str) -> Vec<String> {
        let mut index = Index::new(Settings {
            trust_domain: TrustDomain::new("td").unwrap(),
            cluster: "one".to_owned(),
            network: "c".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        });
        index.replace(&parse(Path::new("a.yaml"), text, Writer::User, &Kinds::control()).unwrap());
        let problems = index.problems().into_iter();
        problems
            .map(|p| format!("{} {}: {} ({})", p.severity, p.field, p.message, p.fix))
            .collect()
    }

    fn route(rules: &str) -> Vec<String> {
        said(&format!(
            "{}apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: a}}]\n{rules}",
            SERVICES.replace("PROTOCOL", "http")
        ))
    }

    #[test]
    fn a_rule_without_a_backend_is_told_and_one_that_redirects_is_not() {
        for rules in [
            "",
            "  rules: [{matches: [{path: {value: /a}}]}]\n",
            "  rules: [{backendRefs: [{name: a, port: 80, weight: 0}]}]\n",
        ] {
            let [only] = &route(rules)[..] else {
                panic!("{:?}", route(rules))
            };
            assert!(
                only.starts_with("warning spec.rules") && only.contains("answered with 500"),
                "{only}"
            );
        }
        assert_eq!(route("  rules: [{backendRefs: [{name: a, port: 80}]}]\n"), [""; 0]);
    }

    #[test]
    fn a_redirect_to_itself_is_told_and_one_that_leads_elsewhere_is_not() {
        let redirect = |matches: &str, redirect: &str, more: &str| {
            route(&format!(
                "  rules:\n  - matches: [{{path: {matches}}}]\n    filters: [{{type: RequestRedirect, requestRedirect: {redirect}}}]\n{more}"
            ))
        };
        let whole = "{type: PathPrefix, value: /}";
        let full = "{path: {type: ReplaceFullPath, replaceFullPath: /closed}}";
        for to in ["{statusCode: 302}", full] {
            let said = redirect(whole, to, "");
            assert!(said.len() == 1 && said[0].contains("for ever"), "{to}: {said:?}");
        }
        for to in ["{hostname: b.example}", "{scheme: https}", "{port: 8080}"] {
            assert_eq!(redirect(whole, to, ""), [""; 0], "{to}");
        }
        let served = "  - matches: [{path: {type: Exact, value: /closed}}]\n    backendRefs: [{name: a, port: 80}]\n";
        assert_eq!(redirect(whole, full, served), [""; 0]);
        assert_eq!(redirect("{type: Exact, value: /open}", full, ""), [""; 0]);
    }

    #[test]
    fn a_nearly_known_protocol_is_told_and_a_foreign_one_is_not() {
        let told = said(&SERVICES.replace("PROTOCOL", "htpp"));
        assert_eq!(
            told,
            [
                "notice spec.ports[0].appProtocol: \"htpp\" declares nothing, so the bytes tell what is spoken (did you mean http?)"
            ]
        );
        for fine in ["mysql", "HTTP", "kubernetes.io/h2c", "example.com/custom"] {
            assert_eq!(said(&SERVICES.replace("PROTOCOL", fine)), [""; 0], "{fine}");
        }
    }

    #[test]
    fn a_policy_that_says_nothing_is_told_and_a_mistyped_target_is_named() {
        let policy = |spec: &str| {
            said(&format!(
                "{}apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: a}}\nspec: {spec}\n",
                SERVICES.replace("PROTOCOL", "http")
            ))
        };
        let target = "{group: '', kind: Service, name: a}";
        let said = policy(&format!("{{targetRefs: [{target}]}}"));
        assert!(
            said.len() == 1 && said[0].starts_with("warning spec: says nothing"),
            "{said:?}"
        );
        let said = policy(&format!("{{targetRef: {target}, timeouts: {{request: 1s}}}}"));
        assert!(
            said.iter().any(|said| said.contains("write targetRefs, a list")),
            "{said:?}"
        );
        assert_eq!(
            policy(&format!("{{targetRefs: [{target}], timeouts: {{request: 1s}}}}")),
            [""; 0]
        );
    }

    #[test]
    fn what_almost_names_a_subset_a_mirror_or_a_filter_is_answered_with_what_is_meant() {
        let said = route("  rules: [{backendRefs: [{kind: ServiceSubset, name: b, port: 80}]}]\n");
        assert!(said[0].contains("group: weft.dev"), "{said:?}");
        let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}}";
        let said = route(&format!(
            "  rules: [{{filters: [{mirror}], backendRefs: [{{name: a, port: 80}}]}}]\n"
        ));
        assert!(
            said[0].contains("no copies are sent there") && !said[0].contains("500"),
            "{said:?}"
        );
        let said = route("  rules: [{filters: [{type: RequestMiror}], backendRefs: [{name: a, port: 80}]}]\n");
        assert!(said[0].contains("did you mean RequestMirror?"), "{said:?}");
    }
}
