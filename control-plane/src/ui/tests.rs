use super::*;

fn file(name: &str) -> Option<File> {
    let mime = match name {
        "index.html" => "text/html",
        "assets/app-1.js" => "text/javascript",
        "favicon.svg" => "image/svg+xml",
        _ => return None,
    };
    Some(File { mime: mime.to_owned(), data: Cow::Owned(name.as_bytes().to_vec()) })
}

fn get(path: &str) -> Response {
    respond(&Method::GET, path, file)
}

fn header_of(response: &Response, name: header::HeaderName) -> &str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn files_have_their_types_and_cache_rules() {
    let page = get("/");
    assert_eq!(header_of(&page, header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert_eq!(header_of(&page, header::CACHE_CONTROL), "no-cache");
    assert!(header_of(&page, header::CONTENT_SECURITY_POLICY).starts_with("default-src 'none'"));
    let script = get("/assets/app-1.js");
    assert_eq!(header_of(&script, header::CONTENT_TYPE), "text/javascript; charset=utf-8");
    assert!(header_of(&script, header::CACHE_CONTROL).contains("immutable"));
    assert_eq!(header_of(&get("/favicon.svg"), header::CONTENT_TYPE), "image/svg+xml");
}

#[test]
fn only_paths_without_an_extension_fall_back_to_the_page() {
    assert_eq!(get("/drains/d9").status(), StatusCode::OK);
    for missing in ["/assets/old.js", "/favicon.ico", "/../Cargo.toml", "/assets/../../secret", "/a\\b"] {
        let response = get(missing);
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{missing}");
        assert_eq!(header_of(&response, header::CONTENT_TYPE), "application/problem+json");
    }
}

#[test]
fn the_page_is_only_read() {
    let response = respond(&Method::POST, "/", file);
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header_of(&response, header::ALLOW), "GET, HEAD");
}

#[test]
fn without_a_build_the_front_page_says_how_to_make_one() {
    let response = respond(&Method::GET, "/", |_| None);
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(respond(&Method::GET, "/pools", |_| None).status(), StatusCode::NOT_FOUND);
}
