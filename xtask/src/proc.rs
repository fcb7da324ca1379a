//! Child processes: each has one owner that ends it by its process id, and everything it says is kept.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::clock;

/// A log that a step and the readers of its children write to.
#[derive(Clone, Debug)]
pub struct Log {
    file: Arc<Mutex<File>>,
    began: Instant,
}

impl Log {
    /// An empty log at this path.
    pub fn create(path: &Path) -> anyhow::Result<Log> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Log { file: Arc::new(Mutex::new(file)), began: clock::now() })
    }

    /// Adds a line, with the seconds since the log's beginning.
    pub fn line(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A log that cannot be written must not change the result of what is logged.
        let _ = writeln!(file, "{seconds:8.2} {text}");
    }
}

/// What a child has said so far.
#[derive(Debug, Default)]
struct Heard {
    text: String,
    /// Its standard output alone.
    output: String,
    open_streams: usize,
}

#[derive(Debug, Default)]
struct Ear {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Ear {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A running child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Proc {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    ear: Arc<Ear>,
    /// How much of what was heard earlier waits have consumed.
    seen: usize,
    readers: Vec<JoinHandle<()>>,
}

/// A command whose process dies with this one, however this one ends.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        return command;
    }
    Command::new(program)
}

impl Proc {
    /// Starts a command; `name` is how the log and errors call it.
    pub fn start(command: &mut Command, name: &str, log: &Log) -> anyhow::Result<Proc> {
        let shown = show(command);
        log.line(&format!("[{name}] $ {shown}"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{shown}`"))?;
        let ear = Arc::new(Ear::default());
        ear.lock().open_streams = 2;
        let out: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("stdout is piped"));
        let err: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("stderr is piped"));
        let readers = [(out, true), (err, false)]
            .into_iter()
            .map(|(stream, is_output)| {
                let (ear, log, name) = (ear.clone(), log.clone(), name.to_owned());
                thread::spawn(move || listen(stream, is_output, &ear, &log, &name))
            })
            .collect();
        let stdin = child.stdin.take();
        Ok(Proc { name: name.to_owned(), child, stdin, ear, seen: 0, readers })
    }

    /// The process id.
    #[cfg(test)]
    fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has said.
    pub fn text(&self) -> String {
        self.ear.lock().text.clone()
    }

    /// Types into its standard input.
    pub fn type_in(&mut self, text: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        stdin.write_all(text.as_bytes())?;
        stdin.flush().with_context(|| format!("typing to {}", self.name))
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until it says `needle` (after what earlier waits have seen); gives the line so far that holds it.
    pub fn wait_for(&mut self, needle: &str, within: Duration) -> anyhow::Result<String> {
        self.wait_until(&format!("saying {needle:?}"), within, |text| {
            let at = text.find(needle)?;
            let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
            let rest = &text[at + needle.len()..];
            let end = at + needle.len() + rest.find('\n').unwrap_or(rest.len());
            Some((text[start..end].to_owned(), at + needle.len()))
        })
    }

    /// Waits for a whole line that starts with `prefix`.
    pub fn wait_line(&mut self, prefix: &str, within: Duration) -> anyhow::Result<String> {
        self.wait_until(&format!("a line `{prefix}...`"), within, |text| {
            let mut at = 0;
            for line in text.split_inclusive('\n') {
                at += line.len();
                if line.ends_with('\n') && line.starts_with(prefix) {
                    return Some((line.trim_end().to_owned(), at));
                }
            }
            None
        })
    }

    /// Waits until `found` sees what it looks for in what was said since the last wait: a result, and how much is used up.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut found: impl FnMut(&str) -> Option<(T, usize)>,
    ) -> anyhow::Result<T> {
        let deadline = clock::now() + within;
        let ear = self.ear.clone();
        let mut heard = ear.lock();
        loop {
            if let Some((result, used)) = found(&heard.text[self.seen..]) {
                self.seen += used;
                return Ok(result);
            }
            if heard.open_streams == 0 {
                bail!("{} ended before {what}; it said last:\n{}", self.name, tail(&heard.text));
            }
            let Some(left) = deadline.checked_duration_since(clock::now()) else {
                bail!(
                    "{}: no sign of {what} within {} s; it said last:\n{}",
                    self.name,
                    within.as_secs(),
                    tail(&heard.text)
                );
            };
            heard = ear
                .changed
                .wait_timeout(heard, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = clock::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.join_readers(deadline);
                return Ok(status);
            }
            if clock::now() >= deadline {
                bail!(
                    "{} still runs after {} s; it said last:\n{}",
                    self.name,
                    within.as_secs(),
                    tail(&self.text())
                );
            }
            // The end of a child is an event only for a signal handler, which safe code has not: ask often instead.
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal by name: `TERM`, `INT`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &id]).status()?;
        if !status.success() {
            bail!("kill -s {signal} {} failed: has it ended already?", self.name);
        }
        Ok(())
    }

    /// Asks it to end with `TERM` and waits; it must end with status 0.
    pub fn stop(&mut self, within: Duration) -> anyhow::Result<()> {
        self.signal("TERM")?;
        let status = self.wait_exit(within)?;
        if !status.success() {
            bail!(
                "{} was asked to stop and ended with {status}:\n{}",
                self.name,
                tail(&self.text())
            );
        }
        Ok(())
    }

    fn join_readers(&mut self, deadline: Instant) {
        // A grandchild may hold the streams open; then what it says later is not ours to wait for.
        let grace = (clock::now() + Duration::from_secs(2)).min(deadline.max(clock::now()));
        let ear = self.ear.clone();
        let mut heard = ear.lock();
        while heard.open_streams > 0 {
            let Some(left) = grace.checked_duration_since(clock::now()) else { return };
            heard = ear
                .changed
                .wait_timeout(heard, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        drop(heard);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end; its status and everything it said.
pub fn run(
    command: &mut Command,
    name: &str,
    log: &Log,
    within: Duration,
) -> anyhow::Result<(ExitStatus, String)> {
    let shown = show(command);
    let mut child = Proc::start(command, name, log)?;
    child.stdin = None;
    let status = child.wait_exit(within).with_context(|| format!("`{shown}`"))?;
    Ok((status, child.text()))
}

/// Runs a command that must succeed; its standard output.
pub fn run_ok(
    command: &mut Command,
    name: &str,
    log: &Log,
    within: Duration,
) -> anyhow::Result<String> {
    let shown = show(command);
    let mut child = Proc::start(command, name, log)?;
    child.stdin = None;
    let status = child.wait_exit(within).with_context(|| format!("`{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}:\n{}", tail(&child.text()));
    }
    Ok(std::mem::take(&mut child.ear.lock().output))
}

/// The command as a person would type it.
pub fn show(command: &Command) -> String {
    let mut words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if words.first().is_some_and(|w| w.ends_with("setpriv")) {
        words.drain(..4.min(words.len()));
    }
    words.join(" ")
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn listen(mut stream: Box<dyn Read + Send>, is_output: bool, ear: &Ear, log: &Log, name: &str) {
    let mut chunk = [0_u8; 4096];
    let mut raw: Vec<u8> = Vec::new();
    let mut line = String::new();
    loop {
        let got = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        raw.extend_from_slice(&chunk[..got]);
        // Keep a character that the read has cut in half for the next round.
        let whole = match std::str::from_utf8(&raw) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => raw.len(),
        };
        let text = String::from_utf8_lossy(&raw[..whole]).into_owned();
        raw.drain(..whole);
        line.push_str(&text);
        while let Some(end) = line.find('\n') {
            log.line(&format!("[{name}] {}", line[..end].trim_end_matches('\r')));
            line.drain(..=end);
        }
        let mut heard = ear.lock();
        heard.text.push_str(&text);
        if is_output {
            heard.output.push_str(&text);
        }
        drop(heard);
        ear.changed.notify_all();
    }
    if !line.is_empty() {
        log.line(&format!("[{name}] {line}"));
    }
    ear.lock().open_streams -= 1;
    ear.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Proc {
        let log = Log::create(Path::new("/dev/null")).unwrap();
        Proc::start(command("sh").args(["-c", script]), "sh", &log).unwrap()
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn waits_go_on_where_the_last_one_ended() {
        let mut sh = shell("echo one; echo two; read x; echo three $x");
        assert_eq!(sh.wait_for("wo", SOON).unwrap(), "two");
        assert!(sh.wait_for("one", Duration::ZERO).is_err(), "a wait must not see the past");
        sh.type_in("four\n").unwrap();
        assert_eq!(sh.wait_line("three", SOON).unwrap(), "three four");
        assert!(sh.wait_exit(SOON).unwrap().success());
    }

    #[test]
    fn an_early_end_is_told_with_the_last_words() {
        let mut sh = shell("echo the disk is on fire >&2; exit 3");
        let error = sh.wait_for("never", SOON).unwrap_err().to_string();
        assert!(error.contains("the disk is on fire"), "{error}");
    }

    #[test]
    fn dropping_ends_the_process() {
        let sh = shell("exec sleep 1000");
        let entry = format!("/proc/{}", sh.id());
        assert!(Path::new(&entry).exists());
        drop(sh);
        assert!(!Path::new(&entry).exists());
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let mut sh = shell("exec sleep 1000");
        let error = sh.wait_for("x", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("no sign of"), "{error}");
        assert!(sh.wait_exit(Duration::from_millis(30)).is_err());
    }
}
