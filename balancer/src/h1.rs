//! HTTP/1.1 on the wire, the same for both directions: heads, bodies, and the buffered socket.
//!
//! Our own, and not hyper's, for what its layers hide: a request with both lengths must be seen
//! to be refused (H11), interim responses must pass (H17), a body that was cut must not end
//! cleanly (H1, H4); and one task moves a whole exchange, where a client and a server of hyper's
//! are two with channels between (measured, ARCHITECTURE.md). Heads are parsed by httparse, as
//! hyper does. Nothing here knows of routes or endpoints.

pub(crate) mod body;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod head;
pub(crate) mod wire;
