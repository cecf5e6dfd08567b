//! The admin socket with its bounds. The API's own: clients' traffic never comes here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections at one time. More wait in the kernel's queue: probes are short and come through as
/// soon as one ends.
const CONNECTIONS_MAX: usize = 1_024;
/// A client that takes no byte for so long is cut: it would hold a stream's buffer for ever.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// What a client that has connected may take until its first byte, and from a request's first byte to the end of its head.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection is kept on which nothing is asked.
const KEPT: Duration = Duration::from_secs(75);
/// After a failed accept (mostly: no file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct AdminListener {
    inner: TcpListener,
    places: Arc<Semaphore>,
    cut: CancellationToken,
    last: CancellationToken,
    silent: watch::Sender<usize>,
}

/// Connections whose client has not said anything yet.
pub(crate) struct Silent {
    last: CancellationToken,
    count: watch::Receiver<usize>,
}

impl Silent {
    /// No more connections are accepted. Returns when the client of each has begun with its request: one
    /// that has connected is about to, and a server that stops closes it without a word before.
    pub(crate) async fn heard(mut self) {
        self.last.cancel();
        // An error is the end of the listener and of all connections.
        let _ = self.count.wait_for(|count| *count == 0).await;
    }
}

/// One of the silent connections.
struct Unheard(watch::Sender<usize>);

impl Unheard {
    fn new(count: &watch::Sender<usize>) -> Unheard {
        count.send_modify(|count| *count += 1);
        Unheard(count.clone())
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl AdminListener {
    /// `cut` ends every connection at once. Their tasks are the server's and not ours to abort.
    pub(crate) fn new(inner: TcpListener, cut: CancellationToken) -> AdminListener {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        AdminListener { inner, places, cut, last: CancellationToken::new(), silent: watch::Sender::new(0) }
    }

    pub(crate) fn silent(&self) -> Silent {
        Silent { last: self.last.clone(), count: self.silent.subscribe() }
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl axum::serve::Listener for AdminListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.last.cancelled() => std::future::pending().await,
                accepted = self.inner.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Without it small events wait for an acknowledgement; a failure costs only that.
                    let _ = stream.set_nodelay(true);
                    return (Connection::new(stream, place, &self.cut, Unheard::new(&self.silent)), peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// What a connection waits for its client with, as far as bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    /// The end of a head. Its last bytes so far.
    Head([u8; 4]),
    /// Nothing: the server has it, or a body's rest, for which the API has a limit.
    Answer,
    /// Another request, or the rest of what it was sent.
    Next,
}

impl Awaits {
    fn limit(self) -> Option<Duration> {
        match self {
            Awaits::Head(_) => Some(HEAD_TIME),
            Awaits::Answer => None,
            Awaits::Next => Some(KEPT),
        }
    }

    /// The client has said `bytes`.
    fn heard(self, bytes: &[u8]) -> Awaits {
        let mut last = match self {
            Awaits::Head(last) => last,
            Awaits::Next if bytes.first().is_some_and(u8::is_ascii_uppercase) => [0; 4],
            // A body behind `100 Continue`, or frames of HTTP/2: no head, and nothing that this knows the end of.
            Awaits::Next | Awaits::Answer => return Awaits::Answer,
        };
        for &byte in bytes {
            last = [last[1], last[2], last[3], byte];
            if last == *b"\r\n\r\n" {
                return Awaits::Answer;
            }
        }
        Awaits::Head(last)
    }
}

/// A connection that fails when its client takes or says nothing for too long, or when all are cut.
pub(crate) struct Connection<S = TcpStream> {
    stream: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    awaits: Awaits,
    /// When it has waited too long for that.
    late: Pin<Box<Sleep>>,
    /// Until the client has said something.
    unheard: Option<Unheard>,
    _place: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(stream: S, place: OwnedSemaphorePermit, cut: &CancellationToken, unheard: Unheard) -> Connection<S> {
        let cut = Box::pin(cut.clone().cancelled_owned());
        let (awaits, late) = (Awaits::Head([0; 4]), Box::pin(tokio::time::sleep(HEAD_TIME)));
        Connection { stream, cut, stalled: None, awaits, late, unheard: Some(unheard), _place: place }
    }

    fn wait_for(&mut self, awaits: Awaits) {
        // A head has its time as a whole, a connection that is kept since it was used last.
        let is_same = matches!((self.awaits, awaits), (Awaits::Head(_), Awaits::Head(_)));
        self.awaits = awaits;
        if let Some(limit) = awaits.limit().filter(|_| !is_same) {
            self.late.as_mut().reset(tokio::time::Instant::now() + limit);
        }
    }

    /// Fails once all connections are cut, and wakes the task then. The server reads for as long as
    /// a connection lives, so asking here is enough.
    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node ends")),
        }
    }

    /// Passes a write's progress on, and starts or ends the clock.
    fn watch<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no data")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.unheard = None;
            let awaits = self.awaits.heard(&buf.filled()[before..]);
            self.wait_for(awaits);
        } else if self.awaits.limit().is_some() && self.late.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wait_for(Awaits::Next);
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wait_for(Awaits::Next);
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, progress)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut() {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut connection =
            Connection::new(ours, place, &CancellationToken::new(), Unheard::new(&watch::Sender::new(0)));
        let began = tokio::time::Instant::now();
        let written = tokio::time::timeout(WRITE_STALL * 2, connection.write_all(&[0; 64])).await;
        let error = written.expect("it does not wait for ever").unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
    }

    fn connection<S>(stream: S) -> Connection<S> {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Connection::new(stream, place, &CancellationToken::new(), Unheard::new(&watch::Sender::new(0)))
    }

    /// How long a read waits.
    async fn waits<S: AsyncRead + Unpin>(connection: &mut Connection<S>) -> Option<u64> {
        let began = tokio::time::Instant::now();
        let read = tokio::time::timeout(Duration::from_secs(86_400), connection.read(&mut [0; 64])).await;
        read.ok().map(|read| {
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
            began.elapsed().as_secs()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_cut_unless_it_is_the_servers_turn() {
        let (ours, mut theirs) = tokio::io::duplex(256);
        let mut connection = connection(ours);
        let mut buffer = [0; 64];
        theirs.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        assert!(connection.read(&mut buffer).await.unwrap() > 0);
        // However slowly it drips.
        tokio::time::sleep(Duration::from_secs(6)).await;
        theirs.write_all(b"x: 1\r\n").await.unwrap();
        assert!(connection.read(&mut buffer).await.unwrap() > 0);
        tokio::time::sleep(Duration::from_secs(3)).await;
        theirs.write_all(b"\r\n").await.unwrap();
        assert!(connection.read(&mut buffer).await.unwrap() > 0);
        assert_eq!(waits(&mut connection).await, None, "somebody waits for a drain");
        connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        theirs.write_all(b"{\"the body\": \"behind a 100\"}").await.unwrap();
        assert!(connection.read(&mut buffer).await.unwrap() > 0);
        assert_eq!(waits(&mut connection).await, None, "it is the server's turn again");
        connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        assert_eq!(waits(&mut connection).await, Some(75), "it is kept for another request");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_and_none_have_ten_seconds() {
        let (ours, mut theirs) = tokio::io::duplex(256);
        let mut silent = connection(ours);
        assert_eq!(waits(&mut silent).await, Some(10));
        let (ours, mut half) = tokio::io::duplex(256);
        let mut connection = connection(ours);
        half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(connection.read(&mut [0; 64]).await.unwrap() > 0);
        assert_eq!(waits(&mut connection).await, Some(10));
        theirs.shutdown().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_not_cut() {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut connection =
            Connection::new(ours, place, &CancellationToken::new(), Unheard::new(&watch::Sender::new(0)));
        let reader = async {
            for _ in 0..4 {
                tokio::time::sleep(WRITE_STALL - Duration::from_secs(1)).await;
                theirs.read_exact(&mut [0; 16]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(connection.write_all(&[0; 64]), reader);
        written.unwrap();
    }

    #[tokio::test]
    async fn who_has_just_connected_is_heard() {
        use axum::serve::Listener as _;
        let inner = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = AdminListener::new(inner, CancellationToken::new());
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        let mut heard = Box::pin(listener.silent().heard());
        tokio::select! {
            biased;
            () = &mut heard => panic!("it has said nothing"),
            () = std::future::ready(()) => {}
        }
        client.write_all(b"G").await.unwrap();
        connection.read_exact(&mut [0]).await.unwrap();
        heard.await;
    }
}
