//! The command line. Every value is checked here, before a file or socket is touched.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use diskstream_device::driver::Ports;
use diskstream_device::front::WriteCacheConfig;
use diskstream_device::session::MTU_MIN;
use diskstream_wire::{Mac, limits};

/// Where a device tells its status unless told otherwise.
pub const STATUS_SOCKET: &str = "/run/diskstream/device.sock";

/// Attach to a vDisk that Diskstream nodes serve, and use it as a block device.
#[derive(Debug, Parser)]
#[command(name = "diskstream-device", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log in at a node and export the vDisk on a Unix socket as an NBD disk, until stopped (Ctrl-C or SIGTERM).
    Attach(Box<Attach>),
    /// Tell how an attached device fares: node, ports, version, round trip, retries, write cache.
    Status(Status),
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// Nodes to log in at, as ADDRESS:PORT, best first; the port is 6910 where it is left out.
    #[arg(long, required = true, value_delimiter = ',', value_parser = server, value_name = "ADDRESS:PORT")]
    pub servers: Vec<SocketAddr>,
    /// The device's identity: its hardware address.
    #[arg(long)]
    pub mac: Mac,
    /// Unix socket to export the disk on (mode 0600).
    #[arg(long, value_name = "SOCKET")]
    pub nbd: PathBuf,
    /// Where writes go: none (the export is read-only), ram:SIZE, or ram:SIZE,overflow:FILE.
    #[arg(long, default_value = "none", value_name = "none|ram:SIZE[,overflow:FILE]")]
    pub write_cache: WriteCacheConfig,
    /// First of the device's UDP ports: login at it, notices at the next, data at the fourth after; 0 takes free ones.
    #[arg(long, default_value = "6901", value_parser = port_base, value_name = "PORT")]
    pub port_base: Ports,
    /// The vDisk wanted, where the farm leaves a choice.
    #[arg(long, value_parser = vdisk_name)]
    pub vdisk: Option<String>,
    /// File with the device's key: 32 bytes, or 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// How the device calls itself (at most 32 bytes); the host name otherwise.
    #[arg(long)]
    pub name: Option<String>,
    /// Largest IP packet of the link: 1500, or up to 9000 and more with jumbo frames.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(i64::from(MTU_MIN)..))]
    pub mtu: u16,
    /// Unix socket to tell the status on. Without it: /run/diskstream/device.sock if that can be had.
    #[arg(long, value_name = "SOCKET")]
    pub status: Option<PathBuf>,
    /// How long reads are held while no node answers, e.g. 90s or 10m; without it for ever.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub hold_limit: Option<Duration>,
    /// This process carries the root file system of its own machine: lock memory, be spared by systemd at shutdown.
    #[arg(long)]
    pub root_storage: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// The device's status socket.
    #[arg(long, default_value = STATUS_SOCKET)]
    pub socket: PathBuf,
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let server = match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(server), _) => server,
        (_, Ok(ip)) => SocketAddr::new(ip, limits::LOGIN_PORT),
        _ => {
            return Err(
                "not an address; say ADDRESS:PORT, such as 10.0.0.5:6910 or [fd00::5]:6910 \
                        (names are not looked up)"
                    .to_owned(),
            );
        }
    };
    if server.port() == 0 || server.ip().is_unspecified() {
        return Err("no node can be there; name its address and login port (6910)".to_owned());
    }
    Ok(server)
}

fn port_base(text: &str) -> Result<Ports, String> {
    let base = text.parse::<u16>().map_err(|_| "not a port; 0 to 65531".to_owned())?;
    Ports::from_base(base).ok_or_else(|| {
        format!("the data port would be {}; the largest base is 65531", u32::from(base) + 4)
    })
}

fn vdisk_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a vDisk has a name".to_owned()),
        1..=64 => Ok(text.to_owned()),
        bytes => Err(format!("{bytes} bytes; names have at most 64")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "not a time; say a number and s, m or h, such as 90s".to_owned();
    let (digits, unit) = text.split_at(text.trim_end_matches(['s', 'm', 'h']).len());
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    match count.checked_mul(seconds) {
        Some(0) | None => Err("out of range; at least 1s".to_owned()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(more: &[&str]) -> Result<Cli, clap::Error> {
        let base = ["diskstream-device", "attach", "--mac", "52:54:00:12:34:56", "--nbd", "/tmp/x"];
        Cli::try_parse_from(base.iter().chain(more))
    }

    fn attach(more: &[&str]) -> Attach {
        match parse(more).unwrap().command {
            Command::Attach(attach) => *attach,
            Command::Status(_) => panic!("attach was asked for"),
        }
    }

    #[test]
    fn the_command_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_take_a_port_or_the_usual_one() {
        let servers =
            attach(&["--servers", "10.0.0.5:7000,10.0.0.6,[fd00::1]:6910,fd00::2"]).servers;
        let expected = ["10.0.0.5:7000", "10.0.0.6:6910", "[fd00::1]:6910", "[fd00::2]:6910"];
        assert_eq!(servers, expected.map(|s| s.parse().unwrap()));
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let attach = attach(&["--servers", "10.0.0.5:6910"]);
        assert_eq!(attach.port_base, Ports::From(6901));
        assert_eq!(attach.write_cache, WriteCacheConfig::None);
        assert_eq!(attach.mtu, 1500);
        assert!(attach.hold_limit.is_none() && !attach.root_storage);
    }

    #[test]
    fn wrong_values_are_named_with_their_remedy() {
        let good = ["--servers", "10.0.0.5:6910"];
        let cases: [(&[&str], &str); 10] = [
            (&["--servers", "node1"], "ADDRESS:PORT"),
            (&["--servers", "10.0.0.5:0"], "login port"),
            (&["--servers", ""], "ADDRESS:PORT"),
            (&["--port-base", "65532"], "largest base is 65531"),
            (&["--port-base", "many"], "not a port"),
            (&["--mtu", "900"], "1280"),
            (&["--write-cache", "disk"], "ram:SIZE"),
            (&["--vdisk", ""], "has a name"),
            (&["--hold-limit", "soon"], "90s"),
            (&["--hold-limit", "0s"], "at least 1s"),
        ];
        for (wrong, part) in cases {
            let mut arguments = wrong.to_vec();
            if wrong[0] != "--servers" {
                arguments.extend(good);
            }
            let error = parse(&arguments).unwrap_err().to_string();
            assert!(error.contains(part), "{wrong:?}: {error}");
        }
        let error = Cli::try_parse_from(["d", "attach", "--mac", "5", "--nbd", "/x"]).unwrap_err();
        assert!(error.to_string().contains("six pairs"), "{error}");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("10m").unwrap(), Duration::from_secs(600));
        assert_eq!(duration("2h").unwrap(), Duration::from_secs(7200));
        assert_eq!(duration("7").unwrap(), Duration::from_secs(7));
    }
}
