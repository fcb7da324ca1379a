//! System calls that std does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

/// Makes the kernel end the process that `command` starts when the thread that starts it ends, however that comes about.
pub fn end_with_parent(command: &mut Command) {
    let ask = || {
        // SAFETY: `prctl(PR_SET_PDEATHSIG, signal)` takes plain numbers, and touches only the calling process.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure runs between fork and exec; it makes one async-signal-safe system call, allocates nothing and
    // takes no lock (`last_os_error` reads errno). Nothing safe sets this attribute of a child.
    unsafe { command.pre_exec(ask) };
}

/// A handle of a process: unlike its number it never comes to mean another one.
pub fn open_process(process: u32) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_open(pid, flags)` takes plain numbers and gives a new descriptor or -1.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })
}

/// Sends a signal to the process of a handle.
pub fn signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let (fd, info) = (process.as_raw_fd(), ptr::null::<libc::siginfo_t>());
    // SAFETY: `pidfd_send_signal(pidfd, signal, info, flags)` with no info; `process` is open for the call.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A copy of another process's file descriptor, which stays open when that process ends. Allowed where tracing is: for
/// one's own children.
pub fn duplicate_of(process: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `pidfd_getfd(pidfd, fd, flags)` takes plain numbers; `process` is open for the call.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// What a system call gave: a new descriptor, or -1 with errno set.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the calling thread run before every thread of ordinary priority, wherever a processor is free. (A real-time class would keep it on
/// the processor on which it is, and those who are bound to that one would wait.)
pub fn run_first() -> io::Result<()> {
    // SAFETY: `setpriority(PRIO_PROCESS, 0, nice)` takes plain numbers, and changes the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit of open files to `wanted` where the hard one allows; gives the soft limit then.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, exclusively borrowed rlimit that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted.min(limit.rlim_max);
        // SAFETY: `limit` is a valid rlimit that outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Gives the calling thread a network namespace of its own: nothing in it but a loopback interface that is down.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: `unshare(flags)` takes a plain number and changes only the calling thread.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the process a user namespace in which it may make network namespaces. Only before it has a second thread.
pub fn unshare_user() -> io::Result<()> {
    // SAFETY: `unshare(flags)` takes a plain number; it fails where the process has other threads.
    let done = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts the calling thread into a network namespace.
pub fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `setns(fd, nstype)` takes plain numbers and changes only the calling thread; `namespace` is open for the call.
    let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Starts a command in a network namespace. `namespace` must stay open until it is started.
pub fn start_in_network(command: &mut Command, namespace: BorrowedFd<'_>) {
    let fd = namespace.as_raw_fd();
    let enter = move || {
        // SAFETY: `setns` as above; the child has its parent's descriptors until it executes another program.
        let done = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure runs between fork and exec; it makes one async-signal-safe system call, allocates nothing and
    // takes no lock. Nothing safe sets this attribute of a child.
    unsafe { command.pre_exec(enter) };
}

/// Leaves these descriptors open in the program that `command` starts, under the same numbers.
pub fn inherit(command: &mut Command, fds: Vec<RawFd>) {
    let keep = move || {
        for &fd in &fds {
            // SAFETY: `fcntl(fd, F_SETFD, 0)` takes plain numbers, and touches only the child's table.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec; it makes async-signal-safe system calls only, allocates nothing and
    // takes no lock (the list was made before). Nothing safe sets this attribute of a child.
    unsafe { command.pre_exec(keep) };
}

/// A copy of a descriptor that this program was started with, which it knows as a number only.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fcntl(fd, F_DUPFD_CLOEXEC, least)` takes plain numbers and gives a new descriptor or -1, whatever `fd` is.
    owned(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// An interface request with this name (`struct ifreq`).
fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid ifreq: plain numbers and arrays.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

/// Flags as an interface request has them.
fn interface_flags(flags: i32) -> libc::c_short {
    libc::c_short::try_from(flags).expect("the kernel has 15 of them")
}

/// A TUN interface of the calling thread's network namespace: IP packets come out of the descriptor and go into it. It is
/// gone when the descriptor is closed. Reads and writes do not block.
pub fn open_tun(name: &str) -> io::Result<OwnedFd> {
    let options = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = interface_flags(libc::IFF_TUN | libc::IFF_NO_PI);
    // SAFETY: TUNSETIFF reads and writes one ifreq, which is valid and outlives the call.
    let done = unsafe { libc::ioctl(options.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done == 0 { Ok(options.into()) } else { Err(io::Error::last_os_error()) }
}

/// Takes an interface down or up, in the network namespace in which `socket` was made.
pub fn set_link(socket: BorrowedFd<'_>, name: &str, up: bool) -> io::Result<()> {
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq, which is valid and outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let bit = interface_flags(libc::IFF_UP);
    request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which is valid and outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until one of these is readable or the time is over; a signal ends it too.
pub fn wait_readable(fds: &[BorrowedFd<'_>], wait: Duration) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    };
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `polled` has `count` valid entries, exclusively borrowed; `time` outlives the call; no signal mask.
    let done = unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const time, ptr::null()) };
    if done >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// Whether a descriptor is readable now or becomes so within `wait`; a signal ends the wait.
pub fn is_readable(fd: BorrowedFd<'_>, wait: Duration) -> io::Result<bool> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let wait = libc::c_int::try_from(wait.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `polled` is one valid, exclusively borrowed entry that outlives the call.
    let ready = unsafe { libc::poll(&raw mut polled, 1, wait) };
    match ready {
        0 => Ok(false),
        1.. => Ok(true),
        _ => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) }
        }
    }
}

/// Binds the process that `command` starts, and all that it starts, to one core.
pub fn run_on(command: &mut Command, core: usize) {
    // SAFETY: all-zero bytes are a valid cpu_set_t: an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let core = core.min(libc::CPU_SETSIZE.unsigned_abs() as usize - 1);
    // SAFETY: `core` lies within the set, which is valid and exclusively borrowed.
    unsafe { libc::CPU_SET(core, &mut set) };
    let bind = move || {
        // SAFETY: `set` is valid for its size and outlives the call; 0 is the calling thread.
        let done =
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure runs between fork and exec; it makes one async-signal-safe system call, allocates nothing and
    // takes no lock. Nothing safe sets this attribute of a child.
    unsafe { command.pre_exec(bind) };
}

/// Processor time in nanoseconds that a process has used: all its threads, those that ended included, not its children.
pub fn process_cpu_ns(process: u32) -> io::Result<u64> {
    let process = libc::pid_t::try_from(process).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is valid, exclusively borrowed, and outlives the call.
    let error = unsafe { libc::clock_getcpuclockid(process, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, exclusively borrowed timespec that outlives the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

/// The size of an option or address of the socket calls.
fn socket_length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a few bytes")
}

/// A socket for whole Ethernet frames of one protocol at one interface of the calling thread's network. Its receive buffer
/// holds `buffer_bytes` where this process may go beyond the system's limit.
pub fn open_packets(interface: &str, protocol: u16, buffer_bytes: i32) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `name` is a valid C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let wire = protocol.to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `socket` takes plain numbers and gives a new descriptor or -1.
    let socket = owned(unsafe { libc::socket(libc::AF_PACKET, kind, wire.into()) }.into())?;
    // SAFETY: all-zero bytes are a valid sockaddr_ll: plain numbers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("the kernel has few families");
    address.sll_protocol = wire;
    address.sll_ifindex = index.cast_signed();
    let bytes = socket_length::<libc::sockaddr_ll>();
    // SAFETY: `address` is a valid sockaddr_ll of `bytes` bytes that outlives the call.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = socket_length::<i32>();
    let (fd, level) = (socket.as_raw_fd(), libc::SOL_SOCKET);
    let value = (&raw const buffer_bytes).cast();
    // SAFETY: the value is an int that outlives the call, and `bytes` is its size.
    if unsafe { libc::setsockopt(fd, level, libc::SO_RCVBUFFORCE, value, bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
