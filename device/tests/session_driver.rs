//! The driver on real sockets and a real ring, against the scripted node on loopback.
#![allow(clippy::unwrap_used, reason = "test code")]

mod session_support;

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use diskstream_device::driver::{DeviceThread, DriverError, Fleet, FleetConfig, Ports};
use diskstream_device::front::{
    BlockSource, Done, ExtentsDone, ExtentsRequest, ReadFailure, ReadRequest, UnitAligned,
};
use diskstream_device::session::{Event, State};
use diskstream_ring::{Wait, clock};
use diskstream_wire::{CloseReason, Mac, Nanos};
use session_support::node::Image;
use session_support::served::Served;

const WAIT: Duration = Duration::from_secs(10);

fn read(source: &dyn BlockSource, offset: u64, length: usize) -> Result<Vec<u8>, ReadFailure> {
    let (sender, receiver) = mpsc::channel();
    let done = Done::new(move |buffer, result| sender.send(result.map(|()| buffer)).unwrap());
    source.read(ReadRequest { offset, buffer: vec![0; length], done });
    receiver.recv_timeout(WAIT).expect("a read is answered")
}

#[test]
fn a_device_thread_serves_ranges_of_any_alignment() {
    let size = (2 << 20) + 700;
    let image = Image::new(size);
    let served = Served::start(&image);
    let device = DeviceThread::start(served.config(), Ports::Free, [3; 32]).unwrap();
    let opened = device.wait_opened(WAIT).expect("the vDisk opens");
    assert_eq!(opened.disk.size_bytes, size as u64);
    assert_eq!(opened.node, served.login);
    let handle = device.handle();
    assert_eq!(handle.size_bytes(), size as u64);
    let source = UnitAligned::new(handle.clone());
    for (offset, length) in
        [(0, 4096), (1, 1), (4000, 200_000), (size - 10, 10), (0, size), ((2 << 20) - 5, 705)]
    {
        let bytes = read(&source, offset as u64, length).unwrap();
        assert!(bytes == image.bytes[offset..offset + length], "{offset}+{length}");
    }
    let outside = read(&source, size as u64 - 1, 2).unwrap_err();
    assert!(matches!(outside, ReadFailure::OutOfRange { .. }));

    let (sender, receiver) = mpsc::channel();
    let done = ExtentsDone::new(move |result| sender.send(result).unwrap());
    source.extents(ExtentsRequest { offset: 100, length: 30_000, extents_max: 8, done });
    let extents = receiver.recv_timeout(WAIT).unwrap().unwrap();
    assert_eq!(extents[0].length, 3 * 4096 - 100);
    assert!(!extents[0].zero && extents[1].zero);

    let status = handle.status().expect("the thread answers");
    assert_eq!(status.state, State::Streaming);
    assert_eq!(status.counters.reads_failed, 0);
    assert!(status.counters.reads >= 6);
    assert!(serde_json::to_string(&status).unwrap().contains("\"state\":\"streaming\""));

    device.detach().unwrap();
    assert_eq!(served.node.lock().unwrap().closed, [CloseReason::Detached]);
    assert!(handle.status().is_none());
    assert!(matches!(read(&handle, 0, 4096), Err(ReadFailure::Shutdown)));
}

#[test]
fn many_threads_may_read_at_once() {
    let image = Image::new(8 << 20);
    let served = Served::start(&image);
    let device = DeviceThread::start(served.config(), Ports::Free, [4; 32]).unwrap();
    device.wait_opened(WAIT).expect("the vDisk opens");
    let handle = device.handle();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (handle, image) = (handle.clone(), image.clone());
            scope.spawn(move || {
                for step in 0..100 {
                    let offset = (thread * 997 + step * 31) % 2000 * 4096;
                    let bytes = read(&handle, offset as u64, 8192).unwrap();
                    assert!(bytes == image.bytes[offset..offset + 8192]);
                }
            });
        }
    });
    assert_eq!(handle.status().unwrap().counters.reads, 400);
}

#[test]
fn a_fleet_shares_one_ring_and_one_notice_socket() {
    const DEVICES: u8 = 20;
    let image = Image::new(1 << 20);
    let served = Served::start(&image);
    let config = FleetConfig {
        sockets: u16::from(DEVICES) + 1,
        shared_notices: true,
        ..FleetConfig::default()
    };
    let mut fleet = Fleet::new(&config).unwrap();
    for device in 0..DEVICES {
        let mut config = served.config();
        config.mac = Mac([2, 0, 0, 0, 0, device]);
        let member = fleet.add(config, Ports::Free, [device; 32]).unwrap();
        assert_eq!(member, usize::from(device));
        fleet.session_mut(member).read(7, 0, vec![0; 65_536], clock::now()).unwrap();
    }
    let mut done = 0;
    let until = clock::now() + Nanos::from_secs(10);
    while done < DEVICES && clock::now() < until {
        fleet
            .turn(Wait::Until(until), |_, _, event, _| {
                if let Event::ReadDone { token: 7, buffer, result: Ok(()) } = event {
                    assert!(buffer == image.bytes[..65_536]);
                    done += 1;
                }
            })
            .unwrap();
    }
    assert_eq!(done, DEVICES);
    let ports: Vec<u16> = (0..fleet.len()).map(|m| fleet.session(m).config().notice_port).collect();
    assert!(ports.iter().all(|&port| port == ports[0] && port != 0));
    assert!(fleet.session(3).config().receive_buffer_bytes >= 212_992);

    // A notice that arrives at the shared socket reaches the device whose tag it has.
    let notices = served.node.lock().unwrap().notices(9, &[]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Nobody's: counted, and nothing else.
    let mut nobodys = notices[0].bytes.clone();
    nobodys[8] ^= 0x80;
    sender.send_to(&nobodys, (Ipv4Addr::LOCALHOST, ports[0])).unwrap();
    for packet in &notices {
        sender.send_to(&packet.bytes, (Ipv4Addr::LOCALHOST, ports[0])).unwrap();
    }
    let until = clock::now() + Nanos::from_secs(5);
    let noticed = |fleet: &Fleet| {
        (0..fleet.len()).filter(|&m| fleet.session(m).counters().notices > 0).count()
    };
    while noticed(&fleet) < usize::from(DEVICES) && clock::now() < until {
        fleet.turn(Wait::Until(clock::now() + Nanos::from_millis(20)), |_, _, _, _| {}).unwrap();
    }
    assert_eq!(noticed(&fleet), usize::from(DEVICES));
    assert_eq!((fleet.stats().unroutable, fleet.stats().foreign), (0, 1));
}

#[test]
fn ports_in_use_are_named_with_the_flag() {
    let image = Image::new(4096);
    let served = Served::start(&image);
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let base = taken.local_addr().unwrap().port();
    let Some(ports) = Ports::from_base(base) else { return };
    let Err(error) = DeviceThread::start(served.config(), ports, [5; 32]) else {
        panic!("the port is in use");
    };
    assert!(matches!(error, DriverError::Socket { .. }));
    let text = error.to_string();
    assert!(text.contains(&base.to_string()) && text.contains("--port-base"), "{text}");
}
