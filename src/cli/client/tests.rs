use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// Gives each connection the next answer, and returns the requests.
async fn node(answers: Vec<&'static str>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            requests.push(String::from_utf8(request).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (url, served)
}

const APPLIED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"outcome\":\"applied\",\"epoch\":7}";
const UNKNOWN: &str = "HTTP/1.1 503 X\r\nconnection: close\r\n\r\n{\"detail\":\"no leader\"}";

fn key(request: &str) -> &str {
    let line = request.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap();
    line.split_once(": ").unwrap().1
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_repeated_once_with_its_key() {
    let (url, served) = node(vec![UNKNOWN, APPLIED]).await;
    let mut api = Api::anonymous(&url).unwrap();
    let applied = api.write(Method::PUT, "/v1/pools/app", Some(serde_json::json!({}))).await.unwrap();
    assert_eq!(applied.epoch, 7);
    let requests = served.await.unwrap();
    assert_eq!(key(&requests[0]), key(&requests[1]));
    assert_eq!(key(&requests[0]).len(), 36);

    let (url, served) = node(vec![UNKNOWN, UNKNOWN]).await;
    let failure = Api::anonymous(&url).unwrap().write(Method::DELETE, "/v1/pools/app", None).await.unwrap_err();
    assert!(matches!(&failure, Failure::Unknown(reason) if reason == "no leader"), "{failure}");
    assert_eq!(failure.exit_code(), 4);
    served.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_is_unknown_and_repeated() {
    let (url, served) = node(vec!["", APPLIED]).await;
    let applied = Api::anonymous(&url).unwrap().write(Method::PUT, "/v1/routes/web", None).await.unwrap();
    assert_eq!(applied.epoch, 7);
    let requests = served.await.unwrap();
    assert_eq!(key(&requests[0]), key(&requests[1]));
}

#[tokio::test]
async fn the_next_node_is_asked_when_one_does_not_connect() {
    let (url, served) = node(vec!["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]).await;
    let mut api = Api::new(&[nobody().await, url.clone()], None).unwrap();
    api.get_raw("/v1/status").await.unwrap();
    assert_eq!(api.url(), url, "it is asked first from now on");
    served.await.unwrap();

    let failure = Api::anonymous(&nobody().await).unwrap().get_raw("/v1/status").await.unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("Connection refused") && text.contains("is a node running at"), "{text}");
}

#[tokio::test]
async fn a_refusal_shows_its_detail_and_is_not_repeated() {
    let answer = "HTTP/1.1 422 X\r\nconnection: close\r\n\r\n\
        {\"title\":\"t\",\"detail\":\"there is no pool app\",\"problems\":[{\"field\":\"pool\",\"detail\":\"unknown\"}]}";
    let (url, served) = node(vec![answer]).await;
    let failure = Api::anonymous(&url).unwrap().write(Method::PUT, "/v1/routes/web", None).await.unwrap_err();
    assert_eq!(failure.to_string(), "there is no pool app\n  pool: unknown");
    assert_eq!(failure.exit_code(), 1);
    served.await.unwrap();
}

#[test]
fn urls_are_checked() {
    let base = Base::parse("http://[::1]:9900/tidelock/").unwrap();
    assert_eq!((base.host.as_str(), base.port, base.prefix.as_str()), ("::1", 9900, "/tidelock"));
    assert!(matches!(Base::parse("https://a"), Err(Failure::Https(_))));
    for bad in ["", "a:9900", "ftp://a", "http://", "http://u@a", "http://a?x"] {
        assert!(matches!(Base::parse(bad), Err(Failure::BadUrl(_))), "{bad}");
    }
}
