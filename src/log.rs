//! The node's events on standard error; standard output is the access log's.
//!
//! Whoever logs is in the middle of something: a standard error that nobody reads, or that is gone, costs lines and nothing
//! else. What could not be written is counted, and said as soon as something can.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What a pipe takes at once when it says that it takes something (`PIPE_BUF` of Linux).
const AT_ONCE: usize = 4_096;

pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Patient::new(io::stderr));
    if io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// Writes whole lines to what `to` opens, and never waits for it.
struct Patient<F> {
    to: F,
    lost: AtomicU64,
}

impl<F> Patient<F> {
    fn new(to: F) -> Patient<F> {
        Patient { to, lost: AtomicU64::new(0) }
    }
}

impl<'a, W: Write + AsFd, F: Fn() -> W> MakeWriter<'a> for Patient<F>
where
    F: 'a,
{
    type Writer = Line<'a, W>;

    fn make_writer(&'a self) -> Line<'a, W> {
        Line { out: (self.to)(), lost: &self.lost }
    }
}

struct Line<'a, W> {
    out: W,
    lost: &'a AtomicU64,
}

impl<W: Write + AsFd> Line<'_, W> {
    fn takes_some(&self) -> bool {
        let mut out = [PollFd::new(&self.out, PollFlags::OUT)];
        let ready = poll(&mut out, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        ready.is_ok_and(|ready| ready > 0) && !out[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Says whether all of it was written.
    fn put(&mut self, bytes: &[u8]) -> bool {
        bytes.chunks(AT_ONCE).all(|piece| self.takes_some() && self.out.write_all(piece).is_ok())
    }
}

impl<W: Write + AsFd> Write for Line<'_, W> {
    /// A whole line, as the subscriber writes them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let told = format!(
                "{{\"level\":\"WARN\",\"message\":\"standard error took no more: {lost} lines of the log are lost\"}}\n"
            );
            if self.put(told.as_bytes()) {
                self.lost.fetch_sub(lost, Ordering::Relaxed);
            }
        }
        if !self.put(line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_they_are_counted() {
        let (mut read, write) = io::pipe().unwrap();
        let log = Patient::new(move || write.try_clone().unwrap());
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // A pipe holds 64 KiB.
        for _ in 0..100 {
            assert_eq!(log.make_writer().write(&line).unwrap(), line.len());
        }
        let lost = log.lost.load(Ordering::Relaxed);
        assert!((36..100).contains(&lost), "{lost}");
        let mut got = vec![0; 1_000 * (100 - lost as usize)];
        read.read_exact(&mut got).unwrap();
        log.make_writer().write_all(b"last\n").unwrap();
        drop(log.to);
        let mut rest = String::new();
        read.read_to_string(&mut rest).unwrap();
        assert!(rest.contains(&format!("{lost} lines of the log are lost")) && rest.ends_with("\nlast\n"), "{rest}");
    }

    #[test]
    fn one_that_is_gone_is_no_error() {
        let (read, write) = io::pipe().unwrap();
        drop(read);
        let log = Patient::new(|| write.try_clone().unwrap());
        assert_eq!(log.make_writer().write(b"line\n").unwrap(), 5);
        assert_eq!(log.lost.load(Ordering::Relaxed), 1);
    }
}
