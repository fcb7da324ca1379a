//! The page as Prometheus gets it, and the server as others treat it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use diskstream_node::cache::Cache;
use diskstream_node::metrics::{
    ArenaSource, CacheSource, Exporter, FeatureSource, Health, HealthSource, HealthState,
    HttpError, HttpServer, ProcessSource, RingSource, RingStats, RunningHttp, ShardSource, Source,
};
use diskstream_node::shard::ShardCounters;
use diskstream_ring::{Arena, ArenaConfig, Features, HugePages};

fn sources(health: &Arc<Health>) -> Vec<Box<dyn Source>> {
    let config = ArenaConfig { bytes: 1 << 20, huge_pages: HugePages::Off };
    let arena = Arc::new(Arena::new(&config).expect("one MiB"));
    let cache = Arc::new(Cache::new(arena.clone(), 65_536).expect("sixteen blocks"));
    let shards: Vec<_> = (0..2).map(|_| Arc::new(ShardCounters::default())).collect();
    let rings = (0..2).map(|_| Arc::new(RingStats::default())).collect();
    shards[1].reads.add(42);
    vec![
        Box::new(ShardSource(shards)),
        Box::new(RingSource(rings)),
        Box::new(CacheSource(cache)),
        Box::new(ArenaSource(arena)),
        Box::new(FeatureSource(Features::NONE)),
        Box::new(HealthSource(health.clone())),
        Box::new(ProcessSource::new(1)),
    ]
}

fn server() -> (RunningHttp, Arc<Health>) {
    let health = Arc::new(Health::default());
    let server = HttpServer::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let running = server.start(Exporter::new(sources(&health)), health.clone()).expect("a thread");
    (running, health)
}

fn connect(server: &RunningHttp) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// Head and body of the answer to `request`.
fn ask(server: &RunningHttp, request: &[u8]) -> (String, String) {
    let mut stream = connect(server);
    stream.write_all(request).expect("the server reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the server answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

fn get(server: &RunningHttp, path: &str) -> (String, String) {
    ask(server, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

#[test]
fn metrics_are_valid_text() {
    let (server, health) = server();
    health.set(HealthState::Ready);
    let (head, body) = get(&server, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"));
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    let mut types = BTreeMap::new();
    let mut series = BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("name and type");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert!(name.starts_with("diskstream_") || name.starts_with("process_"), "{name}");
        } else if !line.starts_with("# HELP ") {
            let (key, value) = line.rsplit_once(' ').expect("series and value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(key.to_owned()), "{key} twice");
            let name = key.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).filter(|base| types.contains_key(*base)));
            assert!(types.contains_key(family.unwrap_or(name)), "{name} has no type");
        }
    }
    for wanted in [
        "diskstream_reads_total 42",
        "diskstream_shard_reads_total{shard=\"1\"} 42",
        "diskstream_ready 1",
        "diskstream_cache_bytes 1048576",
        "diskstream_cache_frames{queue=\"free\"} 16",
        "diskstream_feature_enabled{feature=\"gso\"} 0",
        "diskstream_arena_backing 0",
        "process_start_time_seconds 1",
    ] {
        assert!(body.lines().any(|line| line == wanted), "no {wanted}");
    }
}

#[test]
fn promtool_has_nothing_to_say() {
    let (server, _health) = server();
    let (_, body) = get(&server, "/metrics");
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("SKIPPED: promtool is not installed (Debian package prometheus)");
        return;
    };
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(body.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn health_follows_the_node() {
    let (server, health) = server();
    let (head, body) = get(&server, "/healthz");
    assert!(head.starts_with("HTTP/1.1 503 ") && body.starts_with("starting: "), "{head} {body}");
    health.set(HealthState::Ready);
    let (head, body) = get(&server, "/healthz");
    assert!(head.starts_with("HTTP/1.1 200 ") && body == "ok\n");
    health.set(HealthState::Draining("SIGTERM, 12 devices left".to_owned()));
    let (head, body) = get(&server, "/healthz");
    assert!(head.starts_with("HTTP/1.1 503 ") && body == "draining: SIGTERM, 12 devices left\n");
    assert!(get(&server, "/metrics").1.contains("\ndiskstream_node_draining 1\n"));
}

#[test]
fn requests_of_all_sorts() {
    let (server, health) = server();
    health.set(HealthState::Ready);
    let status = |request: &[u8]| ask(&server, request).0[9..12].to_owned();
    assert_eq!(status(b"GET / HTTP/1.0\r\n\r\n"), "200");
    assert_eq!(status(b"GET /healthz?x=1 HTTP/1.1\n\n"), "200");
    assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n"), "404");
    assert_eq!(status(b"GET /../metrics HTTP/1.1\r\n\r\n"), "404");
    assert_eq!(status(b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"), "405");
    assert_eq!(status(b"GET /\r\n\r\n"), "400");
    assert_eq!(status(b"GET / x HTTP/1.1\r\n\r\n"), "400");
    assert_eq!(status(b"\x16\x03\x01\xff\xfe\r\n\r\n"), "400");
    assert_eq!(status(b"\r\n\r\n"), "400");
    assert_eq!(status(b"GET / SSH-2.0\r\n\r\n"), "400");
    assert_eq!(status(&vec![b'a'; 20_000]), "431");
    let (head, body) = ask(&server, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty());
    assert!(!head.contains("Content-Length: 0"));
}

#[test]
fn silent_and_slow_clients_do_not_keep_the_next_one_out() {
    let (server, health) = server();
    health.set(HealthState::Ready);
    let mut slow = connect(&server);
    slow.write_all(b"GET / HT").expect("the kernel buffers");
    drop(connect(&server));
    // Answered after the slow one's time is over.
    assert_eq!(get(&server, "/healthz").1, "ok\n");
    let mut rest = Vec::new();
    let ended = slow.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.is_empty(), "no answer to half a request");
}

#[test]
fn a_port_in_use_names_the_flag() {
    let (server, _health) = server();
    let error = HttpServer::bind(server.address()).expect_err("in use");
    assert!(matches!(error, HttpError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains("--http") && text.contains(&server.address().to_string()), "{text}");
    // TEST-NET-1 is nobody's own address.
    let error = HttpServer::bind(SocketAddr::from(([192, 0, 2, 1], 0))).expect_err("not ours");
    assert!(error.to_string().contains("--http"), "{error}");
}

#[test]
fn a_stopped_server_frees_its_port() {
    let (server, _health) = server();
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}
