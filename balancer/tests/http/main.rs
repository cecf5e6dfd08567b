//! The HTTP rules of the design (H1 to H18), each against peers that do exactly what the rule is
//! about. A test's module names its rule; all of them fail when the behaviour is taken away.

mod fleet;
mod frames;
mod hpack;
mod http1;
mod huffman;

mod admission;
mod back_pressure;
mod chaos;
mod client_certificates;
mod deadlines;
mod drains;
mod endpoint_limits;
mod endpoint_tls;
mod h10_client;
mod h12_floods;
mod h13_time;
mod h16_one_connection;
mod h17_interim;
mod h1_connections;
mod h1_framing;
mod h2_last_frame;
mod h3_early_response;
mod h4_truncation;
mod h5_replay;
mod h6_reset_budget;
mod h7_streams;
mod h8_websockets;
mod health;
mod hold;
mod leaving;
mod limits;
mod pace;
mod passing;
mod reports;
mod rfc9113;
mod route_to;
mod smuggling;
mod tls;
mod translation;
