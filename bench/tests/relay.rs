//! The relay as a process: what it loses, whom it answers, how it ends.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Datagrams that each client sends.
const SENT: u32 = 5_000;
/// Datagrams under way at once: fewer than the smallest socket buffer holds.
const BURST: u32 = 50;
/// Silence after which what is missing counts as lost. A relay on the same machine answers within some microseconds; a
/// stall of the machine makes the test fail, not pass.
const SILENCE: Duration = Duration::from_millis(40);

struct Relay {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Relay {
    fn start(port: u16, more: &[&str]) -> Relay {
        let mut child = Command::new(env!("CARGO_BIN_EXE_diskstream-bench"))
            .args(["relay", "--listen", "127.0.0.1", "--forward", "127.0.0.2"])
            .args(["--ports", &port.to_string()])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        out.read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready: "), "{ready:?}");
        Relay { child, out }
    }

    /// Ends it with SIGTERM; gives the counts of its closing line.
    fn end(mut self) -> (u32, u32, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "a clean end");
        let words: Vec<_> = rest.split_whitespace().collect();
        let count = |name| {
            let at = words.iter().position(|w| *w == name).unwrap_or_else(|| panic!("{rest:?}"));
            words[at + 1].parse().unwrap()
        };
        (count("relayed"), count("lost"), rest)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that sends everything back, at an address where the relay's port is free.
fn echo() -> (u16, UdpSocket) {
    let server = UdpSocket::bind("127.0.0.2:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let echo = server.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 2048];
        while let Ok((bytes, from)) = echo.recv_from(&mut buffer) {
            if bytes == 0 || echo.send_to(&buffer[..bytes], from).is_err() {
                break;
            }
        }
    });
    (port, server)
}

/// Sends `SENT` numbered datagrams and counts the answers; each must be the client's own.
fn answers(mark: u32, port: u16) -> u32 {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let mut answered = vec![false; SENT as usize];
    for first in (0..SENT).step_by(BURST as usize) {
        for number in first..first + BURST {
            client.send(&[mark.to_le_bytes(), number.to_le_bytes()].concat()).unwrap();
        }
        let mut missing = BURST;
        let mut buffer = [0u8; 64];
        while missing > 0 {
            let Ok(bytes) = client.recv(&mut buffer) else { break };
            assert_eq!(bytes, 8);
            assert_eq!(buffer[..4], mark.to_le_bytes(), "an answer to another client");
            let number = u32::from_le_bytes(buffer[4..8].try_into().unwrap()) as usize;
            assert!(!std::mem::replace(&mut answered[number], true), "answered twice");
            missing -= 1;
        }
    }
    u32::try_from(answered.iter().filter(|&&a| a).count()).unwrap()
}

#[test]
fn two_of_a_hundred_are_lost_and_the_rest_reaches_the_one_who_asked() {
    let (port, _server) = echo();
    let relay = Relay::start(port, &["--loss", "0.02"]);
    let clients: Vec<_> =
        (1..=2).map(|mark| std::thread::spawn(move || answers(mark, port))).collect();
    let answered: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let (relayed, lost, line) = relay.end();
    // 10,000 there and what came through back: 0.98 squared of them are answered. Five standard deviations are 100.
    assert!((9_500..9_710).contains(&answered), "{answered} of 10000 answered; {line}");
    // 2 % of some 19,800 datagrams is 396; five standard deviations are 99.
    assert!((297..495).contains(&lost), "{line}");
    assert_eq!(relayed + lost, 10_000 + (relayed - answered), "each is relayed or lost; {line}");
    assert!(line.contains("refused 0 held 0 flows 2"), "{line}");
}

#[test]
fn without_loss_everything_passes_and_jitter_only_delays() {
    let (port, _server) = echo();
    let relay = Relay::start(port, &["--jitter-ms", "2"]);
    assert_eq!(answers(1, port), SENT);
    let (relayed, lost, line) = relay.end();
    assert_eq!((relayed, lost), (2 * SENT, 0), "{line}");
}

#[test]
fn flags_that_cannot_work_are_refused() {
    for (flags, words) in [
        (["--loss", "1"], "--loss 1"),
        (["--ports", "9-8"], "is no port range"),
        (["--jitter-ms", "99999"], "--jitter-ms"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskstream-bench"));
        command.args(["relay", "--listen", "127.0.0.1", "--forward", "127.0.0.2"]);
        if flags[0] != "--ports" {
            command.args(["--ports", "6910"]);
        }
        let output = command.args(flags).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{flags:?}: {error}");
    }
}
