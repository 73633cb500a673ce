//! What a container asks for, as `resourceFieldRef` tells it. Nothing here limits a container. Pure.

use serde_json::Value;

use super::raw::{Container, PodSpec, ResourceRef};

/// The resources that may be referred to.
const KNOWN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Below the reference: the field that is wrong, what is wrong, and the fix.
pub(super) type Wrong = (&'static str, String, &'static str);

/// The number that a reference stands for: the quantity over the divisor, rounded up.
///
/// # Errors
/// It refers to something that the manifest does not say. Kubernetes would take the node's own; a local container has no
/// part of the machine that would be its own.
pub(super) fn value(spec: &PodSpec, own: &Container, reference: &ResourceRef) -> Result<u128, Wrong> {
    let mut containers = spec.init_containers.iter().chain(&spec.containers);
    let container = match reference.container_name.as_str() {
        "" => own,
        name => containers.find(|container| container.name == name).ok_or_else(|| {
            let message = format!("there is no container {name:?}");
            (
                ".containerName",
                message,
                "take the name of one of the pod's containers",
            )
        })?,
    };
    let (list, name) = reference.resource.split_once('.').unwrap_or_default();
    let resources = &container.resources;
    let asked = match list {
        "limits" => resources.limits.get(name),
        // As an API server fills them in.
        "requests" => resources.requests.get(name).or_else(|| resources.limits.get(name)),
        _ => None,
    };
    if !KNOWN.contains(&name) || !matches!(list, "limits" | "requests") {
        let fix = "take limits or requests of cpu, memory or ephemeral-storage";
        return Err((".resource", format!("{:?} is not known here", reference.resource), fix));
    }
    let Some(asked) = asked else {
        let message = format!("the container says nothing of {}", reference.resource);
        return Err((
            ".resource",
            message,
            "add it to its resources, or give the variable a value",
        ));
    };
    let fix = "write it like 500m, 64Mi or 2";
    let asked = thousandths(asked).ok_or((".resource", format!("{asked} is no quantity"), fix))?;
    let divisor = match &reference.divisor {
        // "0" is the API server's own way to say nothing.
        None | Some(Value::Null) => 1000,
        Some(divisor) => match thousandths(divisor) {
            Some(0) => 1000,
            Some(divisor) => divisor,
            None => return Err((".divisor", format!("{divisor} is no quantity"), fix)),
        },
    };
    Ok(asked.div_ceil(divisor))
}

/// Whether Kubernetes takes this for a quantity: a number with `m`, `k`, `Mi` or the like behind it, or with an exponent.
pub(super) fn is_quantity(value: &Value) -> bool {
    const SUFFIXES: [&str; 16] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let text = match value {
        Value::Number(_) => return true,
        Value::String(text) => text.as_str(),
        _ => return false,
    };
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let is_exponent = |suffix: &str| {
        suffix
            .strip_prefix(['e', 'E'])
            .is_some_and(|n| n.parse::<i32>().is_ok())
    };
    number.parse::<f64>().is_ok() && (SUFFIXES.contains(&suffix) || is_exponent(suffix))
}

/// A quantity in thousandths, rounded up: `500m`, `1.5Gi`, `2`.
fn thousandths(value: &Value) -> Option<u128> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || part.len() > 9 || whole.len() > 18 {
        return None;
    }
    // Thousandths of the factor, so that `m` is a whole number.
    let factor: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1000_u128.pow(2),
        "M" => 1000_u128.pow(3),
        "G" => 1000_u128.pow(4),
        "T" => 1000_u128.pow(5),
        "P" => 1000_u128.pow(6),
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        _ => return None,
    };
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    Some(digits.checked_mul(factor)?.div_ceil(scale))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, want) in [
            (json!("500m"), Some(500)),
            (json!(2), Some(2000)),
            (json!(0.5), Some(500)),
            (json!("1.5Gi"), Some((1000 * 3) << 29)),
            (json!("64M"), Some(64_000_000_000)),
            (json!("x"), None),
            (json!("1Xi"), None),
            (json!(""), None),
            (json!(true), None),
        ] {
            assert_eq!(thousandths(&text), want, "{text}");
        }
    }

    #[track_caller]
    fn check(reference: Value, want: Result<u128, &str>) {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
            {"name": "b"},
        ]}});
        let spec = crate::manifest::pod::view(&pod).unwrap();
        let reference: ResourceRef = serde_json::from_value(reference).unwrap();
        let got = value(&spec, &spec.containers[0], &reference).map_err(|(field, _, _)| field);
        assert_eq!(got, want);
    }

    #[test]
    fn a_reference_is_the_quantity_over_the_divisor_rounded_up() {
        check(json!({"resource": "limits.cpu"}), Ok(2));
        check(json!({"resource": "limits.cpu", "divisor": "1m"}), Ok(1500));
        check(json!({"resource": "requests.cpu", "divisor": "0"}), Ok(1));
        check(json!({"resource": "limits.memory", "divisor": "1Mi"}), Ok(64));
        check(json!({"resource": "requests.memory"}), Ok(64 << 20));
    }

    #[test]
    fn what_the_manifest_does_not_say_is_refused() {
        check(
            json!({"resource": "limits.cpu", "containerName": "b"}),
            Err(".resource"),
        );
        check(
            json!({"resource": "limits.cpu", "containerName": "c"}),
            Err(".containerName"),
        );
        check(json!({"resource": "limits.gpu"}), Err(".resource"));
        check(json!({"resource": "cpu"}), Err(".resource"));
        check(json!({"resource": "limits.cpu", "divisor": "x"}), Err(".divisor"));
    }
}
