//! The `tidelock` binary: wiring only.

mod activation;
mod cli;
mod config;
mod demo;
mod demo_endpoint;
mod descriptors;
mod handover;
mod log;
mod node;
mod successor;
mod systemd;

/// Measured by the referee: 10 to 20 % less CPU a request on the HTTP/1.1 paths, for a few MiB more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
