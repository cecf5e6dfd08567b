//! `tidelock apply -f FILE`: PUTs for the pools, endpoints and routes of a file, in its order.
//! What the API adds to its answers (phases, counts) is left out, so that they can be applied.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tidelock_core::id::Name;
use tidelock_core::spec::{EndpointSpec, PoolSpec, RouteSpec};

use super::Outcome;
use super::client::{Api, Failure};
use super::output::print_line;

const READ_ONLY_TOP: [&str; 7] = ["epoch", "node", "leader", "quorum", "nodes", "drains", "switchovers"];
const READ_ONLY_ENDPOINT: [&str; 8] =
    ["id", "phase", "health", "requests", "websockets", "event_streams", "drain", "by_node"];

#[derive(Args)]
pub(super) struct Options {
    /// JSON or TOML; - is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, PartialEq)]
struct Put {
    what: String,
    path: String,
    body: Value,
}

pub(super) async fn run(options: Options, api: &mut Api) -> anyhow::Result<Outcome> {
    let name = options.file.display().to_string();
    let mistake = |reason: String| Failure::Mistake(format!("{name}: {reason}"));
    let text = read(&options).map_err(|error| mistake(error.to_string()))?;
    let puts = parse(&text).and_then(plan).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("{name}: {problem}")).collect();
        Failure::Mistake(lines.join("\n"))
    })?;
    if puts.is_empty() {
        return Err(mistake("names no pools and no routes".into()).into());
    }
    let all = puts.len();
    for (done, put) in puts.into_iter().enumerate() {
        let applied = api.write(Method::PUT, &put.path, Some(put.body)).await;
        let applied = applied.inspect_err(|_| eprintln!("{done} of {all} were applied; {} was not:", put.what))?;
        print_line(&format!("{}: applied at epoch {}", put.what, applied.epoch))?;
    }
    Ok(Outcome::Done)
}

fn read(options: &Options) -> std::io::Result<String> {
    if options.file.as_os_str() != "-" {
        return std::fs::read_to_string(&options.file);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

type Problems = Vec<String>;

fn parse(text: &str) -> Result<Value, Problems> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| vec![format!("is not JSON: {error}")]);
    }
    toml::from_str(text).map_err(|error| vec![format!("is not TOML: {}", error.to_string().trim_end())])
}

/// Everything that shall be sent, or everything that is wrong.
fn plan(file: Value) -> Result<Vec<Put>, Problems> {
    let mut plan = Plan { puts: Vec::new(), problems: Vec::new() };
    let Value::Object(mut file) = file else { return Err(vec!["is not a table".into()]) };
    READ_ONLY_TOP.iter().for_each(|key| drop(file.remove(*key)));
    for (pool, place) in plan.tables(&mut file, "pools", "") {
        plan.pool(pool, &place);
    }
    for (route, place) in plan.tables(&mut file, "routes", "") {
        plan.route(route, &place);
    }
    plan.nothing_left(&file, "");
    if plan.problems.is_empty() { Ok(plan.puts) } else { Err(plan.problems) }
}

struct Plan {
    puts: Vec<Put>,
    problems: Problems,
}

impl Plan {
    fn pool(&mut self, mut pool: Map<String, Value>, place: &str) {
        let name: Option<Name> = self.take(&mut pool, "name", place, None);
        let spec: Option<PoolSpec> = self.take(&mut pool, "spec", place, Some(json!({})));
        let endpoints = self.tables(&mut pool, "endpoints", place);
        self.nothing_left(&pool, place);
        if let (Some(name), Some(spec)) = (&name, spec) {
            self.put(format!("pool {name}"), format!("/v1/pools/{name}"), json!(spec));
        }
        for (endpoint, place) in endpoints {
            self.endpoint(name.as_ref(), endpoint, &place);
        }
    }

    fn endpoint(&mut self, pool: Option<&Name>, mut endpoint: Map<String, Value>, place: &str) {
        READ_ONLY_ENDPOINT.iter().for_each(|key| drop(endpoint.remove(*key)));
        let name: Option<Name> = self.take(&mut endpoint, "name", place, None);
        let spec: Option<EndpointSpec> = self.typed(Value::Object(endpoint), place);
        if let (Some(pool), Some(name), Some(spec)) = (pool, name, spec) {
            let path = format!("/v1/pools/{pool}/endpoints/{name}");
            self.put(format!("endpoint {name} of {pool}"), path, json!(spec));
        }
    }

    fn route(&mut self, mut route: Map<String, Value>, place: &str) {
        let name: Option<Name> = self.take(&mut route, "name", place, None);
        let spec: Option<RouteSpec> = self.take(&mut route, "spec", place, None);
        self.nothing_left(&route, place);
        if let (Some(name), Some(spec)) = (name, spec) {
            self.put(format!("route {name}"), format!("/v1/routes/{name}"), json!(spec));
        }
    }

    fn put(&mut self, what: String, path: String, body: Value) {
        self.puts.push(Put { what, path, body });
    }

    fn take<T: DeserializeOwned>(
        &mut self,
        table: &mut Map<String, Value>,
        key: &str,
        place: &str,
        default: Option<Value>,
    ) -> Option<T> {
        let place = format!("{place}.{key}");
        match table.remove(key).or(default) {
            Some(value) => self.typed(value, &place),
            None => {
                self.problems.push(format!("{place} is missing"));
                None
            }
        }
    }

    fn typed<T: DeserializeOwned>(&mut self, value: Value, place: &str) -> Option<T> {
        serde_json::from_value(value).map_err(|error| self.problems.push(format!("{place}: {error}"))).ok()
    }

    /// The tables of a list, with their places.
    fn tables(&mut self, table: &mut Map<String, Value>, key: &str, place: &str) -> Vec<(Map<String, Value>, String)> {
        let place = if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
        let items = match table.remove(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.problems.push(format!("{place} is not a list of tables"));
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::Object(table) => tables.push((table, format!("{place}[{index}]"))),
                _ => self.problems.push(format!("{place}[{index}] is not a table")),
            }
        }
        tables
    }

    fn nothing_left(&mut self, table: &Map<String, Value>, place: &str) {
        let dot = if place.is_empty() { "" } else { "." };
        self.problems.extend(table.keys().map(|key| format!("{place}{dot}{key}: unknown field")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_the_api_own_answers_are_planned_alike() {
        let toml = r#"
            [[pools]]
            name = "app"
            spec = { protocol = "h2c" }
            endpoints = [{ name = "app-1", address = "10.0.0.5:4000" }]
            [[routes]]
            name = "web"
            spec = { pool = "app" }
        "#;
        let status = r#"{"epoch":7,"node":"a","leader":null,"quorum":true,"nodes":[],"drains":[],"switchovers":[],
            "pools":[{"name":"app","spec":{"protocol":"h2c"},"endpoints":[{"name":"app-1","id":3,"address":"10.0.0.5:4000",
              "weight":1,"revision":null,"node":null,"phase":"active","health":null,"requests":0,"websockets":0,
              "event_streams":0,"drain":null,"by_node":[]}]}],
            "routes":[{"name":"web","spec":{"pool":"app"}}]}"#;
        let from_toml = plan(parse(toml).unwrap()).unwrap();
        assert_eq!(from_toml, plan(parse(status).unwrap()).unwrap());
        let paths: Vec<&str> = from_toml.iter().map(|put| put.path.as_str()).collect();
        assert_eq!(paths, ["/v1/pools/app", "/v1/pools/app/endpoints/app-1", "/v1/routes/web"]);
    }

    #[test]
    fn every_mistake_is_named_before_anything_is_sent() {
        let toml = r#"
            pool = []
            [[pools]]
            name = "App"
            endpoints = [{ name = "app-1", adress = "10.0.0.5:4000" }]
            [[routes]]
            name = "web"
        "#;
        let problems = plan(parse(toml).unwrap()).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        for (problem, place) in
            problems.iter().zip(["pools[0].name", "pools[0].endpoints[0]", "routes[0].spec", "pool"])
        {
            assert!(problem.starts_with(place), "{problem} {place}");
        }
    }
}
