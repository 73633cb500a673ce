//! `weft status`: what runs, what is configured, and which proxies know it.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use crate::args::{Output, StatusArgs};
use crate::protocols;
use crate::scrape::{self, Traffic};
use crate::table::Table;
use crate::target;
use crate::yaml;

pub(crate) mod text;

use text::{list, text, width};

/// Prints the state of a mesh.
pub(crate) async fn main(args: StatusArgs) -> Result<ExitCode> {
    let mesh = target::mesh(&args.target).await?;
    let scope = mesh.scope(args.namespace.as_deref(), args.all_namespaces);
    let mut status = mesh.status(&scope).await?;
    mesh.add_callers(&scope, &mut status).await;
    for missing in list(&status["missing"]).iter().filter_map(Value::as_str) {
        eprintln!("weft status: {missing}");
    }
    let unheard = protocols::add(&mesh, &mut status).await;
    if !unheard.is_empty() {
        eprintln!("weft status: no protocols from {}", scrape::few(&unheard));
    }
    let is_for_people = matches!(args.output, Output::Text | Output::Wide);
    let traffic = match is_for_people || args.window.is_some() {
        true => Some(scrape::traffic(&mesh, &status, args.window).await),
        false => None,
    };
    if let (Some(traffic), false) = (&traffic, is_for_people) {
        let services: Vec<Value> = traffic
            .services
            .iter()
            .map(|(service, calls)| calls.json(service))
            .collect();
        status["traffic"] = json!({
            "windowSeconds": args.window.map(|window| window.as_secs_f64()),
            "services": services, "silent": traffic.silent,
        });
    }
    if let Some(namespace) = scope.namespace() {
        if let (true, Some(said)) = (is_for_people, nothing_in(namespace, &status)) {
            let said = mesh.no_namespace(namespace).await.unwrap_or(said);
            eprintln!("weft status: {said}");
        }
        let keep = |items: &mut Value| {
            if let Some(items) = items.as_array_mut() {
                items.retain(|item| item["namespace"] == namespace);
            }
        };
        for list in ["pods", "jobs", "services", "imports", "routes", "objects", "proxies"] {
            keep(&mut status[list]);
        }
        if traffic.is_some() && !is_for_people {
            keep(&mut status["traffic"]["services"]);
        }
    }
    let said = match args.output {
        Output::Json => format!("{status:#}\n"),
        Output::Yaml => yaml::text(&status),
        Output::Text | Output::Wide => {
            let wide = args.output == Output::Wide;
            let table = traffic.unwrap_or_default();
            let table = told(&table, scope.namespace());
            let title = match args.window {
                Some(window) => format!("TRAFFIC OF {window:?}"),
                None => "TRAFFIC SINCE THE PROXIES STARTED".to_owned(),
            };
            text(&status, (&title, table), width().filter(|_| !wide), wide)
        }
    };
    // Whoever reads may have enough.
    let _ = io::stdout().write_all(said.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// What to say of a namespace in which nothing is.
fn nothing_in(namespace: &str, status: &Value) -> Option<String> {
    let lists = ["pods", "jobs", "services"]
        .iter()
        .flat_map(|name| list(&status[*name]));
    let mut others: Vec<&str> = lists.filter_map(|item| item["namespace"].as_str()).collect();
    if others.contains(&namespace) {
        return None;
    }
    others.sort_unstable();
    others.dedup();
    let others = match others.is_empty() {
        true if status["context"].is_string() => " (-A shows all namespaces of the mesh)".to_owned(),
        true => String::new(),
        false => format!("; there is something in {}", others.join(", ")),
    };
    Some(format!("nothing is in the namespace {namespace}{others}"))
}

/// What each Service got of traffic.
fn told(traffic: &Traffic, namespace: Option<&str>) -> Table {
    let mut table = Table::new(&["NAMESPACE", "SERVICE", "CALLS", "SUCCESS", "CALLS/S", "P50", "P99"]);
    for ((of, name), calls) in &traffic.services {
        if namespace.is_none_or(|namespace| namespace == of) {
            table.row([of.clone(), name.clone()].into_iter().chain(calls.cells()));
        }
    }
    if !traffic.silent.is_empty() {
        eprintln!("weft status: no metrics from {}", scrape::few(&traffic.silent));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_namespace_is_said_to_be_empty_and_one_with_anything_is_not() {
        let status =
            json!({"pods": [{"namespace": "shop"}, {"namespace": "street"}], "services": [{"namespace": "shop"}]});
        assert_eq!(
            nothing_in("shp", &status).as_deref(),
            Some("nothing is in the namespace shp; there is something in shop, street")
        );
        assert_eq!(nothing_in("shop", &status), None);
    }
}
