//! Command lines that must be refused: one clear line, an exit status that is not 0, nothing half-started.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::export::{self, Node};
use super::small_image;
use crate::proc;
use crate::runner::{Job, skip};
use crate::scratch::Scratch;

/// A program that refuses must do so at once; a case that hangs would be serving.
const WITHIN: Duration = Duration::from_secs(20);

/// A case: what is wrong, the command line with `{...}` for what is made, and words that the error must have.
struct Case {
    name: &'static str,
    command: &'static str,
    words: &'static [&'static str],
}

const fn case(name: &'static str, command: &'static str, words: &'static [&'static str]) -> Case {
    Case { name, command, words }
}

const CASES: &[Case] = &[
    case("no such image", "node serve {dir}/missing.img", &["missing.img", "does not exist"]),
    case("image is a folder", "node serve {dir}", &["directory"]),
    case("empty image", "node serve {empty}", &["empty.img", "empty"]),
    case("odd size", "node serve {odd}", &["odd.img", "512"]),
    case("image is a pipe", "node serve {fifo}", &["fifo", "not a"]),
    case("no image and no farm", "node serve", &["IMAGE"]),
    case("login port in use", "node serve {image} --login-port {udp}", &["{udp}", "in use"]),
    case(
        "I/O port in use",
        "node serve {image} --cores 0 --login-port 0 --io-ports {udp}",
        &["{udp}", "in use"],
    ),
    case(
        "metrics port in use",
        "node serve {image} --login-port 0 --io-ports 0 --http 127.0.0.1:{tcp}",
        &["{tcp}", "in use"],
    ),
    case(
        "no memory for the cache",
        "node serve {image} --login-port 0 --io-ports 0 --cache 900T",
        &["cache"],
    ),
    case("cache is no size", "node serve {image} --cache lots", &["lots", "--cache"]),
    case("unknown huge pages", "node serve {image} --huge-pages 3M", &["3M", "auto"]),
    case("block is no power of two", "node serve {image} --block 65000", &["--block"]),
    case("no such core", "node serve {image} --cores 4095", &["4095", "core"]),
    case("ports upside down", "node serve {image} --io-ports 6930-6911", &["6930-6911"]),
    case(
        "fewer ports than cores",
        "node serve {image} --cores 0,1 --io-ports 6911-6911",
        &["port"],
    ),
    case("unknown flag", "node serve {image} --speed fast", &["--speed"]),
    case("not an address", "node serve {image} --listen nowhere", &["nowhere"]),
    case("farm file missing", "node serve --farm {dir}/no.toml --name n1", &["no.toml"]),
    case(
        "farm with an unknown key",
        "node serve --farm {dir}/unknown_key.toml --name n1",
        &["unknown_key.toml", "colour"],
    ),
    case(
        "farm with a duplicate MAC",
        "node serve --farm {dir}/duplicate_mac.toml --name n1",
        &["52:54:00:00:00:01"],
    ),
    case(
        "farm with a vDisk that is not there",
        "node serve --farm {dir}/no_such_vdisk.toml --name n1",
        &["ghost"],
    ),
    case("farm without this node", "node serve --farm {dir}/good.toml --name n9", &["n9"]),
    case(
        "farm whose only image is empty",
        "node serve --farm {dir}/good.toml --name n1",
        &["empty"],
    ),
    case("farm is no TOML", "node serve --farm {odd} --name n1", &["odd.img"]),
    case(
        "MAC is none",
        "device attach --servers 127.0.0.1:6910 --mac 52:54 --nbd {dir}/s",
        &["52:54", "--mac"],
    ),
    case(
        "server by name",
        "device attach --servers node-a:6910 --mac 52:54:00:00:00:01 --nbd {dir}/s",
        &["node-a", "--servers"],
    ),
    case(
        "write cache unknown",
        "device attach --servers 127.0.0.1:6910 --mac 52:54:00:00:00:01 --nbd {dir}/s --write-cache tape",
        &["tape"],
    ),
    case(
        "socket's folder missing",
        "device attach --servers 127.0.0.1:6910 --mac 52:54:00:00:00:01 --nbd {dir}/no/s",
        &["no/s"],
    ),
    case(
        "socket is in use",
        "device attach --servers {login} --port-base 0 --mac 52:54:00:00:00:01 --nbd {sock}",
        &["sock"],
    ),
    case(
        "socket is a file",
        "device attach --servers {login} --port-base 0 --mac 52:54:00:00:00:01 --nbd {odd}",
        &["odd.img"],
    ),
    case("bench pattern unknown", "bench read --pattern zigzag", &["zigzag", "rand"]),
    case(
        "relay loses all",
        "bench relay --listen 127.0.0.3 --forward 127.0.0.2 --ports {udp}-{udp} --loss 1.5",
        &["1.5"],
    ),
];

/// A farm file without a fault.
const FARM: &str = r#"
[farm]
name = "lab"
key_file = "farm.key"
accept_mac_alone = true

[[node]]
name = "n1"
address = "127.0.0.1"
stores = ["images"]

[[store]]
name = "images"
path = "."

[[vdisk]]
name = "disk"
store = "images"
file = "empty.img"

[[device]]
mac = "52:54:00:00:00:01"
name = "desk-01"
vdisk = "disk"
"#;

/// Farm files by name: what is added to the one without a fault.
const FARM_DEFECTS: &[(&str, &str)] = &[
    ("unknown_key", "colour = \"blue\"\n"),
    (
        "duplicate_mac",
        "[[device]]\nmac = \"52:54:00:00:00:01\"\nname = \"desk-02\"\nvdisk = \"disk\"\n",
    ),
    (
        "no_such_vdisk",
        "[[device]]\nmac = \"52:54:00:00:00:02\"\nname = \"desk-02\"\nvdisk = \"ghost\"\n",
    ),
    ("good", ""),
];

/// What the cases name, kept alive while they run.
struct Things {
    dir: Scratch,
    image: String,
    udp: UdpSocket,
    tcp: TcpListener,
    /// For refusals that come after a login.
    node: Node,
    _sock: std::os::unix::net::UnixListener,
}

/// The step.
pub fn run(job: &mut Job<'_>) -> anyhow::Result<()> {
    if job.ctx.stand_in {
        return Err(skip("the stand-in has no command line of ours"));
    }
    let things = prepare(job)?;
    for case in CASES {
        job.check(case.name, |job| refused(job, &things, case));
    }
    Ok(())
}

fn prepare(job: &mut Job<'_>) -> anyhow::Result<Things> {
    let image = small_image(job)?.display().to_string();
    let dir = Scratch::small()?;
    fs::write(dir.path("empty.img"), b"")?;
    fs::write(dir.path("odd.img"), [1_u8; 1000])?;
    job.run(proc::command("mkfifo").arg(dir.path("fifo")), WITHIN)?;
    fs::write(dir.path("farm.key"), "6b".repeat(32))?;
    for (name, defect) in FARM_DEFECTS {
        fs::write(dir.path(&format!("{name}.toml")), format!("{FARM}{defect}"))?;
    }
    let sock = std::os::unix::net::UnixListener::bind(dir.path("sock"))?;
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let args = ["--login-port", "0", "--io-ports", "0"].map(str::to_owned);
    let node = export::start_node(job, Path::new(&image), "node", &args)?;
    Ok(Things { dir, image, udp, tcp, node, _sock: sock })
}

impl Things {
    fn fill(&self, text: &str) -> anyhow::Result<String> {
        let path = |name: &str| self.dir.path(name).display().to_string();
        let mut text = text.to_owned();
        for (key, value) in [
            ("{dir}", self.dir.path("").display().to_string().trim_end_matches('/').to_owned()),
            ("{empty}", path("empty.img")),
            ("{odd}", path("odd.img")),
            ("{fifo}", path("fifo")),
            ("{sock}", path("sock")),
            ("{login}", self.node.login.clone()),
            ("{image}", self.image.clone()),
            ("{udp}", self.udp.local_addr()?.port().to_string()),
            ("{tcp}", self.tcp.local_addr()?.port().to_string()),
        ] {
            text = text.replace(key, &value);
        }
        Ok(text)
    }
}

fn refused(job: &mut Job<'_>, things: &Things, case: &Case) -> anyhow::Result<()> {
    let line = things.fill(case.command)?;
    let mut words = line.split(' ');
    let program = words.next().context("a case without a program")?;
    let path = job.ctx.program(&format!("diskstream-{program}"));
    // In a folder of its own: nothing may appear there.
    let home = Scratch::small()?;
    let mut command = proc::command(&path);
    command.args(words).current_dir(home.path(""));
    let mut child = proc::Proc::start(&mut command, program, &job.log)?;
    let status =
        child.wait_exit(WITHIN).context("it neither refused nor ended: did it start to serve?")?;
    let text = child.text();
    anyhow::ensure!(!status.success(), "it ended with status 0");
    anyhow::ensure!(
        status.code().is_some(),
        "it was ended by a signal ({status}): a panic, not a refusal\n{text}"
    );
    anyhow::ensure!(!text.contains("panicked"), "it panicked:\n{text}");
    for word in case.words {
        let word = things.fill(word)?;
        anyhow::ensure!(text.contains(&word), "the error does not name {word:?}:\n{text}");
    }
    anyhow::ensure!(!text.contains("ready:"), "it said that it is ready:\n{text}");
    one_line(&text, program)?;
    let left = fs::read_dir(home.path(""))?.count();
    anyhow::ensure!(left == 0, "it left {left} files behind");
    anyhow::ensure!(!Path::new(&things.dir.path("s")).exists(), "it left its socket behind");
    Ok(())
}

/// One line says what is wrong, after whatever was logged until then. clap's usage and hints around its own are well known.
fn one_line(text: &str, program: &str) -> anyhow::Result<()> {
    let own = format!("diskstream-{program}: ");
    let lines = text.lines().filter(|l| l.starts_with("error: ") || l.starts_with(&own)).count();
    anyhow::ensure!(lines == 1, "{lines} lines say what is wrong, and one should:\n{text}");
    Ok(())
}
