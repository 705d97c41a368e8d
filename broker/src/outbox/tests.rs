use staunch_flowctl::{Ledger, Limits};
use staunch_protocols::{text as syntax, wire};

use super::*;

/// A write fails with a piece half written and others behind it: whoever flushes next finds nothing, and all is repaid.
#[test]
fn a_failed_write_leaves_nothing_behind() {
    let ledger = Ledger::default();
    let account = ledger.open_account(&ledger.principal("p"), "a", Limits::unlimited());
    let (ours, theirs) = Stream::pair().unwrap();
    let outbox = Outbox::new(64 << 20, Slow::Throttle);
    let (mut pool, mut repayments, mut counts) =
        (Pool::default(), Repayments::default(), CallCounts::default());
    let mut pieces = vec![Segment::Inline(vec![0x80; 4 << 20])];
    pieces.extend((0..20).map(|_| Segment::Inline(vec![0x80; 10])));
    let bytes: u64 = pieces.iter().map(|piece| piece.bytes().len() as u64).sum();
    account.charge(bytes);
    outbox.append(&mut pieces, &mut Vec::new(), &account, bytes, &mut pool);
    let blocked = outbox.flush(&ours, &mut pool, &mut repayments, &mut counts);
    assert!(matches!(blocked, Flushed::Blocked { .. }), "the kernel does not take so much");
    drop(theirs);
    assert!(outbox.writable());
    let failed = outbox.flush(&ours, &mut pool, &mut repayments, &mut counts);
    assert!(matches!(failed, Flushed::Failed));
    // Before the session closes it, others may append and flush.
    account.charge(5);
    let mut more = vec![0x80; 5];
    assert!(!outbox.append(&mut Vec::new(), &mut more, &account, 5, &mut pool).can_flush);
    assert!(matches!(outbox.flush(&ours, &mut pool, &mut repayments, &mut counts), Flushed::Done));
    repayments.repay_all();
    assert_eq!(account.debt(), 0);
}

/// An outbox, the ends of its stream, and whoever pays.
struct Scene {
    outbox: Outbox,
    ours: Stream,
    theirs: Stream,
    account: Arc<Account>,
    pool: Pool,
    repayments: Repayments,
}

impl Scene {
    fn new() -> Scene {
        let ledger = Ledger::default();
        let account = ledger.open_account(&ledger.principal("p"), "a", Limits::unlimited());
        let (ours, theirs) = Stream::pair().unwrap();
        let (pool, repayments) = (Pool::default(), Repayments::default());
        Scene { outbox: Outbox::new(64 << 20, Slow::Throttle), ours, theirs, account, pool, repayments }
    }

    /// Appends packets given as text.
    fn append(&mut self, packets: &str) {
        let mut bytes = binary(packets);
        let cost = bytes.len() as u64;
        self.account.charge(cost);
        self.outbox.append(&mut Vec::new(), &mut bytes, &self.account, cost, &mut self.pool);
    }

    fn flush(&mut self) -> Flushed {
        let mut counts = CallCounts::default();
        let flushed = self.outbox.flush(&self.ours, &mut self.pool, &mut self.repayments, &mut counts);
        self.repayments.repay_all();
        flushed
    }

    /// What comes out up to the end.
    fn drain(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            while let Ok(read @ 1..) = self.theirs.read(&mut chunk) {
                got.extend_from_slice(&chunk[..read]);
            }
            self.outbox.writable();
            if matches!(self.flush(), Flushed::Said | Flushed::Done) && self.outbox.has_ended() {
                while let Ok(read @ 1..) = self.theirs.read(&mut chunk) {
                    got.extend_from_slice(&chunk[..read]);
                }
                return got;
            }
        }
    }
}

fn binary(packets: &str) -> Vec<u8> {
    let all = syntax::parse_all(packets, &wire::Limits::default()).unwrap();
    all[1..all.len() - 1].to_vec()
}

/// The end comes while a packet is under way, in one syntax or the other, or right after the change.
#[test]
fn the_packet_under_way_goes_out_whole() {
    let long = format!("[[1 <M \"{}\">]]", "x".repeat(4 << 20));
    for (before, after) in [(false, false), (true, true), (false, true), (true, false)] {
        let mut scene = Scene::new();
        scene.outbox.speak(before);
        scene.append("[[1 <M a>]]");
        scene.append(&long);
        scene.append("[[1 <M dropped>]]");
        // The kernel does not take so much.
        while !matches!(scene.flush(), Flushed::Blocked { .. }) {}
        scene.outbox.speak(after);
        scene.outbox.wind_up(binary("<error \"bye\" #f>"), &scene.account.clone());
        let expected: Vec<u8> = [("[[1 <M a>]]", before), (&long, before), ("<error \"bye\" #f>", after)]
            .iter()
            .flat_map(|(packet, is_text)| match is_text {
                true => packet.replace("1 <", "1, <").into_bytes().into_iter().chain(*b"\n").collect(),
                false => binary(packet),
            })
            .collect();
        assert!(scene.drain() == expected, "{before} {after}");
        assert_eq!(scene.account.debt(), 0);
    }
}

/// Debts are repaid as the kernel takes the text of whole packets, and all when the write fails.
#[test]
fn text_repays_packet_by_packet() {
    let mut scene = Scene::new();
    scene.outbox.speak(true);
    let packet = format!("[[1 <M \"{}\">]]", "\\u0001".repeat(100_000));
    let cost = binary(&packet).len() as u64;
    (0..10).for_each(|_| scene.append(&packet));
    while !matches!(scene.flush(), Flushed::Blocked { .. }) {}
    let mut seen = 0;
    let mut chunk = vec![0; 10_000];
    while seen < packet.len() * 5 {
        seen += scene.theirs.read(&mut chunk).unwrap();
        scene.outbox.writable();
        scene.flush();
        let debt = scene.account.debt();
        assert!(debt.is_multiple_of(cost) && debt <= cost * 10);
    }
    assert!(scene.account.debt() <= cost * 5);
    let Scene { outbox, ours, theirs, account, mut pool, mut repayments } = scene;
    drop(theirs);
    outbox.writable();
    let flushed = outbox.flush(&ours, &mut pool, &mut repayments, &mut CallCounts::default());
    assert!(matches!(flushed, Flushed::Failed));
    repayments.repay_all();
    assert_eq!(account.debt(), 0);
}

/// However often something is appended, one is told to flush: pieces of wide fan-outs wait in a queue meanwhile, and would
/// become more and more.
#[test]
fn one_is_told_to_flush() {
    let mut scene = Scene::new();
    let appended = |scene: &mut Scene| {
        let mut bytes = vec![0x80; 10];
        scene.account.charge(10);
        scene.outbox.append(&mut Vec::new(), &mut bytes, &scene.account, 10, &mut scene.pool).can_flush
    };
    for _ in 0..3 {
        assert!(appended(&mut scene));
        assert!((0..10).all(|_| !appended(&mut scene)));
        assert!(matches!(scene.flush(), Flushed::Done));
    }
}
