//! The socket as a hostile, slow or careless client meets it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Answers every request with a refusal that shows it.
fn echo(path: &Path) -> RunningControl {
    let server = ControlServer::bind(path).expect("a free path");
    server
        .start(|request, reply| reply.finish(Answer::Refused { reason: format!("{request:?}") }))
        .expect("a thread")
}

fn connect(path: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    BufReader::new(stream)
}

fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line");
    line
}

fn ask(stream: &mut BufReader<UnixStream>, request: &[u8]) -> String {
    stream.get_mut().write_all(request).expect("the server reads");
    line(stream)
}

#[test]
fn the_socket_is_its_owners_alone_and_leaves_nothing_behind() {
    let folder = folder();
    let path = folder.path().join("run/deep/a.sock");
    let server = echo(&path);
    let mode = fs::metadata(&path).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    let left: Vec<_> = fs::read_dir(path.parent().expect("a folder")).expect("read").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_dead_socket_is_replaced_a_living_one_and_a_file_are_not() {
    let folder = folder();
    let path = folder.path().join("a.sock");
    drop(UnixListener::bind(&path).expect("a socket whose owner goes away"));
    assert!(path.exists(), "closing a listener leaves its name");
    let server = echo(&path);
    let error = ControlServer::bind(&path).expect_err("it lives").to_string();
    assert!(error.contains("a running process listens there"), "{error}");
    // And the refusal did not disturb it.
    assert!(ask(&mut connect(&path), b"{\"do\":\"status\"}\n").contains("Status"));
    drop(server);
    fs::write(&path, "precious").expect("a file");
    let error = ControlServer::bind(&path).expect_err("a file").to_string();
    assert!(error.contains("a file of another kind"), "{error}");
    assert_eq!(fs::read(&path).expect("still there"), b"precious");
    let long = folder.path().join("x".repeat(120));
    let error = ControlServer::bind(&long).expect_err("too long").to_string();
    assert!(error.contains("107 bytes"), "{error}");
}

#[test]
fn of_nodes_that_start_at_once_exactly_one_gets_the_socket() {
    let folder = folder();
    let path = folder.path().join("a.sock");
    drop(UnixListener::bind(&path).expect("a dead socket"));
    let (sender, bound) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..8 {
            let (sender, path) = (sender.clone(), path.clone());
            // All in one process, so all hide it under one name: worse than in life.
            scope.spawn(move || sender.send(ControlServer::bind(&path)).expect("heard"));
        }
        drop(sender);
        let outcomes: Vec<_> = bound.iter().collect();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    });
}

#[test]
fn garbage_is_refused_and_the_next_line_is_served() {
    let folder = folder();
    let path = folder.path().join("a.sock");
    let _server = echo(&path);
    let mut stream = connect(&path);
    for garbage in
        [&b"\n"[..], b"nonsense\n", b"{\"do\":\"drain\",\"stey\":1}\n", b"\xff\xfe\x00\n"]
    {
        let answer = ask(&mut stream, garbage);
        assert!(answer.contains("refused") && answer.contains("no request"), "{answer}");
    }
    assert!(ask(&mut stream, b"{\"do\":\"resume\"}\n").contains("Resume"));
}

#[test]
fn a_line_without_end_is_refused_and_costs_no_memory() {
    let folder = folder();
    let path = folder.path().join("a.sock");
    let _server = echo(&path);
    let mut stream = connect(&path);
    let answer = ask(&mut stream, &vec![b'x'; LINE_BYTES_MAX + 1]);
    assert!(answer.contains("at most 4096 bytes"), "{answer}");
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).map_or(true, |n| n == 0), "closed");
}

#[test]
fn the_connection_that_is_idle_for_longest_makes_room() {
    let folder = folder();
    let path = folder.path().join("a.sock");
    let _server = echo(&path);
    let mut held: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect(&path)).collect();
    // All have been served; the first one again, so that the second has been idle for longest.
    held.iter_mut().for_each(|stream| drop(ask(stream, b"{\"do\":\"status\"}\n")));
    assert!(ask(&mut held[0], b"{\"do\":\"status\"}\n").contains("Status"));
    let mut further = connect(&path);
    assert!(ask(&mut further, b"{\"do\":\"resume\"}\n").contains("Resume"));
    let closed = |stream: &mut BufReader<UnixStream>| {
        // Fails at the one that was closed; what it was told is still there to read.
        let _ = stream.get_mut().write_all(b"{\"do\":\"status\"}\n");
        line(stream).contains("idle for longest")
    };
    let closed: Vec<bool> = held.iter_mut().map(closed).collect();
    assert_eq!(closed.iter().filter(|closed| **closed).count(), 1, "{closed:?}");
    assert!(!closed[0], "it was served last");
}

#[test]
fn who_is_being_answered_keeps_its_place_and_the_next_is_refused() {
    let folder = folder();
    let path = folder.path().join("a.sock");
    let (sender, granted) = mpsc::channel::<Reply>();
    let server = ControlServer::bind(&path).expect("a free path");
    let _server = server.start(move |_, reply| drop(sender.send(reply))).expect("a thread");
    let ask_all = |_| {
        let mut stream = connect(&path);
        stream.get_mut().write_all(b"{\"do\":\"drain\"}\n").expect("read");
        (stream, granted.recv_timeout(Duration::from_secs(20)).expect("granted"))
    };
    let mut held: Vec<_> = (0..CONNECTIONS_MAX).map(ask_all).collect();
    assert!(line(&mut connect(&path)).contains("16 others are being answered"));
    let (mut first, reply) = held.remove(0);
    reply.finish(Answer::Resumed);
    assert!(line(&mut first).contains("resumed"));
    drop(first);
    // Giving a place back is the other thread's doing; until then the answer is the refusal.
    let deadline = diskstream_ring::clock::now() + diskstream_wire::Nanos::from_secs(20);
    loop {
        let mut stream = connect(&path);
        let _ = stream.get_mut().write_all(b"{\"do\":\"drain\"}\n");
        if let Ok(reply) = granted.recv_timeout(Duration::from_millis(50)) {
            reply.finish(Answer::Resumed);
            assert!(line(&mut stream).contains("resumed"));
            break;
        }
        assert!(diskstream_ring::clock::now() < deadline, "no place was given back");
    }
}

#[test]
fn who_does_not_read_delays_nobody() {
    let folder = folder();
    let path: PathBuf = folder.path().join("a.sock");
    let (sender, granted) = mpsc::channel::<Reply>();
    let server = ControlServer::bind(&path).expect("a free path");
    let _server = server.start(move |_, reply| drop(sender.send(reply))).expect("a thread");
    let mut deaf = connect(&path);
    deaf.get_mut().write_all(b"{\"do\":\"drain\"}\n").expect("read");
    let reply = granted.recv_timeout(Duration::from_secs(20)).expect("granted");
    // Far more than the socket buffers; `progress` returns each time, or this test does not end.
    for _ in 0..1000 {
        reply.progress(Answer::Refused { reason: "x".repeat(100_000) });
    }
}
