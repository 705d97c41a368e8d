//! How much a second worker helps: one producer to many consumers, alone and beside many quiet pairs.
//!
//! `workers fan-out | skewed [ROUNDS] [CONSUMERS]`. The broker runs in this process, over Unix sockets. What the load costs
//! is left out of the time: a burst is written into the sockets at once, consumers read only when the broker has written
//! all of it (their sockets hold it so long), and the clock stops when the broker's last debt is repaid, that is, when the
//! kernel has all bytes. Bursts with one worker and with two take turns.
//!
//! What must not be read into it: rates of a stream. Each burst starts with idle workers and ends with idle workers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use staunch::server::{Address, Config, Server};
use staunch_protocols::text;
use staunch_protocols::wire::Limits;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages of a burst to the many: their bytes fit into a consumer's socket.
const HOT_MESSAGES: usize = 1000;
/// Pairs beside them, and messages of each in a burst.
const COLD_PAIRS: usize = 200;
const COLD_MESSAGES: usize = 300;
/// Bursts in a round, the first of which is not counted.
const BURSTS: usize = 12;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cold_pairs = match args.first().map(String::as_str) {
        Some("fan-out") => 0,
        Some("skewed") => COLD_PAIRS,
        _ => {
            eprintln!("usage: workers fan-out|skewed [ROUNDS] [CONSUMERS]");
            return ExitCode::from(2);
        }
    };
    let number = |at: usize, default| args.get(at).map_or(Ok(default), |text| text.parse());
    let (Ok(rounds), Ok(consumers)) = (number(1, 5), number(2, 1000)) else {
        eprintln!("workers: not a number");
        return ExitCode::from(2);
    };
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let [one, two] = [1, 2].map(|workers| Load::open(workers, consumers, cold_pairs).measure());
        println!("round {round}: {one}");
        println!("round {round}: {two}");
        ratios.push(one.seconds / two.seconds);
    }
    ratios.sort_by(f64::total_cmp);
    let list: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    println!("2 workers against 1, by time: {}", list.join(" "));
    ExitCode::SUCCESS
}

/// A broker, the hot producer and its consumers, and the pairs beside them.
struct Load {
    server: Server,
    workers: usize,
    hot: UnixStream,
    consumers: Vec<UnixStream>,
    cold: Vec<(UnixStream, UnixStream)>,
    _folder: Folder,
}

/// A folder for the socket, removed in the end.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What bursts came to.
struct Measured {
    workers: usize,
    deliveries: u64,
    seconds: f64,
    cpu_seconds: f64,
    steals: u64,
    units: Vec<u64>,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per = |seconds: f64| seconds * 1e9 / self.deliveries as f64;
        write!(
            f,
            "{} worker(s): {:.1} ns per delivery, {:.1} ns of processor; {} steals, units run by each worker {:?}",
            self.workers,
            per(self.seconds),
            per(self.cpu_seconds),
            self.steals,
            self.units
        )
    }
}

impl Load {
    fn open(workers: usize, consumers: usize, cold_pairs: usize) -> Load {
        let folder = std::env::temp_dir().join(format!("staunch-workers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the socket");
        let path = folder.join("socket");
        let listen = vec![Address::Unix(path.clone()).into()];
        let config = Config { listen, workers, debt_max: 1 << 40, ..Config::default() };
        let server = Server::start_dev(&config).expect("a broker");
        let consumers = (0..consumers).map(|_| consumer(&path, "hot")).collect();
        let pair = |n| (producer(&path), consumer(&path, &format!("cold{n}")));
        let cold = (0..cold_pairs).map(pair).collect();
        Load { server, workers, hot: producer(&path), consumers, cold, _folder: Folder(folder) }
    }

    fn measure(mut self) -> Measured {
        let hot = messages("hot", HOT_MESSAGES);
        let cold: Vec<Vec<u8>> =
            (0..self.cold.len()).map(|n| messages(&format!("cold{n}"), COLD_MESSAGES)).collect();
        let of_burst = (HOT_MESSAGES * self.consumers.len() + COLD_MESSAGES * self.cold.len()) as u64;
        let base = self.deliveries();
        let (mut seconds, mut cpu_seconds) = (0.0, 0.0);
        let mut before = self.server.scheduler_metrics();
        for burst in 0..BURSTS {
            if burst == 1 {
                before = self.server.scheduler_metrics();
                (seconds, cpu_seconds) = (0.0, 0.0);
            }
            let (start, cpu) = (Instant::now(), cpu_time());
            self.hot.write_all(&hot).expect("written");
            for ((producer, _), bytes) in self.cold.iter_mut().zip(&cold) {
                producer.write_all(bytes).expect("written");
            }
            let expected = base + of_burst * (burst as u64 + 1);
            while self.deliveries() < expected || self.server.total_debt() > 0 {
                std::thread::sleep(Duration::from_micros(200));
                assert!(start.elapsed() < Duration::from_secs(30), "a consumer's socket is too small");
            }
            seconds += start.elapsed().as_secs_f64();
            cpu_seconds += cpu_time() - cpu;
            let cold = self.cold.iter_mut().map(|(_, consumer)| consumer);
            self.consumers.iter_mut().chain(cold).for_each(drain);
        }
        let after = self.server.scheduler_metrics();
        let units = after.workers.iter().zip(&before.workers);
        Measured {
            workers: self.workers,
            deliveries: of_burst * (BURSTS as u64 - 1),
            seconds,
            cpu_seconds,
            steals: after.total().steals - before.total().steals,
            units: units.map(|(a, b)| a.tasks_run + a.jobs_run - b.tasks_run - b.jobs_run).collect(),
        }
    }

    fn deliveries(&self) -> u64 {
        self.server.counts().iter().find(|(name, _)| *name == "deliveries").expect("counted").1
    }
}

/// The processor time of this process, in seconds.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The bytes of packets given as text.
fn bytes(packets: &str) -> Vec<u8> {
    let all = text::parse_all(packets, &Limits::default()).expect("well-formed");
    // It comes as a sequence of packets, in brackets.
    all[1..all.len() - 1].to_vec()
}

/// Messages of 64 bytes of payload.
fn messages(name: &str, count: usize) -> Vec<u8> {
    bytes(&format!("[[1 <M <Says \"{name}\" #x\"{}\">>]]", "5a".repeat(64))).repeat(count)
}

/// Connects, and waits until the broker has handled `packets`.
fn client(path: &Path, packets: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).expect("connected");
    let resolve =
        r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#;
    stream.write_all(&bytes(&format!("{resolve} {packets} [[1 <S #:[0 9]>]]"))).expect("written");
    let answer = bytes("[[9 <M #t>]]");
    let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
    while !got.ends_with(&answer) {
        let read = stream.read(&mut chunk).expect("an answer");
        assert!(read > 0, "the broker ended the connection");
        got.extend_from_slice(&chunk[..read]);
    }
    stream
}

fn producer(path: &Path) -> UnixStream {
    client(path, "")
}

fn consumer(path: &Path, name: &str) -> UnixStream {
    let pattern = format!("<group <rec Says> {{0: <lit \"{name}\"> 1: <bind <_>>}}>");
    client(path, &format!("[[1 <A <Observe {pattern} #:[0 7]> 2>]]"))
}

/// Reads what is there.
fn drain(stream: &mut UnixStream) {
    let mut buffer = [0; 64 << 10];
    stream.set_nonblocking(true).expect("a socket");
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
    stream.set_nonblocking(false).expect("a socket");
}
