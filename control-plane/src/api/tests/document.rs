use std::collections::BTreeSet;

use super::*;

/// The operations of the contract.
const OPERATIONS: [&str; 37] = [
    "get /v1/pools",
    "get /v1/pools/{pool}",
    "put /v1/pools/{pool}",
    "delete /v1/pools/{pool}",
    "put /v1/pools/{pool}/endpoints/{endpoint}",
    "delete /v1/pools/{pool}/endpoints/{endpoint}",
    "post /v1/pools/{pool}/endpoints/{endpoint}/drain",
    "delete /v1/pools/{pool}/endpoints/{endpoint}/drain",
    "get /v1/routes",
    "get /v1/routes/{route}",
    "put /v1/routes/{route}",
    "delete /v1/routes/{route}",
    "get /v1/drains",
    "get /v1/drains/{drain}",
    "post /v1/pools/{pool}/switchovers",
    "get /v1/switchovers",
    "get /v1/switchovers/{switchover}",
    "delete /v1/switchovers/{switchover}",
    "post /v1/prestop",
    "get /v1/cookie-keys",
    "post /v1/cookie-keys",
    "delete /v1/pins",
    "get /v1/nodes",
    "put /v1/nodes/{node}",
    "delete /v1/nodes/{node}",
    "post /v1/nodes/{node}/lead",
    "get /v1/join-tokens",
    "post /v1/join-tokens",
    "delete /v1/join-tokens/{id}",
    "post /v1/nodes/self/leave",
    "get /v1/status",
    "get /v1/events",
    "get /v1/explain",
    "get /livez",
    "get /readyz",
    "get /metrics",
    "get /openapi.json",
];

#[tokio::test]
async fn every_route_is_in_the_document_and_every_operation_is_a_route() {
    let (_node, client) = ready().await;
    let document = client.get("/openapi.json").await.expect(200);
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| key.len() <= 6) {
            described.insert(format!("{method} {path}"));
            // Leaving would end the other checks' readiness; its own test asks for it.
            if path.ends_with("leave") || path.ends_with("events") {
                continue;
            }
            let concrete = path.replace("{drain}", "d1").replace(['{', '}'], "");
            let answer = client.call(&method.to_ascii_uppercase(), &concrete, b"").await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(!answer.text().contains("There is nothing at"), "{method} {path}");
        }
    }
    let contract: BTreeSet<String> = OPERATIONS.iter().map(|operation| (*operation).to_owned()).collect();
    assert_eq!(described, contract);
}

#[tokio::test]
async fn the_document_has_the_schemas_that_it_refers_to() {
    let (_node, client) = ready().await;
    let answer = client.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let (document, text) = (answer.json(), answer.text());
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is missing");
    }
    for name in ["PoolSpec", "EndpointSpec", "RouteSpec", "Status", "Problem", "Written", "Drain"] {
        assert!(schemas.contains_key(name), "{name} is missing in {:?}", schemas.keys());
    }
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
}
