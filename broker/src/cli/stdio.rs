//! A session on standard input and output.
//!
//! These may be pipes, terminals or files, and belong to others as well, so they are neither watched by the workers
//! nor made non-blocking: two threads carry the bytes between them and a pair of sockets, one end of which is a
//! connection like any other. What is not taken from standard output fills that, and so is flow control.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use staunch::server::Server;
use staunch_system::net::Stream;
use staunch_system::wait::{Wish, wait};
use tokio::sync::oneshot::Sender;

/// For how long what others send may keep the session, once the input has ended.
const OTHERS_MAX: Duration = Duration::from_secs(5);

/// How a session ended, if not well: why.
type Outcome = Result<(), String>;

/// Begins the session. `done` is told when it is over: when the input has ended and what was sent by then is out, when
/// the broker has ended it, or when the output is of no use any more.
pub(super) fn attach(server: &Server, done: Sender<Outcome>) -> Outcome {
    let input = file(io::stdin().as_fd()).map_err(|e| format!("cannot use standard input: {e}"))?;
    let output = file(io::stdout().as_fd()).map_err(|e| format!("cannot use standard output: {e}"))?;
    let failed = |error: io::Error| format!("cannot speak on standard input and output: {error}");
    let (ours, theirs) = Stream::pair().map_err(failed)?;
    let inward = UnixStream::from(ours.into_fd());
    inward.set_nonblocking(false).map_err(failed)?;
    let outward = inward.try_clone().map_err(failed)?;
    let session = Arc::new(server.adopt(theirs, "stdio").map_err(failed)?);
    let (peer, complaint) = (session.clone(), Arc::new(OnceLock::new()));
    let end_of_input = complaint.clone();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            carry_in(input, &inward);
            // A peer that ends its side is not written to any more, and may be forgotten.
            let end = Instant::now();
            while !session.is_settled() && (session.is_alone() || end.elapsed() < OTHERS_MAX) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if session.has_failed() {
                let _ = end_of_input.set(FAILED);
            } else if session.is_within_packet() {
                let _ = end_of_input.set("standard input ended within a packet");
            }
            let _ = inward.shutdown(Shutdown::Write);
        })
        .map_err(failed)?;
    std::thread::Builder::new()
        .name("stdout".to_owned())
        .spawn(move || {
            // In this order: what is forgotten has been looked at.
            let outcome = carry_out(&outward, output).and_then(|()| {
                let failed = peer.has_failed().then_some(FAILED);
                failed.or(complaint.get().copied()).map_or(Ok(()), |why| Err(why.to_owned()))
            });
            let _ = outward.shutdown(Shutdown::Both);
            let _ = done.send(outcome);
        })
        .map_err(failed)?;
    Ok(())
}

/// What the command says of a session that the broker has ended.
const FAILED: &str =
    "the session on standard input and output has failed; the last packet that it wrote says why";

/// A descriptor of our own, to be read or written without a buffer between.
fn file(fd: impl AsFd) -> io::Result<File> {
    Ok(fd.as_fd().try_clone_to_owned()?.into())
}

/// Carries the input to the session.
fn carry_in(mut input: File, mut session: &UnixStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                if session.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                // Somebody else has made it so.
                ErrorKind::WouldBlock => _ = wait(&[(input.as_fd(), Wish::Read)], None),
                _ => {
                    tracing::warn!(%error, "cannot read standard input");
                    break;
                }
            },
        }
    }
}

/// Carries what the session says to the output, until it ends.
fn carry_out(mut session: &UnixStream, mut output: File) -> Outcome {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match session.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // It was closed with something unread; that is its end, too.
            Err(_) => return Ok(()),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            match output.write(rest) {
                Ok(0) => return Err("cannot write to standard output: it takes nothing".to_owned()),
                Ok(written) => rest = &rest[written..],
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => _ = wait(&[(output.as_fd(), Wish::ReadWrite)], None),
                    // Whoever read it has gone, as at the end of a pipeline.
                    ErrorKind::BrokenPipe => return Ok(()),
                    _ => return Err(format!("cannot write to standard output: {error}")),
                },
            }
        }
    }
}
