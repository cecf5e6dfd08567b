use super::*;

async fn ids(client: &Client) -> Vec<String> {
    let tokens = client.get("/v1/join-tokens").await.expect(200)["tokens"].clone();
    tokens.as_array().unwrap().iter().map(|token| token["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn join_tokens_are_listed_by_a_short_id_and_never_shown_again() {
    let (_node, client) = ready().await;
    assert!(ids(&client).await.is_empty());
    let made = client.post("/v1/join-tokens", r#"{"role":"voter","ttl_seconds":60}"#).await.expect(200);
    client.post("/v1/join-tokens", r#"{"role":"learner"}"#).await.expect(200);
    let listed = client.get("/v1/join-tokens").await;
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(!listed.text().contains(&token[..16]), "no part of the token");
    assert!(!listed.text().contains(&crate::raft::sha256(token)), "nor its whole digest");
    assert!(crate::raft::sha256(token).starts_with(id) && id.len() == 12, "{id}");
    let tokens = &listed.json()["tokens"];
    assert_eq!(tokens[0], json!({"id": id, "role": "voter", "expires_ms": made["expires_ms"]}));
    assert_eq!(tokens[1]["role"], "learner");
}

#[tokio::test]
async fn a_revoked_join_token_is_gone() {
    let (_node, client) = ready().await;
    let make = async || client.post("/v1/join-tokens", r#"{"role":"voter"}"#).await.expect(200);
    let (revoked, kept) = (make().await, make().await);
    let path = format!("/v1/join-tokens/{}", revoked["id"].as_str().unwrap());
    client.delete(&format!("{path}?dry_run=true")).await.expect(200);
    assert_eq!(ids(&client).await.len(), 2, "a dry run revokes nothing");
    client.delete(&path).await.expect(200);
    assert_eq!(ids(&client).await, [kept["id"].as_str().unwrap()]);
    assert_eq!(client.delete(&path).await.problem(404), "not-found");
    assert_eq!(client.delete("/v1/join-tokens/0").await.problem(404), "not-found");
}
