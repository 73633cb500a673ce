//! Whether Weft's own parts are there and well.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::cluster::denied;
use super::finding::{Finding, Report, note, wrong};
use super::seen::Seen;
use crate::cluster::api::Answer;
use crate::install::WEFT;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const DAY: u64 = 24 * 3600;
/// The webhook's certificate is replaced after two thirds of its life: with less it is not.
const WEBHOOK_LEFT: Duration = Duration::from_secs(7 * DAY);
/// A root is replaced by hand, and that takes planning.
const ROOT_LEFT: Duration = Duration::from_secs(60 * DAY);

/// How an installation is made or made whole, with a value more or none. Values that are not given again are lost.
pub(super) fn install(namespace: &str, value: &str) -> String {
    let namespace = match namespace {
        "weft-system" => String::new(),
        other => format!(" -n {other}"),
    };
    format!(
        "weft install{namespace}{value} | kubectl apply --server-side -f -, with the values (-f, --set) that it has"
    )
}

/// Where the cluster's Weft is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installed {
    /// In the namespace that was asked for, or a part of it.
    Here,
    /// In another one.
    Elsewhere,
    /// There is none.
    Nowhere,
}

/// Our CRDs, Deployments, what they may do, the webhook, the root. Says whether there is anything.
pub(super) fn check(seen: &Seen, report: &mut Report) -> Installed {
    let hook = seen.own.get("webhook").and_then(Answer::object);
    let elsewhere = hook.and_then(|hook| hook["webhooks"][0]["clientConfig"]["service"]["namespace"].as_str());
    if let Some(other) = elsewhere.filter(|other| *other != seen.namespace) {
        let at = format!("Namespace {}", seen.namespace);
        let what = format!("the cluster's Weft is in another namespace, {other}");
        report.tell(
            "Weft is installed",
            vec![wrong(at, what, format!("weft check -n {other}"))],
        );
        return Installed::Elsewhere;
    }
    let parts = ["Deployment weft-control", "Deployment weft-injector", "webhook"];
    if parts.iter().all(|part| seen.own.get(part) == Some(&Answer::Missing)) {
        let at = format!("Namespace {}", seen.namespace);
        let what = "nothing of Weft is there; another namespace is given by -n";
        report.tell("Weft is installed", vec![wrong(at, what, install(&seen.namespace, ""))]);
        return Installed::Nowhere;
    }
    report.tell("Weft's CRDs", crds(seen));
    report.tell(format!("Weft's own namespace, {}", seen.namespace), namespace(seen));
    for name in ["weft-control", "weft-injector"] {
        report.tell(format!("Deployment {name}"), deployment(seen, name));
    }
    let account = denied(seen, "ServiceAccounts of Weft", &install(&seen.namespace, ""));
    report.tell("what Weft's own ServiceAccounts need, they may do", account);
    // What those make is not there before they ran once: to tell of it beside their image would hide what is wrong.
    if imageless(seen, "weft-injector").is_none() {
        report.tell("the webhook", webhook(seen));
    }
    if imageless(seen, "weft-control").is_none() {
        let (title, findings) = root(seen);
        report.tell(title, findings);
    }
    Installed::Here
}

/// What to say of an object that could not be read.
fn unread(answer: Option<&Answer>, at: &str, fix: &str) -> Vec<Finding> {
    match answer {
        Some(Answer::Forbidden(why)) => vec![note(at, format!("you may not read it: {why}"), "")],
        _ => vec![wrong(at, "is missing", fix)],
    }
}

fn crds(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in super::seen::CRDS.into_iter().filter(|name| name.ends_with(".weft.dev")) {
        let at = format!("CustomResourceDefinition {name}");
        match seen.crds.get(name) {
            Some(Answer::Is(crd)) => {
                let labels = &crd["metadata"]["labels"];
                let version = labels["app.kubernetes.io/version"].as_str().unwrap_or("of no version");
                if version != VERSION {
                    findings.push(note(
                        at,
                        format!("is {version}, and this is weft {VERSION}"),
                        install(&seen.namespace, ""),
                    ));
                }
            }
            other => findings.extend(unread(other, &at, &install(&seen.namespace, ""))),
        }
    }
    findings
}

fn namespace(seen: &Seen) -> Vec<Finding> {
    let at = format!("Namespace {}", seen.namespace);
    let answer = seen.own.get("Namespace");
    let Some(namespace) = answer.and_then(Answer::object) else {
        return unread(answer, &at, &install(&seen.namespace, ""));
    };
    let labels = &namespace["metadata"]["labels"];
    let mut findings = Vec::new();
    if labels["pod-security.kubernetes.io/enforce"] != "restricted" {
        findings.push(note(
            &at,
            "is not under the Pod Security level restricted, which Weft's own pods keep",
            format!(
                "kubectl label namespace {} pod-security.kubernetes.io/enforce=restricted",
                seen.namespace
            ),
        ));
    }
    if labels[weft_injector::annotations::INJECT_LABEL] == "enabled" {
        findings.push(note(
            &at,
            "is labelled for the mesh, of which Weft's own pods are never a part",
            format!(
                "kubectl label namespace {} {}-",
                seen.namespace,
                weft_injector::annotations::INJECT_LABEL
            ),
        ));
    }
    findings
}

/// Of one of our Deployments.
pub(super) fn deployment(seen: &Seen, name: &'static str) -> Vec<Finding> {
    let at = format!("Deployment {}/{name}", seen.namespace);
    let answer = seen
        .own
        .iter()
        .find(|(key, _)| **key == format!("Deployment {name}"))
        .map(|(_, answer)| answer);
    let Some(deployment) = answer.and_then(Answer::object) else {
        return unread(answer, &at, &install(&seen.namespace, ""));
    };
    let mut findings = Vec::new();
    let number = |path: &str| deployment.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let (wanted, ready) = (number("/spec/replicas"), number("/status/readyReplicas"));
    let look = format!(
        "kubectl -n {0} describe pods -l app.kubernetes.io/name=weft; kubectl -n {0} logs deploy/{name}",
        seen.namespace
    );
    if wanted == 0 {
        let fix = format!("kubectl -n {} scale deployment {name} --replicas=2", seen.namespace);
        findings.push(wrong(&at, "it is to have no pods (spec.replicas is 0)", fix));
    } else if ready < wanted {
        let count = format!("{ready} of {wanted} pods are ready");
        let (what, fix) = match (imageless(seen, name), waits(seen, name)) {
            (Some((reason, image)), _) => (format!("{count}: {reason}, the image {image} is not to be had"), load()),
            (None, Some((reason, _))) => (format!("{count}: {reason}"), look.clone()),
            (None, None) => (count, look.clone()),
        };
        findings.push(wrong(&at, what, fix));
    } else if number("/status/updatedReplicas") < wanted {
        findings.push(note(&at, "a roll-out is under way", look));
    }
    let version = &deployment["metadata"]["labels"]["app.kubernetes.io/version"];
    if *version != VERSION {
        let version = version.as_str().unwrap_or("of no version");
        findings.push(note(
            &at,
            format!("is {version}, and this is weft {VERSION}"),
            install(&seen.namespace, ""),
        ));
    }
    findings
}

/// What a pod of a Deployment waits for without any of them being ready, and its image.
fn waits<'a>(seen: &'a Seen, name: &str) -> Option<(&'a str, &'a str)> {
    let of = |object: &'a Value, path: &str| object.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let pods = seen.own.get("pods").and_then(Answer::object)?;
    let pods = of(pods, "/items").filter(|pod| {
        let component = pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str();
        component == name.strip_prefix("weft-")
    });
    let mut containers = pods.flat_map(|pod| of(pod, "/status/containerStatuses"));
    containers.find_map(|container| {
        let reason = container["state"]["waiting"]["reason"].as_str();
        let reason = reason.filter(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"))?;
        Some((reason, container["image"].as_str().unwrap_or_default()))
    })
}

/// The same, where none of its pods is ready and it is the image that is missing.
fn imageless<'a>(seen: &'a Seen, name: &str) -> Option<(&'a str, &'a str)> {
    let reasons = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
    ];
    let deployment = seen
        .own
        .iter()
        .find(|(key, _)| key.strip_prefix("Deployment ") == Some(name));
    let deployment = deployment.and_then(|(_, answer)| answer.object())?;
    let is_ready = deployment["status"]["readyReplicas"].as_u64() > Some(0);
    waits(seen, name).filter(|(reason, _)| !is_ready && reasons.contains(reason))
}

/// How the image comes to the nodes.
fn load() -> String {
    "load it on every node (`./x image` makes target/image/weft.tar, for `kind load image-archive` or `ctr -n k8s.io images \
     import`), or push it to a registry and install with --set image.repository=REPOSITORY"
        .to_owned()
}

fn webhook(seen: &Seen) -> Vec<Finding> {
    let at = "MutatingWebhookConfiguration weft-injector";
    let answer = seen.own.get("webhook");
    let Some(configuration) = answer.and_then(Answer::object) else {
        return unread(answer, at, &install(&seen.namespace, ""));
    };
    let hook = &configuration["webhooks"][0];
    let mut findings = Vec::new();
    let fix = format!(
        "the injector writes it: kubectl -n {} logs deploy/weft-injector",
        seen.namespace
    );
    let bundle = text(&hook["clientConfig"]["caBundle"]);
    let secret = seen.own.get("Secret weft-webhook").and_then(Answer::object);
    let ca = secret.map(|secret| text(&secret["data"]["ca.crt"])).unwrap_or_default();
    if bundle.is_empty() {
        findings.push(wrong(at, "has no caBundle, so API servers can't call the webhook", fix));
    } else if !bundle.contains(ca.trim()) {
        let what = "its caBundle lacks the CA of the Secret weft-webhook, so API servers may not trust the webhook";
        findings.push(wrong(at, what, fix));
    }
    findings.extend(selectors(seen, hook, at));
    if hook["failurePolicy"] == "Ignore" {
        let what = "failurePolicy is Ignore: while the webhook is away pods start without their proxy";
        findings.push(note(
            at,
            what,
            install(&seen.namespace, " --set injector.failurePolicy=Fail"),
        ));
    }
    for service in ["weft-control", "weft-injector"] {
        let key = format!("endpoints of {service}");
        let answer = seen
            .own
            .iter()
            .find(|(name, _)| **name == key)
            .map(|(_, answer)| answer);
        if let Some(Answer::Forbidden(_)) = answer {
            findings.extend(unread(answer, &format!("EndpointSlices of {service}"), ""));
            continue;
        }
        if imageless(seen, service).is_some() {
            continue;
        }
        let slices = answer.and_then(Answer::object);
        let slices = slices.and_then(|list| list["items"].as_array()).into_iter().flatten();
        let mut endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        if !endpoints.any(|endpoint| endpoint["conditions"]["ready"] != false) {
            let fix = format!("kubectl -n {} get pods -l app.kubernetes.io/name=weft", seen.namespace);
            findings.push(wrong(
                format!("Service {}/{service}", seen.namespace),
                "has no endpoint that is ready",
                fix,
            ));
        }
    }
    findings.extend(certificate(seen));
    findings
}

/// Selectors and rules as they are installed. Wider ones reach pods that the cluster itself needs.
fn selectors(seen: &Seen, hook: &Value, at: &str) -> Vec<Finding> {
    let rendered = WEFT.defaults().and_then(|values| WEFT.render(&values, &seen.namespace));
    let objects = rendered
        .ok()
        .and_then(|text| crate::install::documents(&text).ok())
        .unwrap_or_default();
    let Some(own) = objects
        .iter()
        .find(|object| object["kind"] == "MutatingWebhookConfiguration")
    else {
        return Vec::new();
    };
    let parts = ["namespaceSelector", "objectSelector", "rules", "matchConditions"];
    let changed = parts
        .into_iter()
        .filter(|part| hook[*part] != own["webhooks"][0][*part]);
    let what = |part| {
        wrong(
            at,
            format!("{part} is not the one that weft {VERSION} installs"),
            install(&seen.namespace, ""),
        )
    };
    changed.map(what).collect()
}

fn certificate(seen: &Seen) -> Vec<Finding> {
    let at = format!("Secret {}/weft-webhook", seen.namespace);
    let answer = seen.own.get("Secret weft-webhook");
    let fix = format!("kubectl -n {} rollout restart deployment weft-injector", seen.namespace);
    let Some(secret) = answer.and_then(Answer::object) else {
        return unread(answer, &at, &fix);
    };
    lifetime(secret, "tls.crt", seen.now, WEBHOOK_LEFT, &at, &fix).1
}

fn root(seen: &Seen) -> (String, Vec<Finding>) {
    let at = format!("Secret {}/weft-authority", seen.namespace);
    let answer = seen.own.get("Secret weft-authority");
    let fix = format!(
        "the control plane makes it: kubectl -n {} logs deploy/weft-control",
        seen.namespace
    );
    let Some(secret) = answer.and_then(Answer::object) else {
        return ("the mesh's root".to_owned(), unread(answer, &at, &fix));
    };
    let fix = "replace the Secret's tls.crt and tls.key, or have cert-manager renew it, before it ends";
    let (left, findings) = lifetime(secret, "tls.crt", seen.now, ROOT_LEFT, &at, fix);
    let title = left.map_or_else(String::new, |left| format!(", for {} days more", left.as_secs() / DAY));
    (format!("the mesh's root{title}"), findings)
}

/// What is in a field of bytes, as text.
fn text(field: &Value) -> String {
    let bytes = serde_json::from_value::<ByteString>(field.clone());
    bytes.map_or_else(
        |_| String::new(),
        |ByteString(bytes)| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

/// How long the certificates of a Secret's field are valid yet, the first of them to end.
fn lifetime(
    secret: &Value,
    field: &str,
    now: SystemTime,
    least: Duration,
    at: &str,
    fix: &str,
) -> (Option<Duration>, Vec<Finding>) {
    let bytes = serde_json::from_value::<ByteString>(secret["data"][field].clone());
    let ends = bytes.ok().and_then(|ByteString(pem)| first_end(&pem));
    let Some(ends) = ends else {
        return (None, vec![wrong(at, format!("{field} holds no certificate"), fix)]);
    };
    match ends.duration_since(now) {
        Err(_) => (
            None,
            vec![wrong(at, format!("the certificate in {field} has ended"), fix)],
        ),
        Ok(left) if left < least => {
            let what = format!("the certificate in {field} ends in {} h", left.as_secs() / 3600);
            (Some(left), vec![wrong(at, what, fix)])
        }
        Ok(left) => (Some(left), Vec::new()),
    }
}

/// When the first of some certificates ends.
fn first_end(pem: &[u8]) -> Option<SystemTime> {
    let ends = Pem::iter_from_buffer(pem).map(|pem| {
        let seconds = pem.ok()?.parse_x509().ok()?.validity().not_after.timestamp();
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
    });
    ends.collect::<Option<Vec<_>>>()?.into_iter().min()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen() -> Seen {
        let rendered = WEFT.render(&WEFT.defaults().unwrap(), "weft-system").unwrap();
        let objects = crate::install::documents(&rendered).unwrap();
        let find = |kind: &str, name: &str| {
            let found = objects
                .iter()
                .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
            let mut found = found.unwrap().clone();
            found["status"] = json!({"readyReplicas": 1, "updatedReplicas": 1});
            found
        };
        let mut hook = find("MutatingWebhookConfiguration", "weft-injector");
        hook["webhooks"][0]["clientConfig"]["caBundle"] = json!("Q0E=");
        let slices = json!({"items": [{"endpoints": [{"conditions": {"ready": true}}]}]});
        let own = [
            (
                "Namespace",
                json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}),
            ),
            ("Deployment weft-control", find("Deployment", "weft-control")),
            ("Deployment weft-injector", find("Deployment", "weft-injector")),
            ("webhook", hook),
            ("endpoints of weft-control", slices.clone()),
            ("endpoints of weft-injector", slices),
            ("Secret weft-webhook", secret(90)),
            ("Secret weft-authority", secret(3650)),
        ];
        Seen {
            own: own
                .into_iter()
                .map(|(name, object)| (name, Answer::Is(object)))
                .collect(),
            ..Seen::nothing("weft-system")
        }
    }

    /// A Secret with a certificate that ends in so many days.
    fn secret(days: i64) -> Value {
        let mut params = rcgen::CertificateParams::default();
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        json!({"data": {"tls.crt": ByteString(certificate.into_bytes())}})
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Seen), said: &str) {
        let mut seen = seen();
        change(&mut seen);
        let mut all = webhook(&seen);
        all.extend(namespace(&seen));
        all.extend(deployment(&seen, "weft-control"));
        all.extend(root(&seen).1);
        let texts: Vec<String> = all
            .iter()
            .map(|finding| format!("{}: {}", finding.at, finding.what))
            .collect();
        match said {
            "" => assert_eq!(texts, Vec::<String>::new()),
            said => assert!(texts.len() == 1 && texts[0].contains(said), "{texts:?}"),
        }
    }

    fn own<'a>(seen: &'a mut Seen, name: &'static str) -> &'a mut Value {
        match seen.own.get_mut(name) {
            Some(Answer::Is(value)) => value,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_image_that_no_node_has_is_named_and_what_follows_from_it_is_not_told() {
        let mut seen = seen();
        let pod = |component: &str, reason: &str| {
            let state = json!({"waiting": {"reason": reason}});
            json!({"metadata": {"labels": {"app.kubernetes.io/component": component}},
                "status": {"containerStatuses": [{"image": "weft.dev/weft:0.1", "state": state}]}})
        };
        let pods = json!({"items": [pod("control", "ImagePullBackOff"), pod("injector", "ErrImagePull")]});
        seen.own.insert("pods", Answer::Is(pods));
        for key in ["Deployment weft-control", "Deployment weft-injector"] {
            own(&mut seen, key)["status"] = json!({});
        }
        let crd = json!({"metadata": {"labels": {"app.kubernetes.io/version": VERSION}}});
        for name in super::super::seen::CRDS {
            seen.crds.insert(name, Answer::Is(crd.clone()));
        }
        // As they are before an injector and a control plane ran once.
        own(&mut seen, "webhook")["webhooks"][0]["clientConfig"]["caBundle"] = json!("");
        for made in ["Secret weft-webhook", "Secret weft-authority"] {
            seen.own.insert(made, Answer::Missing);
        }
        let said = |seen: &Seen| {
            let mut report = Report::default();
            assert_eq!(super::check(seen, &mut report), Installed::Here);
            report.json()["findings"].as_array().unwrap().clone()
        };
        let findings = said(&seen);
        assert_eq!(findings.len(), 2, "{findings:#?}");
        let control = findings[0].to_string();
        for part in [
            "0 of 1 pods are ready: ImagePullBackOff",
            "weft.dev/weft:0.1",
            "kind load image-archive",
        ] {
            assert!(control.contains(part), "{part:?} is not in {control}");
        }
        seen.own.insert(
            "pods",
            Answer::Is(json!({"items": [pod("control", "CrashLoopBackOff")]})),
        );
        let findings = said(&seen);
        assert!(
            findings.len() > 2 && findings[0]["what"].to_string().contains("CrashLoopBackOff"),
            "{findings:#?}"
        );
    }

    #[test]
    fn what_is_installed_and_well_has_no_findings_and_each_fault_has_one() {
        check(|_| {}, "");
        check(
            |seen| own(seen, "webhook")["webhooks"][0]["clientConfig"]["caBundle"] = json!(""),
            "no caBundle",
        );
        check(
            |seen| own(seen, "Secret weft-webhook")["data"]["ca.crt"] = json!(ByteString(b"another".to_vec())),
            "lacks the CA",
        );
        check(
            |seen| own(seen, "webhook")["webhooks"][0]["namespaceSelector"] = json!({}),
            "namespaceSelector is not",
        );
        check(
            |seen| own(seen, "webhook")["webhooks"][0]["failurePolicy"] = json!("Ignore"),
            "failurePolicy is Ignore",
        );
        check(
            |seen| *own(seen, "endpoints of weft-injector") = json!({"items": []}),
            "no endpoint that is ready",
        );
        check(
            |seen| {
                drop(
                    seen.own
                        .insert("endpoints of weft-injector", Answer::Forbidden("no".into())),
                );
            },
            "EndpointSlices of weft-injector: you may not read it",
        );
        check(|seen| *own(seen, "Secret weft-webhook") = secret(3), "ends in 7");
        check(|seen| *own(seen, "Secret weft-webhook") = secret(-1), "has ended");
        check(
            |seen| *own(seen, "Secret weft-authority") = secret(30),
            "weft-authority: the certificate",
        );
        check(
            |seen| *own(seen, "Secret weft-authority") = json!({}),
            "holds no certificate",
        );
        check(
            |seen| own(seen, "Deployment weft-control")["status"] = json!({}),
            "0 of 1 pods are ready",
        );
        check(
            |seen| own(seen, "Namespace")["metadata"] = json!({}),
            "Pod Security level restricted",
        );
        check(
            |seen| drop(seen.own.remove("Secret weft-authority")),
            "weft-authority: is missing",
        );
        check(
            |seen| drop(seen.own.insert("Secret weft-authority", Answer::Forbidden("no".into()))),
            "you may not read it",
        );
    }
}
