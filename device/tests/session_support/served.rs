//! The scripted node on real sockets.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use diskstream_device::session::SessionConfig;
use diskstream_ring::clock;

use super::node::{Image, Node};
use super::{Packet, mac};

/// A node on two loopback sockets, in a thread.
pub struct Served {
    pub node: Arc<Mutex<Node>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub login: SocketAddr,
}

fn canonical_sockets() -> (UdpSocket, UdpSocket) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
}

impl Served {
    pub fn start(image: &Arc<Image>) -> Served {
        let (login, io) = canonical_sockets();
        let (at_login, at_io) = (login.local_addr().unwrap(), io.local_addr().unwrap());
        let mut node = Node::new(at_login, image.clone(), vec![at_login]);
        node.io = at_io;
        let node = Arc::new(Mutex::new(node));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (socket, at) in [(&login, at_login), (&io, at_io)] {
            let socket = socket.try_clone().unwrap();
            let (login, io) = (login.try_clone().unwrap(), io.try_clone().unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let (node, stop) = (node.clone(), stop.clone());
            threads.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
                    let packet = Packet { from, to: at, bytes: buffer[..bytes].to_vec() };
                    let mut out = Vec::new();
                    node.lock().unwrap().handle(&packet, clock::now(), &mut out);
                    for packet in out {
                        let socket = if packet.from == at_login { &login } else { &io };
                        socket.send_to(&packet.bytes, packet.to).unwrap();
                    }
                }
            }));
        }
        Served { node, stop, threads, login: at_login }
    }

    pub fn config(&self) -> SessionConfig {
        SessionConfig::new(vec![self.login], mac())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _result = thread.join();
        }
    }
}
