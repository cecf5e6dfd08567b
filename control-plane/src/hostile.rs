//! Everything in this crate that reads bytes of peers or of the disk, before damaged input. The damage and the
//! trial are those of the core's tests.

#[path = "../../core/tests/hostile/counting.rs"]
mod counting;
#[path = "../../core/tests/hostile/mutate.rs"]
pub(crate) mod mutate;

use tidelock_core::id::{Epoch, NodeId};
use tidelock_core::report::NodeReport;

use self::mutate::{Decoder, try_all};
use crate::fleet::roster::Bulletin;

fn bulletin() -> Bulletin {
    let report = NodeReport { epoch: Some(Epoch(7)), leaving: true, ..NodeReport::default() };
    let admin = Some("http://10.0.0.1:9900".to_owned());
    Bulletin { name: "a".parse().unwrap(), admin, level: 2, removed: vec![NodeId(3)], report }
}

#[test]
fn damaged_input_is_refused_or_read_and_nothing_else() {
    let mut decoders = crate::raft::hostile::decoders();
    decoders.push(Decoder {
        name: "bulletin",
        samples: vec![bulletin().encode()],
        decode: |bytes| Some(Bulletin::decode(bytes).ok()?.encode()),
        memory: (16, 32 << 10),
    });
    try_all(&decoders);
}
