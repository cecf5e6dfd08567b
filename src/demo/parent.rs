//! The child's side of dying with its parent: the parent holds the other end of standard input,
//! and the kernel closes it however the parent ends.

use std::io::Read;

/// Ends this process when standard input does. Nothing is lost that a crash would not lose: a
/// parent that can still say so sends SIGTERM first and waits.
pub(crate) fn exit_with_parent() {
    std::thread::spawn(|| {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0; 64];
        while matches!(input.read(&mut buffer), Ok(1..)) {}
        std::process::exit(0);
    });
}
