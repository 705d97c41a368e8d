//! The wire: what it costs to scan a packet, per kind of packet.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use staunch_protocols::wire::{Limits, Prefix, Progress, Scanner};

/// `[[1 <M <Says "producer" #x"...">>]]` with so many bytes in it.
fn says(payload: usize) -> Vec<u8> {
    let mut packet = b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb4\xb3\x04Says\xb1\x08producer\xb2".to_vec();
    let mut length = payload;
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.resize(packet.len() + payload, 0x5a);
    packet.extend_from_slice(&[0x84; 4]);
    packet
}

/// Length of `[[1 <M `.
const HEAD: usize = 9;

fn scan_all(scanner: &mut Scanner, bytes: &[u8], prefix: Option<&Prefix>) -> u32 {
    let (mut done, mut tokens) = (0, 0);
    while done < bytes.len() {
        scanner.reset();
        if let Some(prefix) = prefix {
            scanner.begin(prefix, &bytes[done..]);
        }
        let Ok(Progress::Complete(length)) = scanner.scan(&bytes[done..]) else { panic!("a whole packet") };
        tokens += scanner.tape().tokens();
        done += length;
    }
    tokens
}

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    for payload in [64, 1024, 65536] {
        let packet = says(payload);
        let many = packet.repeat(1000);
        let prefix = Prefix::new(&packet[..HEAD], Limits::default());
        let mut scanner = Scanner::new(Limits::default());
        group.throughput(Throughput::Elements(1000));
        group.bench_function(format!("message/{payload}"), |b| {
            b.iter(|| scan_all(&mut scanner, black_box(&many), None));
        });
        group.bench_function(format!("message after a known prefix/{payload}"), |b| {
            b.iter(|| scan_all(&mut scanner, black_box(&many), prefix.as_ref()));
        });
    }
    // An ordinary dictionary, which must be checked for order.
    let mut packet = vec![0xb7];
    for key in 0..16u8 {
        packet.extend_from_slice(&[0xb0, 1, key, 0xb1, 3, b'a', b'b', b'c']);
    }
    packet.push(0x84);
    let many = packet.repeat(1000);
    let mut scanner = Scanner::new(Limits::default());
    group.bench_function("dictionary of 16", |b| b.iter(|| scan_all(&mut scanner, black_box(&many), None)));
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
