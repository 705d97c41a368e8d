//! What hostile peers take of a broker that is a process of its own: memory at its peak, descriptors, lines in its log.

mod common;
#[path = "common/process.rs"]
mod process;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::bystander::beside;
use common::*;
use process::Running;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// A broker for everybody on this machine.
struct Own {
    running: Running,
    address: SocketAddr,
    /// Memory before anything happened.
    resident_bytes: u64,
}

impl Own {
    /// With more flags.
    fn start(flags: &[&str]) -> Own {
        let mut command = process::staunch(&["serve", "--dev", "--listen", "tcp:127.0.0.1:0"]);
        command.args(flags);
        Own::of(command)
    }

    fn of(command: Command) -> Own {
        let running = Running::start(command);
        let line = running.logged("open on tcp:");
        let address = line.rsplit_once("tcp:").unwrap().1.trim().parse().unwrap();
        // Once somebody has been served, what is there once is there.
        Client::tcp(address).resolved().sync();
        let mut own = Own { running, address, resident_bytes: 0 };
        own.resident_bytes = own.memory("VmRSS");
        own
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.running.child)
    }

    /// A line of `/proc/PID/status`, in bytes.
    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() << 10
    }

    /// Checks that it has never taken more than so many bytes beyond those of the start.
    fn check_peak(&self, what: &str, bytes_max: u64) {
        let more = self.memory("VmHWM") - self.resident_bytes;
        println!("{what}: {} KiB at its peak", more >> 10);
        assert!(more < bytes_max, "{what}: {more} bytes");
    }

    /// What it has taken so far, user and system together.
    fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.running.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        // Fields 14 and 15 of proc(5), in ticks of 10 ms.
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }

    fn descriptors(&self) -> usize {
        // Looking at very many takes the kernel a while: not over and over.
        std::thread::sleep(Duration::from_millis(5));
        self.each_descriptor().count()
    }

    fn each_descriptor(&self) -> impl Iterator<Item = u64> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.running.child.id())).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
    }

    /// Sets the soft limit of descriptors of the running process.
    fn limit_descriptors(&self, count: u64) {
        let before = prlimit(
            Some(self.pid()),
            Resource::Nofile,
            Rlimit { current: Some(count), maximum: hard_limit() },
        );
        before.unwrap();
    }
}

/// The hard limit of descriptors, of this process and of those that it starts.
fn hard_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nofile).maximum
}

/// Sends `head`, and then `more` over and over, up to so many bytes in all or until the broker ends the connection.
/// Returns how many, and what the broker said, which is read at the same time.
fn pour(address: SocketAddr, is_resolved: bool, head: &[u8], more: &[u8], bytes_max: u64) -> (u64, String) {
    let mut client = Client::tcp(address);
    if is_resolved {
        client = client.resolved();
    }
    let mut stream = client.into_tcp();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut listener = stream.try_clone().unwrap();
    let listening = std::thread::spawn(move || {
        let mut said = Vec::new();
        // A reset ends it, too.
        let _ = listener.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let chunk = more.repeat((1 << 20) / more.len());
    let mut sent = 0;
    let mut piece = head;
    while sent < bytes_max && stream.write_all(piece).is_ok() {
        sent += piece.len() as u64;
        piece = &chunk;
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    (sent, listening.join().unwrap())
}

/// Packets, strings and parts of packets without an end: told so at 16 MiB, or at as many tokens as may be, at the latest.
#[test]
fn packets_without_an_end() {
    // For each worker: a packet of 16 MiB in a buffer that doubles, and its tokens, 8 bytes each, likewise.
    const PEAK_MAX: u64 = 320 << 20;
    let own = Own::start(&[]);
    beside(own.address, || {
        let string = [&b"\xb1\xa0\x8d\x06"[..], &[b'x'; 100_000]].concat();
        let cases: [(&str, &[u8], &[u8]); 12] = [
            ("integers", b"\xb5", b"\xb0\x01\x05"),
            ("booleans", b"\xb5", b"\x80"),
            ("empty strings", b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb5", b"\xb1\x00"),
            ("empty records", b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01A\xb5", b"\xb4\x80\x84"),
            ("events", b"\xb5", b"\xb5\xb0\x01\x01\xb4\xb3\x01M\x80\x84\x84"),
            ("strings", b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb5", &string),
            ("an extension", b"\xb4\xb3\x03ext", b"\xb0\x01\x05"),
            ("integers in text", b"[", b"1 "),
            ("a string in text", b"[\"", b"abc"),
            ("a symbol in text", b"[", b"abc"),
            ("a hexadecimal string in text", b"[#x\"", b"00"),
            ("events in text", b"[", b"[1 <M #f>]"),
        ];
        for (what, head, more) in cases {
            for is_resolved in [false, true] {
                let (sent, said) = pour(own.address, is_resolved, head, more, 1 << 30);
                let expected = ["longer than", "tokens"];
                assert!(expected.iter().any(|words| said.contains(words)), "{what}: {sent} bytes, {said}");
                own.check_peak(what, PEAK_MAX);
            }
        }
        // These never become a packet that is too long: they go on as long as the peer likes, and are not held.
        for (what, head, more) in [
            ("Nops", &b"\x80"[..], &b"\x80"[..]),
            ("empty turns", b"\xb5\x84", b"\xb5\x84"),
            ("blanks in text", b"[]", b" \n\t"),
            ("a comment in text", b"[# ", b"abc"),
            ("comments in text", b"[]\n", b"# abc\n"),
        ] {
            let (sent, said) = pour(own.address, true, head, more, 64 << 20);
            assert!(sent >= 64 << 20 && said.is_empty(), "{what}: {sent} bytes, {said}");
            own.check_peak(what, PEAK_MAX);
        }
    });
}

#[test]
fn a_body_of_two_gigabytes() {
    let own = Own::start(&[]);
    beside(own.address, || {
        // Declared as such: refused at its head. In text nobody can know.
        let declared = b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb2\x80\x80\x80\x80\x08";
        for (what, is_resolved, head) in [("binary", false, &declared[..]), ("text", true, b"[[1 <M \"")] {
            let (sent, said) = pour(own.address, is_resolved, head, b"x", 2 << 30);
            assert!(said.contains("longer than"), "{what}: {sent} bytes, {said}");
            println!("{what}: {sent} bytes could be sent");
            own.check_peak(what, 96 << 20);
        }
    });
}

/// Many that observe and do not read, and many who send to them: what waits is bounded, and others go on.
#[test]
fn consumers_that_never_read() {
    const PRODUCERS: usize = 8;
    // Eight producers may owe 2 MiB each, and a turn; the rest is in the kernel.
    const PEAK_MAX: u64 = 128 << 20;
    let own = Own::start(&[]);
    beside(own.address, || {
        let consumers: Vec<Client> = (0..50)
            .map(|n| {
                let mut consumer = Client::narrow(own.address).resolved();
                let fields = 1 + n % 3;
                consumer.send(&format!("[{}]", observe(&record_pattern("m", fields), 7, 2)));
                consumer.sync();
                consumer
            })
            .collect();
        let body = "x".repeat(2000);
        let message = bytes(&format!("[[1 <M <m 1 \"{body}\" 3>>]]")).repeat(100);
        let mut producers: Vec<Client> =
            (0..PRODUCERS).map(|_| Client::tcp(own.address).resolved()).collect();
        // As much as they can get rid of, until nothing has moved for a second.
        let mut rests = vec![&message[..0]; PRODUCERS];
        let (mut sent, mut since) = (0, Instant::now());
        while since.elapsed() < Duration::from_secs(1) {
            for (producer, rest) in producers.iter_mut().zip(&mut rests) {
                if rest.is_empty() {
                    *rest = &message;
                }
                let taken = producer.send_some(rest);
                *rest = &rest[taken..];
                if taken > 0 {
                    (sent, since) = (sent + taken, Instant::now());
                }
            }
        }
        println!("{sent} bytes were taken");
        assert!(sent > PRODUCERS << 20, "they were held back by what they owe");
        own.check_peak("consumers that never read", PEAK_MAX);
        drop((consumers, producers));
    });
}

/// Connections that never say a word.
#[test]
fn ten_thousand_silent_connections() {
    const SILENT: usize = 10_000;
    let own_limit = staunch_system::limits::raise_open_files().unwrap();
    // The broker keeps a quarter of its descriptors from each principal, and an eighth, up to 1024, from all.
    let needed = 4 * (SILENT as u64 + 10) / 3 + 1024;
    if own_limit < needed {
        eprintln!(
            "SKIPPED: ten_thousand_silent_connections: it takes {needed} descriptors (`ulimit -Hn`), not {own_limit}"
        );
        assert!(std::env::var_os("STAUNCH_TEST_REQUIRE_ALL").is_none_or(|v| v != "1"), "none may be skipped");
        return;
    }
    let own = Own::start(&[]);
    let before = own.descriptors();
    beside(own.address, || {
        let with_pair = own.descriptors();
        let mut silent = Vec::new();
        for n in 0..SILENT {
            silent.push(TcpStream::connect(own.address).unwrap());
            // So that the listener's backlog does not overflow.
            if n % 1000 == 999 {
                until("they are accepted", || own.descriptors() >= with_pair + silent.len());
            }
        }
        // A new one is served as before.
        let mut client = Client::tcp(own.address).resolved();
        assert_eq!(client.sync(), []);
        own.check_peak("10,000 silent connections", SILENT as u64 * 8192);
        let spent = own.processor_time();
        std::thread::sleep(Duration::from_secs(1));
        println!(
            "with them, and the innocent, {:?} of processor time in a second",
            own.processor_time() - spent
        );
        drop(silent);
        until("all have gone", || own.descriptors() <= with_pair + 1);
    });
    until("the innocent have gone", || own.descriptors() <= before);
}

/// Descriptors run out: who is there goes on, who comes waits, and is served when there are descriptors again. The log
/// has a line for that, and not one for each who comes.
#[test]
fn descriptors_run_out() {
    const MORE: usize = 200;
    let own = Own::start(&[]);
    beside(own.address, || {
        let mut there: Vec<Client> = (0..8).map(|_| Client::tcp(own.address).resolved()).collect();
        let used: Vec<u64> = own.each_descriptor().collect();
        // The first number that is free: there may be others beyond.
        own.limit_descriptors((0..).find(|number| !used.contains(number)).unwrap());
        let mut waiting: Vec<Client> = (0..MORE).map(|_| Client::tcp(own.address)).collect();
        let asked = bytes(common::text::RESOLVE);
        waiting.iter_mut().for_each(|client| client.send_bytes(&asked));
        own.running.logged("cannot accept");
        // It is tried again, and others come, for a while.
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(500));
            waiting.push(Client::tcp(own.address));
            waiting.last_mut().unwrap().send_bytes(&asked);
            there.iter_mut().for_each(|client| _ = client.sync());
        }
        assert_eq!(own.running.logged_so_far(), [""; 0], "one line is enough");
        let mut served = 0;
        let mut look = || {
            let answered = |client: &mut &mut Client| client.next_within(Duration::ZERO) != Came::Nothing;
            served += waiting.iter_mut().filter_map(|mut client| answered(&mut client).then_some(())).count();
            served
        };
        assert_eq!(look(), 0);
        // As many as go are let in.
        let free = there.len();
        drop(there);
        until("some have been let in", || look() >= free);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(look(), free);
        // There are enough for all.
        own.limit_descriptors(hard_limit().unwrap());
        until("all have been let in", || look() == MORE + 6);
        waiting.iter_mut().for_each(|client| _ = client.sync());
        own.running.logged("accepts connections again");
        assert_eq!(own.running.logged_so_far(), [""; 0]);
    });
}
