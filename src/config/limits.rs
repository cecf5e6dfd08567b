//! The named limits and timeouts of the data plane. Each says its default, why it is so, and what
//! happens when it is hit; the same list is in `docs/configuration.md`.

use std::time::Duration;

use super::layers::Section;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections from clients over all listeners of the node. Default 65,536: 1.2 GB if all are
    /// idle ones of HTTP/2 under TLS (18 kB each, measured), 0.3 GB with HTTP/1.1. One more is accepted and closed at once, and counted.
    pub max_connections: usize,
    /// Connections from one client address. Default 0, no limit: behind one address there may be a
    /// whole company. One more is accepted and closed at once, and counted.
    pub max_connections_per_client: usize,
    /// Connections that one client address may open within 10 s. Default 0, no limit, as above.
    pub max_new_connections_per_client: usize,
    /// Requests that one client address may break off within 10 s, over all its connections. Default 0,
    /// no limit, as above. Then its connections end, and it gets no new ones until the 10 s are over.
    pub max_resets_per_client: usize,
    /// Requests that a client may break off on one HTTP/2 connection within 10 s. Default 500: a
    /// browser that leaves a page cancels some dozens, an attacker thousands. Then the connection
    /// ends with ENHANCE_YOUR_CALM.
    pub max_resets_per_connection: usize,
    /// Frames on one HTTP/2 connection within 10 s that carry nothing (no bytes, of streams that are over, unknown) or open a
    /// stream too many. Default 20,000: an upload of tiny frames that is broken off leaves thousands on their
    /// way. Then the connection ends with ENHANCE_YOUR_CALM.
    pub max_empty_frames_per_connection: usize,
    /// PINGs, acknowledgements, resets of what is over, and windows opened by less than 512 bytes, on one HTTP/2
    /// connection within 10 s. Default 100,000. Then the connection ends with ENHANCE_YOUR_CALM.
    pub max_control_frames_per_connection: usize,
    /// How fast the body of a request must come whose length is known, in bytes a second over 20 s
    /// in which the balancer waits for it. Default 64, a modem's crawl; 0 is no limit. Then 408.
    pub min_upload_bytes_per_second: usize,
    /// Streams at once on one HTTP/2 connection. Default 128, above the 100 that RFC 9113 section
    /// 6.5.2 asks for. One more is refused with REFUSED_STREAM; the others go on.
    pub max_streams_per_connection: u32,
    /// All header fields of one request, in bytes as RFC 9113 section 6.5.2 counts them. Default
    /// 16,384, below the endpoints' own limits, so that the answer is ours: 431, and the
    /// connection is kept on HTTP/2.
    pub max_header_bytes: usize,
    /// The path with its query, in bytes. Default 8,192, what RFC 9110 section 4.1 asks for at
    /// least. A longer one is answered 414.
    pub max_path_bytes: usize,
    /// Header fields of one request. Default 100, as Bandit's. One more is answered 431.
    pub max_header_count: usize,
    /// How much of a request's body is kept to send it again to another endpoint. Default 65,536
    /// bytes. A request whose body has outgrown it is not repeated: it is answered 502.
    pub retry_body_bytes: usize,
    /// How much of a request's body is read and dropped after an endpoint has answered without
    /// reading it (rule H3). Default 1 MiB: curl 7.88 and others take a reset, even one with
    /// NO_ERROR, for a failure of the response before it. Then HTTP/2 resets the stream with NO_ERROR
    /// and HTTP/1.1 closes the connection, behind the complete response.
    pub early_response_drain_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// From accepting a connection to a finished TLS handshake and a known protocol. Default 10 s:
    /// three lost packets of a slow phone. Then the connection is closed.
    pub handshake: Duration,
    /// From the first pause in a request's head to the end of its header fields. Default 10 s. Then HTTP/1.1
    /// answers 408 and closes, and HTTP/2 ends the connection with ENHANCE_YOUR_CALM.
    pub request_head: Duration,
    /// Without a request on a connection. Default 75 s: above the 60 s after which balancers in
    /// front of this one close, so that they close first. Then HTTP/2 gets GOAWAY, HTTP/1.1 a close.
    pub downstream_idle: Duration,
    /// For how long `early_response_drain_bytes` are read. Default 1 s.
    pub early_response_drain: Duration,
    /// For how long the last frame of a long request body waits for a sign that the endpoint reads
    /// (rule H2). Default 100 ms. Then it is sent all the same. Endpoints that take more than
    /// 256 KiB unread are not waited for.
    pub body_hold_back: Duration,
}

const MIB: u64 = 1 << 20;

pub(super) fn limits(section: &Section<'_>) -> Limits {
    let size = |key, range, default| section.number(key, range, default) as usize;
    Limits {
        max_connections: size("max_connections", 1..=10_000_000, 65_536),
        max_connections_per_client: size("max_connections_per_client", 0..=10_000_000, 0),
        max_new_connections_per_client: size("max_new_connections_per_client", 0..=10_000_000, 0),
        max_resets_per_client: size("max_resets_per_client", 0..=10_000_000, 0),
        max_resets_per_connection: size("max_resets_per_connection", 1..=1_000_000, 500),
        max_empty_frames_per_connection: size("max_empty_frames_per_connection", 100..=10_000_000, 20_000),
        max_control_frames_per_connection: size("max_control_frames_per_connection", 100..=10_000_000, 100_000),
        min_upload_bytes_per_second: size("min_upload_bytes_per_second", 0..=MIB, 64),
        max_streams_per_connection: section.number("max_streams_per_connection", 1..=65_536, 128) as u32,
        max_header_bytes: size("max_header_bytes", 1_024..=MIB, 16_384),
        max_path_bytes: size("max_path_bytes", 256..=MIB, 8_192),
        max_header_count: size("max_header_count", 10..=1_000, 100),
        retry_body_bytes: size("retry_body_bytes", 0..=16 * MIB, 65_536),
        early_response_drain_bytes: size("early_response_drain_bytes", 0..=16 * MIB, MIB),
    }
}

pub(super) fn timeouts(section: &Section<'_>) -> Timeouts {
    Timeouts {
        handshake: section.millis("handshake_ms", 100..=600_000, 10_000),
        request_head: section.millis("request_head_ms", 100..=600_000, 10_000),
        downstream_idle: section.millis("downstream_idle_ms", 1_000..=86_400_000, 75_000),
        early_response_drain: section.millis("early_response_drain_ms", 0..=60_000, 1_000),
        body_hold_back: section.millis("body_hold_back_ms", 0..=10_000, 100),
    }
}
